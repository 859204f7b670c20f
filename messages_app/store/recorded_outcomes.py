"""Outcomes that MongoDB has acknowledged; Redis keeps them for a time, to find dead letters that MongoDB has lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from django.conf import settings

from messages_app.domain.records import State
from messages_app.store.connection import ThreadConnections, connection
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis

#: Number of outcomes that are read and compared together.
PAGE = 500


class RecordedOutcome(NamedTuple):
    """An outcome that MongoDB has acknowledged."""

    message_id: str
    #: Time of the acknowledgement, by Redis' clock.
    at_ms: int
    epoch: int
    #: A death, or else a successful replay.
    is_death: bool


class RecordedOutcomes:
    """The index of one ledger. Thread-safe."""

    def __init__(self, client: redis.Redis, prefix: str = "dlq:") -> None:
        self._connections = ThreadConnections(client)
        self._prefix = prefix

    def count(self, since_ms: int = 0, until_ms: int | None = None) -> int:
        """Number of outcomes recorded in that time, including both ends."""
        return int(self._connections.call("ZCOUNT", self._key, since_ms, "+inf" if until_ms is None else until_ms))

    def pages(self, since_ms: int, until_ms: int) -> Iterator[list[RecordedOutcome]]:
        """Outcomes recorded in that time that are still current, oldest first."""
        after, seen = since_ms, set[bytes]()
        while True:
            flat = self._connections.call(
                "ZRANGEBYSCORE", self._key, after, until_ms, "WITHSCORES", "LIMIT", 0, PAGE + len(seen)
            )
            found = [(name, int(score)) for name, score in zip(flat[::2], flat[1::2], strict=True)]
            fresh = [(name, at) for name, at in found if name not in seen]
            if not fresh:
                return
            yield self._current(fresh)
            # One millisecond may have many outcomes: it is read again without those already returned.
            last = fresh[-1][1]
            seen = {name for name, at in found if at == last}
            after = last

    def sample(self, number: int, offset: float) -> Iterator[list[RecordedOutcome]]:
        """At most ``number`` current outcomes, evenly spread over all; ``offset``, 0 to 1, selects them."""
        size = self.count()
        step = max(size / number, 1.0)
        ranks = [int((i + offset) * step) if step > 1 else i for i in range(min(number, size))]
        for first in range(0, len(ranks), PAGE):
            rows = self._connections.call_many(
                [("ZRANGE", self._key, rank, rank, "WITHSCORES") for rank in ranks[first : first + PAGE]]
            )
            yield self._current([(row[0], int(row[1])) for row in rows if row])

    def unchanged(self, outcomes: Sequence[RecordedOutcome]) -> list[RecordedOutcome]:
        """Those outcomes that have not changed since they were read."""
        now = {one.message_id: one for one in self.of([one.message_id for one in outcomes])}
        return [one for one in outcomes if now.get(one.message_id) == one]

    def of(self, message_ids: Sequence[str]) -> list[RecordedOutcome]:
        """The current outcomes of these messages."""
        if not message_ids:
            return []
        scores = self._connections.call("ZMSCORE", self._key, *message_ids)
        pairs = zip(message_ids, scores, strict=True)
        return self._current([(name.encode(), int(score)) for name, score in pairs if score is not None])

    def unlist(self, message_ids: Sequence[str]) -> None:
        """Remove outcomes whose letters are about to be deleted, so that these are not reported as missing."""
        if message_ids:
            self._connections.call_many(
                [("ZREM", self._prefix + name, *message_ids) for name in ("recorded", "lacking")]
            )

    # -- missing outcomes

    def lacking(self) -> Mapping[str, int]:
        """Time (ms) of each known missing outcome, by message id; at most a page, oldest first."""
        flat = self._connections.call("ZRANGE", self._prefix + "lacking", 0, PAGE - 1, "WITHSCORES")
        return {name.decode(): int(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}

    def lacking_count(self) -> int:
        """Number of known missing outcomes."""
        return int(self._connections.call("ZCARD", self._prefix + "lacking"))

    def note(self, missing: Sequence[RecordedOutcome], found: Sequence[str] = ()) -> None:
        """Add missing outcomes to the known ones, and remove those that exist by now."""
        commands: list[Sequence[object]] = []
        if found:
            commands.append(("ZREM", self._prefix + "lacking", *found))
        if missing:
            pairs = (part for one in missing for part in (one.at_ms, one.message_id))
            commands.append(("ZADD", self._prefix + "lacking", *pairs))
        if commands:
            self._connections.call_many(commands)

    @property
    def _key(self) -> str:
        return self._prefix + "recorded"

    def _current(self, entries: Sequence[tuple[bytes, int]]) -> list[RecordedOutcome]:
        """The outcomes in the records, without messages that run again, wait for MongoDB, or are forgotten."""
        names = [name.decode() for name, _ in entries]
        rows = self._connections.call_many(
            [("HMGET", f"{self._prefix}msg:{name}", "state", "epoch", "outbox", "replayId") for name in names]
        )
        outcomes = []
        for name, (_, at_ms), (state, epoch, outbox, replay_id) in zip(names, entries, rows, strict=True):
            is_death = state == State.DEAD.encode()
            if not outbox and (is_death or (state == State.DONE.encode() and replay_id)):
                outcomes.append(RecordedOutcome(name, at_ms, int(epoch), is_death))
        return outcomes


@OncePerProcess
def recorded_outcomes() -> RecordedOutcomes:
    """The index on the server in the settings."""
    return RecordedOutcomes(connection(), settings.REDIS_PREFIX)
