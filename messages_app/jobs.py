"""The job of RQ's own worker: one wake-up, one attempt. Any other job is rejected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rq.exceptions import DeserializationError
from rq.job import Job
from rq.serializers import JSONSerializer

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


class WakeUpJob(Job):
    """A job that is always JSON, runs only the allowed function, and has no callbacks."""

    def __init__(self, id: str | None = None, connection: Any = None, serializer: Any = None) -> None:
        super().__init__(id, connection, JSONSerializer)

    def restore(self, raw_data: Mapping[bytes | str, bytes]) -> Any:
        """Read a stored job. Data that is not our plain JSON becomes a job that fails when it runs.

        It must not fail here: RQ's worker would end, and its replacement, too.
        """
        stored = {key.decode() if isinstance(key, bytes) else key: value for key, value in raw_data.items()}
        kept = {key: value for key, value in stored.items() if key in _FIELDS}
        data = stored.get("data", b"")
        # Never decompressed: a few bytes could expand to any amount of memory.
        plain = isinstance(data, bytes) and data.startswith(b"[") and len(data) <= _DATA_LIMIT
        kept["data"] = data if plain else b"null"
        return super().restore({key.encode(): value for key, value in kept.items()})

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


def process(message_id: str, epoch: int, attempt: int) -> str:
    """Run the attempt of a wake-up, unless it is outdated; return the outcome's name.

    Expected results (done, failed, rejected, taken by another worker) are values, not exceptions.
    """
    from messages_app import services

    return services.process(message_id, epoch, attempt)
