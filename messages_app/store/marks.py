"""Marks of how far the ledger has come. They show whether Redis fell back to an earlier state.

The ledger alone does not show that: an earlier state is as consistent as the present one, and so is an empty one.
So Redis gets a mark with a random name twice a second, and others remember the name: every worker the last one that it
saw, MongoDB one every ten seconds. A name that Redis no longer knows was lost, and with it everything that Redis did
since the last mark that is still there. Traffic after the fall does not hide it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from django.conf import settings

from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis

EVERY_MS = 500
#: Ten minutes of a busy ledger. A caller whose mark is older is judged by its numbers.
KEPT = 1200


class Mark(NamedTuple):
    """How far the ledger had come at one instant."""

    number: int
    token: str
    #: By Redis' clock.
    at_ms: int
    #: Messages accepted since the beginning.
    accepted: int
    #: Claims and outcomes since the beginning.
    moves: int
    epoch_high: int
    #: Messages that had not ended.
    open: int


class MarkStatus(StrEnum):
    """What became of the mark that a caller knew."""

    #: It knew none.
    FIRST = "first"
    KEPT = "kept"
    #: The ledger fell back to before it. The loss is noted.
    LOST = "lost"
    #: The ledger fell back, but nothing had moved since.
    SAME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedLoss:
    """A loss as Redis has noted it. Times in ms."""

    id: str
    #: The last mark that is left; 0 when none is: the ledger was emptied, or is another one.
    from_ms: int
    #: The last mark that anybody remembers.
    to_ms: int
    seen_ms: int
    #: Messages accepted between the two.
    missing: int
    #: Claims and outcomes between the two.
    moves: int
    #: Messages that had not ended at the last mark.
    open: int


class Marks:
    """The marks in one Redis. Thread-safe; any number of processes may look."""

    def __init__(
        self, client: redis.Redis, prefix: str = "dlq:", *, scripts: Mapping[str, Script] | None = None
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())
        self._prefix = prefix

    def look(self, known: Mark | None) -> tuple[MarkStatus, Mark]:
        """What became of the mark that the caller knows, and the newest one. Sets a mark when it is time for one."""
        told = (known.number, known.token, *known[2:]) if known else (0, "", 0, 0, 0, 0, 0)
        said, number, token, *numbers = self._scripts.run("mark", *told, uuid.uuid4().hex, EVERY_MS, KEPT)
        return MarkStatus(said.decode()), Mark(int(number), token.decode(), *map(int, numbers))

    def kept(self) -> tuple[int, str, int] | None:
        """Number, token and time (ms) of the last mark that MongoDB has confirmed."""
        text = self._scripts.connections.call("GET", self._prefix + "marks:kept")
        number, token, at = text.decode().split() if text else ("0", "", "0")
        return (int(number), token, int(at)) if token else None

    def keep(self, mark: Mark) -> None:
        """Note that MongoDB has this mark. Call it only afterwards."""
        self._scripts.connections.call("SET", self._prefix + "marks:kept", f"{mark.number} {mark.token} {mark.at_ms}")

    def losses(self) -> list[NotedLoss]:
        """Losses that nobody has carried to MongoDB yet, oldest first."""
        flat = self._scripts.connections.call("HGETALL", self._prefix + "losses")
        found = [_noted(token.decode(), text) for token, text in zip(flat[::2], flat[1::2], strict=True)]
        return sorted(found, key=lambda noted: noted.seen_ms)

    def carried(self, noted: NotedLoss) -> None:
        """Forget a loss that MongoDB has; one that was noted anew meanwhile is only carried once more."""
        self._scripts.connections.call("HDEL", self._prefix + "losses", noted.id)


def _noted(token: str, text: bytes) -> NotedLoss:
    told = json.loads(text)
    return NotedLoss(
        id=token, from_ms=int(told["fromMs"]), to_ms=int(told["toMs"]), seen_ms=int(told["seenMs"]),
        missing=int(told["missing"]), moves=int(told["moves"]), open=int(told["open"]),
    )  # fmt: skip


@OncePerProcess
def marks() -> Marks:
    """The marks on the server that settings name."""
    return Marks(connection(), settings.REDIS_PREFIX)
