"""Outcomes that MongoDB has acknowledged, as long as Redis remembers them: what the dead letters are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from django.conf import settings

from messages_app.domain.records import State
from messages_app.store.connection import ThreadConnections, connection
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis

#: Outcomes read and compared together.
PAGE = 500


class RecordedOutcome(NamedTuple):
    """An outcome that MongoDB has acknowledged."""

    message_id: str
    #: When, by Redis' clock.
    at_ms: int
    epoch: int
    #: A death; else a replay that ended well.
    is_death: bool


class RecordedOutcomes:
    """The index of one ledger. Thread-safe."""

    def __init__(self, client: redis.Redis, prefix: str = "dlq:") -> None:
        self._connections = ThreadConnections(client)
        self._prefix = prefix

    def count(self, since_ms: int = 0, until_ms: int | None = None) -> int:
        """How many outcomes were recorded in that time, both ends included."""
        return int(self._connections.call("ZCOUNT", self._key, since_ms, "+inf" if until_ms is None else until_ms))

    def pages(self, since_ms: int, until_ms: int) -> Iterator[list[RecordedOutcome]]:
        """All that were recorded in that time and still stand, oldest first. One recorded anew meanwhile is younger."""
        after, met = since_ms, set[bytes]()
        while True:
            flat = self._connections.call(
                "ZRANGEBYSCORE", self._key, after, until_ms, "WITHSCORES", "LIMIT", 0, PAGE + len(met)
            )
            found = [(name, int(score)) for name, score in zip(flat[::2], flat[1::2], strict=True)]
            fresh = [(name, at) for name, at in found if name not in met]
            if not fresh:
                return
            yield self._standing(fresh)
            # Of one millisecond there may be many: it is read again without those that were met.
            last = fresh[-1][1]
            met = {name for name, at in found if at == last}
            after = last

    def sample(self, number: int, offset: float) -> Iterator[list[RecordedOutcome]]:
        """At most ``number``, evenly spread over all, those that still stand; ``offset`` from 0 to 1 chooses which."""
        size = self.count()
        step = max(size / number, 1.0)
        ranks = [int((i + offset) * step) if step > 1 else i for i in range(min(number, size))]
        for first in range(0, len(ranks), PAGE):
            rows = self._connections.call_many(
                [("ZRANGE", self._key, rank, rank, "WITHSCORES") for rank in ranks[first : first + PAGE]]
            )
            yield self._standing([(row[0], int(row[1])) for row in rows if row])

    def again(self, told: Sequence[RecordedOutcome]) -> list[RecordedOutcome]:
        """Those of them that are still listed and stand as they were read."""
        now = {one.message_id: one for one in self.of([one.message_id for one in told])}
        return [one for one in told if now.get(one.message_id) == one]

    def of(self, message_ids: Sequence[str]) -> list[RecordedOutcome]:
        """Of these messages those that are listed and still stand."""
        if not message_ids:
            return []
        scores = self._connections.call("ZMSCORE", self._key, *message_ids)
        pairs = zip(message_ids, scores, strict=True)
        return self._standing([(name.encode(), int(score)) for name, score in pairs if score is not None])

    def unlist(self, message_ids: Sequence[str]) -> None:
        """Their letters are about to be deleted: nothing is missing then."""
        if message_ids:
            self._connections.call_many(
                [("ZREM", self._prefix + name, *message_ids) for name in ("recorded", "lacking")]
            )

    # -- what was found to be missing

    def lacking(self) -> Mapping[str, int]:
        """When each outcome that the letters lack was recorded (ms), by message id; at most a page of the oldest."""
        flat = self._connections.call("ZRANGE", self._prefix + "lacking", 0, PAGE - 1, "WITHSCORES")
        return {name.decode(): int(score) for name, score in zip(flat[::2], flat[1::2], strict=True)}

    def lacking_count(self) -> int:
        """How many outcomes are known to be missing in the letters."""
        return int(self._connections.call("ZCARD", self._prefix + "lacking"))

    def note(self, missing: Sequence[RecordedOutcome], found: Sequence[str] = ()) -> None:
        """Remember outcomes that the letters lack, and forget those that they have by now."""
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

    def _standing(self, entries: Sequence[tuple[bytes, int]]) -> list[RecordedOutcome]:
        """What their records say; without those that run again, wait for MongoDB, or are forgotten."""
        names = [name.decode() for name, _ in entries]
        rows = self._connections.call_many(
            [("HMGET", f"{self._prefix}msg:{name}", "state", "epoch", "outbox", "replayId") for name in names]
        )
        told = []
        for name, (_, at_ms), (state, epoch, outbox, replay_id) in zip(names, entries, rows, strict=True):
            is_death = state == State.DEAD.encode()
            if not outbox and (is_death or (state == State.DONE.encode() and replay_id)):
                told.append(RecordedOutcome(name, at_ms, int(epoch), is_death))
        return told


@OncePerProcess
def recorded_outcomes() -> RecordedOutcomes:
    """The index on the server that settings name."""
    return RecordedOutcomes(connection(), settings.REDIS_PREFIX)
