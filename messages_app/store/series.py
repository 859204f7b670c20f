"""Samples of the figures: every ten seconds for the last hour, every five minutes for the last day.

A sample contains counts since the beginning and the numbers of waiting messages. A rate is the difference of two
samples, so it survives restarts. Every running process requests samples; the store takes one per interval. While no
process runs there are none, and charts have a gap.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from django.conf import settings

from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis

EVERY_MS = 10_000
COARSE_MS = 300_000
#: An hour and two minutes, so that a chart of an hour has its first point; a day and 15 minutes.
FINE_KEPT = 372
COARSE_KEPT = 291


class Sample(NamedTuple):
    """Counts at one time."""

    #: By the server's clock.
    at_ms: int
    #: Counts since the beginning: accepted messages; done; failed attempts; messages given up for the first time;
    #: successful replays; runs rejected by a breaker; runs lost with their process.
    accepted: int
    done: int
    failed: int
    died: int
    replayed: int
    held: int
    lost: int
    #: Waiting messages by lane, for a retry, for their time; running ones; outcomes without an acknowledgement.
    high: int
    normal: int
    low: int
    alone: int
    retry_wait: int
    scheduled: int
    running: int
    outbox: int


@dataclass(frozen=True, slots=True)
class History:
    """Samples, oldest first. Rates are per second, None where unknown."""

    samples: tuple[Sample, ...] = ()
    coarse: tuple[Sample, ...] = ()
    _times: tuple[int, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "_times", tuple(sample.at_ms for sample in self.samples))

    @property
    def last(self) -> Sample | None:
        return self.samples[-1] if self.samples else None

    def at(self, ms: int) -> Sample | None:
        """The last sample at or before that time."""
        place = bisect_right(self._times, ms)
        return self.samples[place - 1] if place else None

    def rate(self, count: str, now_ms: int, *, over_ms: int = 30_000, ago_ms: int = 0) -> float | None:
        """The rate in the ``over_ms`` that ended ``ago_ms`` ago; None without samples."""
        last, first = self.at(now_ms - ago_ms), self.at(now_ms - ago_ms - over_ms)
        if last is None:
            return None
        if first is None and ago_ms == 0 and len(self.samples) > 1:
            first = self.samples[0]  # the series has just begun: use what there is
        if first is None or now_ms - ago_ms - last.at_ms > 2 * EVERY_MS + over_ms // 2:
            return None
        return _between(first, last, count)

    def buckets(self, count: str, start_ms: int, width_ms: int, number: int) -> list[float | None]:
        """The rate in each of ``number`` spans of ``width_ms`` from ``start_ms``.

        None for a span without a sample, and for the next one: the distribution over the two is unknown.
        """
        rates: list[float | None] = []
        before = self._within(start_ms - width_ms, start_ms)
        for number_of in range(number):
            start = start_ms + number_of * width_ms
            last = self._within(start, start + width_ms)
            rates.append(_between(before, last, count) if before and last else None)
            before = last
        return rates

    def _within(self, start_ms: int, end_ms: int) -> Sample | None:
        """The last sample in [start, end)."""
        found = self.at(end_ms - 1)
        return found if found is not None and found.at_ms >= start_ms else None


def _between(first: Sample, last: Sample, count: str) -> float | None:
    happened, took_ms = getattr(last, count) - getattr(first, count), last.at_ms - first.at_ms
    # A smaller count: the store was emptied in between.
    return happened * 1000 / took_ms if took_ms > 0 and happened >= 0 else None


class Series:
    """Samples of the system's figures over time, stored in one Redis. Safe for threads and processes."""

    def __init__(
        self, client: redis.Redis, prefix: str = "dlq:", *, scripts: Mapping[str, Script] | None = None
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())
        self._prefix = prefix

    def sample(self) -> bool:
        """Take a sample if this interval has none yet; return whether this call took it."""
        return bool(self._scripts.run("sample", EVERY_MS, FINE_KEPT, COARSE_MS, COARSE_KEPT))

    def history(self) -> History:
        """All samples."""
        fine, coarse = self._scripts.connections.call_many(
            [("LRANGE", f"{self._prefix}series:{part}", 0, -1) for part in ("fine", "coarse")]
        )
        return History(_samples(fine), _samples(coarse))


def _samples(lines: Sequence[bytes]) -> tuple[Sample, ...]:
    rows = (line.split(b",") for line in lines)
    # A line of another release may have other columns and is skipped.
    samples = [Sample._make(map(int, row)) for row in rows if len(row) == len(Sample._fields)]
    # The clock may have been set back a little, and the search needs sorted samples.
    return tuple(sorted(samples, key=lambda sample: sample.at_ms))


@OncePerProcess
def series() -> Series:
    """The series on the server in the settings."""
    return Series(connection(), settings.REDIS_PREFIX)
