"""Measurements of this process: counts and durations by a few labels, until they are added to those of all processes.

Counting takes a microsecond or two and no store. Labels must come from a bounded set: every distinct one is kept.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

#: Upper bounds of the buckets of every duration, in seconds; the last bucket has none.
BOUNDS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Separates the parts of a key; no name or label contains it.
SEPARATOR: Final = "\t"
#: Last part of the key of a sum of durations, in microseconds; buckets have their number there.
SUM: Final = "us"


class Measured:
    """Counts by key. Safe for threads; never waits for a store."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], int] = {}
        #: The number in each bucket, then the sum.
        self._durations: dict[tuple[str, ...], list[int]] = {}

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Count an event."""
        key = (name, *labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + by

    def observe(self, name: str, *labels: str, seconds: float) -> None:
        """Count a duration."""
        key, bucket = (name, *labels), bisect_left(BOUNDS_S, seconds)
        with self._lock:
            row = self._durations.get(key)
            if row is None:
                row = self._durations[key] = [0] * (len(BOUNDS_S) + 2)
            row[bucket] += 1
            row[-1] += max(0, round(seconds * 1_000_000))

    def take(self) -> Mapping[str, int]:
        """Remove and return what was counted since the last call."""
        with self._lock:
            counts, self._counts = self._counts, {}
            durations, self._durations = self._durations, {}
        taken = {SEPARATOR.join(key): count for key, count in counts.items()}
        for key, (*buckets, total) in durations.items():
            begin = SEPARATOR.join((*key, ""))
            taken |= {f"{begin}{place}": count for place, count in enumerate(buckets) if count}
            taken[begin + SUM] = total
        return taken


#: The measurements of this process. A forked child must call ``take`` once first, or it repeats its parent's.
measured: Final = Measured()
