"""The job of RQ's own worker: one wake-up, one attempt. Any other job is rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django_rq.queues import DjangoRQ
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from messages_app.domain.records import LOSSES_BEFORE_ALONE, State
from messages_app.envelope import ALONE, LANES

#: The only functions that a job may call. Otherwise write access to Redis would allow calls of any function.
ALLOWED = frozenset({"messages_app.jobs.process"})
#: The only fields of a stored job that are read: no callbacks, webhooks, retries, repeats or dependencies.
_FIELDS = frozenset(
    {
        "created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat", "origin", "description", "status",
        "timeout", "result_ttl", "failure_ttl", "worker_name",
    }
)  # fmt: skip
_DATA_LIMIT = 1024


class JobRefused(DeserializationError):
    """The job calls a function that is not allowed."""


#: The id of a wake-up: message, epoch, attempt, number.
_WAKE_UP = re.compile(r"m-([A-Za-z0-9_-]{1,64})-(\d{1,15})-(\d{1,15})-(\d{1,15})")
#: What is read of a message: first the same numbers.
_OF_MESSAGE = ("epoch", "attempt", "wakes", "priority", "recoveries", "wakeAt", "queuedAt")


class WakeUpJob(Job):
    """A job that is always JSON, runs only the allowed function, and has no callbacks.

    A wake-up that no worker of RQ has run is stored as its id alone. The other fields follow from it and its message.
    """

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:
        super().__init__(id, connection, JSONSerializer)

    def restore(self, raw_data: Mapping[bytes | str, bytes]) -> Any:
        """Read a stored job. Data that is not our plain JSON becomes a job that fails when it runs.

        It must not fail here: RQ's worker would end, and its replacement, too.
        """
        stored = {key.decode() if isinstance(key, bytes) else key: value for key, value in raw_data.items()}
        if "data" not in stored:  # RQ has written only what changed
            stored = {**self._of_id(), **stored}
        kept = {key: value for key, value in stored.items() if key in _FIELDS}
        data = stored.get("data", b"")
        # Never decompressed: a few bytes could expand to any amount of memory.
        plain = isinstance(data, bytes) and data.startswith(b"[") and len(data) <= _DATA_LIMIT
        kept["data"] = data if plain else b"null"
        return super().restore({key.encode(): value for key, value in kept.items()})

    def refresh(self) -> None:
        """Read the job. Raises ``NoSuchJobError`` if it is neither stored nor the wake-up of a waiting message."""
        found: Any = self.connection.hgetall(self.key) or self._of_id(only_waiting=True)
        if not found:
            raise NoSuchJobError(f"No such job: {self.key}")
        self.restore(found)

    def get_status(self, refresh: bool = True) -> JobStatus:
        try:
            return super().get_status(refresh)
        except InvalidJobOperation:
            if not self._of_id(only_waiting=True):
                raise
            return JobStatus.QUEUED

    @classmethod
    def fetch_many(cls, job_ids: Iterable[str], connection: Any, serializer: Any = None) -> list[Job | None]:
        """The jobs, in order; None for those that do not exist."""
        jobs: list[Job | None] = []
        for job_id in job_ids:
            try:
                jobs.append(cls.fetch(job_id, connection=connection, serializer=serializer))
            except NoSuchJobError:
                jobs.append(None)
        return jobs

    @classmethod
    def exists(cls, job_id: str, connection: Any) -> bool:
        return bool(super().exists(job_id, connection) or cls(job_id, connection)._of_id(only_waiting=True))

    def _of_id(self, *, only_waiting: bool = False) -> dict[str, bytes]:
        """The stored form of a wake-up, by its id; empty for other jobs.

        ``only_waiting``: empty also unless its message waits for this very wake-up.
        """
        wake_up = _WAKE_UP.fullmatch(self.id)
        if wake_up is None:
            return {}
        message_id, *numbers = wake_up.groups()
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.hmget(f"{settings.REDIS_PREFIX}msg:{message_id}", "state", *_OF_MESSAGE)
            (found,) = pipeline.execute(raise_on_error=False)  # a record of another kind must not end RQ's worker
        if isinstance(found, Exception):
            return {}
        state, *record = ((value or b"").decode(errors="replace") for value in found)
        if only_waiting and (state != State.QUEUED or record[:3] != numbers):
            return {}
        priority, recoveries, *moments = record[3:]
        lane = ALONE if recoveries.isdigit() and int(recoveries) >= LOSSES_BEFORE_ALONE else priority
        # A wake-up at the front of its lane has no time of its own.
        at = max((int(moment) for moment in moments if moment.isdigit() and len(moment) < 15), default=0)
        pushed = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
        return {
            "data": json.dumps(
                ["messages_app.jobs.process", None, [message_id, int(numbers[0]), int(numbers[1])], {}]
            ).encode(),
            "created_at": pushed,
            "enqueued_at": pushed,
            "origin": (lane if lane in (*LANES, ALONE) else LANES[1]).encode(),
            "status": b"queued",
            "description": message_id.encode(),
            "timeout": b"3600",
            "result_ttl": b"60",
        }

    def _deserialize_data(self) -> None:
        super()._deserialize_data()
        if self._func_name not in ALLOWED or self._instance is not None:
            raise JobRefused(f"the function is not allowed; allowed: {', '.join(sorted(ALLOWED))}")

    @property
    def func(self) -> Callable[..., Any]:
        if self.func_name not in ALLOWED or self.instance is not None:
            raise JobRefused(f"the function is not allowed; allowed: {', '.join(sorted(ALLOWED))}")
        return process

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None


class WakeUpQueue(DjangoRQ):
    """A lane, as RQ's pages read it. A queue of RQ's own removes jobs that it does not find."""

    job_class = WakeUpJob


def process(message_id: str, epoch: int, attempt: int) -> str:
    """Run the attempt of a wake-up, unless it is outdated; return the outcome's name.

    Expected results (done, failed, rejected, taken by another worker) are values, not exceptions.
    """
    from messages_app import services

    return services.process(message_id, epoch, attempt)
