"""Marks of the ledger's progress. They show whether Redis fell back to an earlier state.

The ledger alone does not show it: an earlier or empty state is as consistent as the present one. So Redis gets a mark
with a random name twice a second, and others store the name: every worker the last one that it read, MongoDB one every
ten seconds. When Redis no longer has a name, it lost that mark and all writes since the last remaining mark. Later
traffic does not hide the loss.
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
#: Marks of ten minutes of a busy ledger. An older mark of a caller is compared by its numbers.
KEPT = 1200


class Mark(NamedTuple):
    """The ledger's progress at one time."""

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
    """The status of a caller's mark in Redis."""

    #: The caller has none.
    FIRST = "first"
    KEPT = "kept"
    #: The ledger fell back to an earlier state. The loss is stored.
    LOST = "lost"
    #: The ledger fell back, but nothing was lost.
    SAME = "same"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedLoss:
    """A loss as stored in Redis. Times in ms."""

    id: str
    #: Time of the last remaining mark; 0 without one: the ledger was emptied or replaced.
    from_ms: int
    #: Time of the last known mark.
    to_ms: int
    seen_ms: int
    #: Messages accepted between the two.
    missing: int
    #: Claims and outcomes between the two.
    moves: int
    #: Messages that had not ended at the last mark.
    open: int


class Marks:
    """The marks in one Redis. Safe for threads and processes."""

    def __init__(
        self, client: redis.Redis, prefix: str = "dlq:", *, scripts: Mapping[str, Script] | None = None
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())
        self._prefix = prefix

    def look(self, known: Mark | None) -> tuple[MarkStatus, Mark]:
        """Check the caller's mark; return its status and the newest mark. Sets a new mark when one is due."""
        told = (known.number, known.token, *known[2:]) if known else (0, "", 0, 0, 0, 0, 0)
        said, number, token, *numbers = self._scripts.run("mark", *told, uuid.uuid4().hex, EVERY_MS, KEPT)
        return MarkStatus(said.decode()), Mark(int(number), token.decode(), *map(int, numbers))

    def kept(self) -> tuple[int, str, int] | None:
        """Number, token and time (ms) of the last mark in MongoDB."""
        text = self._scripts.connections.call("GET", self._prefix + "marks:kept")
        number, token, at = text.decode().split() if text else ("0", "", "0")
        return (int(number), token, int(at)) if token else None

    def keep(self, mark: Mark) -> None:
        """Store that MongoDB has this mark. Call it only afterwards."""
        self._scripts.connections.call("SET", self._prefix + "marks:kept", f"{mark.number} {mark.token} {mark.at_ms}")

    def losses(self) -> list[NotedLoss]:
        """Losses that are not in MongoDB yet, oldest first."""
        flat = self._scripts.connections.call("HGETALL", self._prefix + "losses")
        found = [_noted(token.decode(), text) for token, text in zip(flat[::2], flat[1::2], strict=True)]
        return sorted(found, key=lambda noted: noted.seen_ms)

    def carried(self, noted: NotedLoss) -> None:
        """Delete a loss that is in MongoDB. One that is found again meanwhile is only copied once more."""
        self._scripts.connections.call("HDEL", self._prefix + "losses", noted.id)


def _noted(token: str, text: bytes) -> NotedLoss:
    told = json.loads(text)
    return NotedLoss(
        id=token, from_ms=int(told["fromMs"]), to_ms=int(told["toMs"]), seen_ms=int(told["seenMs"]),
        missing=int(told["missing"]), moves=int(told["moves"]), open=int(told["open"]),
    )  # fmt: skip


@OncePerProcess
def marks() -> Marks:
    """The marks on the server in the settings."""
    return Marks(connection(), settings.REDIS_PREFIX)
