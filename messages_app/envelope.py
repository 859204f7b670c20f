"""What a message is once it has been accepted, as a handler sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any


class Priority(StrEnum):
    """The lane a message waits in; strict order between lanes, without starving ``low`` for ever."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


#: The lane of messages that were lost twice with the process that ran them: such a message is claimed alone.
ALONE = "alone"
#: Lanes in the order in which they are served.
LANES: tuple[str, ...] = (Priority.HIGH, Priority.NORMAL, Priority.LOW)

DEFAULT_TYPE = "demo"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One attempt's view of a message. Handlers run *at least once*: use ``idempotency_key`` downstream.

    Workers make one per attempt, with ``of_run``.
    """

    id: str
    type: str
    #: The JSON value that was submitted (or its edited version in a replay that carries one).
    payload: Any
    #: Which attempt of this epoch this is, counted from 1.
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
    #: Instant at which the attempt is given up (aware UTC). Pass what is left of it to every blocking call.
    deadline: datetime
    #: Stable over attempts and replays of unedited content; safe to send downstream.
    idempotency_key: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    #: The payload's JSON text as it was received, for handlers that hand it on; empty where nobody supplied it.
    text: str = field(default="", repr=False)

    def seconds_left(self, now: datetime) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, (self.deadline - now).total_seconds())

    @classmethod
    def of_run(cls, *, queued_at_ms: int, deadline_s: float, **fields: Any) -> Message:
        """The same as the constructor makes, which costs several times as much. ``fields``: all but the two instants.

        These are epoch ms and epoch seconds, and become datetimes when a handler first looks.
        """
        message = object.__new__(cls)
        vars(message).update(fields, _instants=(queued_at_ms / 1000, deadline_s))
        return message

    if not TYPE_CHECKING:  # which would think that a message has every attribute

        def __getattr__(self, name: str) -> datetime:
            instants = vars(self).get("_instants")
            if instants is None or name not in ("queued_at", "deadline"):
                raise AttributeError(f"a message has no {name!r}", name=name, obj=self)
            instant = datetime.fromtimestamp(instants[name == "deadline"], UTC)
            # Two threads may both do this; both find the same.
            vars(self)[name] = instant
            return instant
