"""RQ's workers on the lanes: foreign ones, and whether RQ's command has suspended them."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from rq.suspension import WORKERS_SUSPENDED
from rq.worker import Worker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from messages_app.domain.errors import StoreUnavailable
from messages_app.store.connection import Command, ThreadConnections, connection
from messages_app.store.queues import NAMES
from processes.once import OncePerProcess

log = logging.getLogger(__name__)

#: Field in RQ's entry of a worker: the worker belongs to this system.
_MARK = "dlq"
#: Seconds between attempts to subscribe to RQ's commands again, and between log lines about failures.
_LISTEN_AGAIN_S, _UNHEARD_AGAIN_S = 1.0, 60.0
#: Maximum number of foreign workers that are named, and of characters of each name: the names are not trusted.
_MAX_NAMED, _MAX_CHARS = 3, 60


class MarkedWorker(Worker):
    """RQ's worker with a mark in its registration, which distinguishes it from workers that cannot run messages."""

    _unheard_at = -_UNHEARD_AGAIN_S

    def serialize(self) -> dict[str, Any]:
        return {**super().serialize(), _MARK: "1"}

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """Subscribe to RQ's commands again, on a new socket, until it succeeds.

        RQ leaves that to the driver. The driver does it only for connections that repeat commands, and would read the
        closed socket of ours forever.
        """
        now = time.monotonic()
        if now - self._unheard_at >= _UNHEARD_AGAIN_S:
            self._unheard_at = now
            log.warning("commands_unheard", extra={"worker": self.name, "why": f"{type(exc).__name__}: {exc}"})
        if pubsub.connection is not None:
            pubsub.connection.disconnect()  # the next read connects and subscribes
        time.sleep(_LISTEN_AGAIN_S)


@dataclass(frozen=True, slots=True)
class LaneWorkers:
    """State of RQ's workers on the lanes."""

    is_suspended: bool
    #: Milliseconds until the suspension ends; None: only ``rqresume`` ends it.
    suspended_ms: int | None
    #: Some foreign workers, and their number.
    foreign: tuple[str, ...]
    foreign_count: int


@OncePerProcess
def _connections() -> ThreadConnections:
    return ThreadConnections(connection())


def lane_workers() -> LaneWorkers:
    """Read RQ's registries. Raises ``StoreUnavailable``."""
    suspended_ms, *registered = _ask(
        ("PTTL", WORKERS_SUSPENDED), *(("SMEMBERS", WORKERS_BY_QUEUE_KEY % name) for name in NAMES)
    )
    keys = sorted({key for found in registered for key in found})
    about = _ask(*(("HMGET", key, "birth", _MARK, "hostname", "pid") for key in keys)) if keys else []
    # RQ forgets a dead worker's hash long before its name in the registry.
    foreign = [
        (key, host, pid)
        for key, (birth, mark, host, pid) in zip(keys, about, strict=True)
        if birth is not None and mark is None
    ]
    named = tuple(
        f"{_shown(key, 'rq:worker:')} (pid {_shown(pid)} on {_shown(host)})" for key, host, pid in foreign[:_MAX_NAMED]
    )
    return LaneWorkers(
        is_suspended=suspended_ms != -2,
        suspended_ms=suspended_ms if suspended_ms >= 0 else None,
        foreign=named,
        foreign_count=len(foreign),
    )


def _ask(*commands: Command) -> list[Any]:
    answers = _connections().call_many(commands)
    for answer in answers:
        if isinstance(answer, Exception):  # no permission for RQ's keys, or keys of another type
            raise StoreUnavailable(f"Redis refuses: {answer}") from answer
    return answers


def _shown(text: bytes | None, prefix: str = "") -> str:
    return ascii((text or b"?").decode(errors="replace"))[1:-1].removeprefix(prefix)[:_MAX_CHARS]
