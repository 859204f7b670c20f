"""An accepted message, as its handler gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any


class Priority(StrEnum):
    """The lane of a waiting message. Lanes are served in strict order, but ``low`` does not starve."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


#: The lane of messages that were lost twice with their process: such a message is claimed alone.
ALONE = "alone"
#: Lanes in the order in which they are served.
LANES: tuple[str, ...] = (Priority.HIGH, Priority.NORMAL, Priority.LOW)

DEFAULT_TYPE = "demo"


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message in one attempt. Handlers run *at least once*: pass ``idempotency_key`` downstream.

    Workers create one per attempt, with ``of_run``.
    """

    id: str
    type: str
    #: The JSON value that was submitted (or its edited version in a replay that carries one).
    payload: Any
    #: Number of this attempt in its epoch, counted from 1.
    attempt: int
    #: Attempts that ended in failure so far, over all replays; 0 on the very first run.
    prior_runs: int = 0
    source: str = "api"
    priority: str = Priority.NORMAL
    tags: tuple[str, ...] = ()
    client: str = ""
    queued_at: datetime
    #: Set when this run is a replay of a dead letter.
    replay_id: str | None = None
    #: Time limit of the attempt (aware UTC). Pass the remaining time to every blocking call.
    deadline: datetime
    #: The same for all attempts and replays of unedited content; safe to send downstream.
    idempotency_key: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: Trace of this attempt, for calls to other services: the header ``traceparent`` of W3C Trace Context, or empty.
    traceparent: str = ""
    #: The payload's JSON text as received, for handlers that pass it on; may be empty.
    text: str = field(default="", repr=False)

    def seconds_left(self, now: datetime) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, (self.deadline - now).total_seconds())

    @classmethod
    def of_run(cls, *, queued_at_ms: int, deadline_s: float, **fields: Any) -> Message:
        """Create a message several times faster than the constructor. ``fields``: all but the two times.

        These are epoch ms and epoch seconds, and become datetimes at their first use.
        """
        message = object.__new__(cls)
        vars(message).update(fields, _instants=(queued_at_ms / 1000, deadline_s))
        return message

    if not TYPE_CHECKING:  # or a message would seem to have every attribute

        def __getattr__(self, name: str) -> datetime:
            instants = vars(self).get("_instants")
            if instants is None or name not in ("queued_at", "deadline"):
                raise AttributeError(f"a message has no {name!r}", name=name, obj=self)
            instant = datetime.fromtimestamp(instants[name == "deadline"], UTC)
            # Two threads may both do this, with the same result.
            vars(self)[name] = instant
            return instant
