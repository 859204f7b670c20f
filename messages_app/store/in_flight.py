"""Some of the messages that run or wait, for the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.conf import settings

from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis

#: Maximum number of messages of each kind.
MAX_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightMessage:
    """A message that runs or waits. Times are epoch milliseconds; None when not set."""

    message_id: str
    #: ``running``, ``retry_wait``, ``scheduled``, or the lane it waits in.
    index: str
    state: str
    type: str
    #: Failed attempts so far, and the maximum number of retries.
    attempt: int
    max_retries: int
    priority: str
    queued_at_ms: int
    woken_at_ms: int | None
    due_at_ms: int | None
    started_at_ms: int | None
    owner: str
    #: When a breaker rejected it first.
    held_since_ms: int | None
    is_replay: bool


@dataclass(frozen=True, slots=True)
class InFlight:
    """Messages at one time, by the server's clock."""

    now_ms: int
    messages: tuple[InFlightMessage, ...]


class InFlightReader:
    """Reads running and waiting messages from one Redis. Thread-safe."""

    def __init__(
        self, client: redis.Redis, prefix: str = "dlq:", *, scripts: Mapping[str, Script] | None = None
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())

    def read(self, limit: int = MAX_SHOWN) -> InFlight:
        """At most ``limit`` messages of each kind: running, waiting for a time, and the newest of each lane."""
        now, *rows = self._scripts.run("flight", limit)
        return InFlight(int(now), tuple(_flying([part.decode(errors="replace") for part in row]) for row in rows))


def _flying(row: list[str]) -> InFlightMessage:
    (message_id, index, state, account, attempt, max_retries, priority, queued_at, woken_at, due_at, started_at, _,
     owner, held_since, replay_id) = row  # fmt: skip
    return InFlightMessage(
        message_id=message_id,
        index=index,
        state=state,
        type=account.partition(":")[2],
        attempt=int(attempt or 0),
        max_retries=int(max_retries or 0),
        priority=priority,
        queued_at_ms=int(queued_at or 0),
        woken_at_ms=_moment(woken_at),
        due_at_ms=_moment(due_at),
        started_at_ms=_moment(started_at),
        owner=owner,
        held_since_ms=_moment(held_since),
        is_replay=bool(replay_id),
    )


def _moment(text: str) -> int | None:
    return int(text) if text and text != "0" else None


@OncePerProcess
def _reader() -> InFlightReader:
    return InFlightReader(connection(), settings.REDIS_PREFIX)


def read(limit: int = MAX_SHOWN) -> InFlight:
    """``InFlightReader.read`` on the server in the settings."""
    return _reader().read(limit)
