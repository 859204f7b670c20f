"""Samples of metrics, as the parts of the system return them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from processes.measured import BOUNDS_S, SEPARATOR, SUM

Labels = tuple[str, ...]


@dataclass(slots=True)
class Histogram:
    """Durations by bucket of ``BOUNDS_S``, not added up, and their sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_us: int = 0


@dataclass(slots=True)
class Samples:
    """Values by metric and labels."""

    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    histograms: dict[str, dict[Labels, Histogram]] = field(default_factory=dict)

    def put(self, name: str, value: float, *labels: str) -> None:
        """Add to a value, so that values of types without a handler add up under one label."""
        found = self.values.setdefault(name, {})
        found[labels] = found.get(labels, 0) + value

    def put_duration(self, name: str, labels: Labels, place: str, count: int) -> None:
        """Add to a histogram what ``processes.measured`` has stored under ``place``: a bucket, or the sum."""
        histogram = self.histograms.setdefault(name, {}).setdefault(labels, Histogram())
        if place == SUM:
            histogram.sum_us += count
        elif place.isdigit() and int(place) < len(histogram.buckets):
            histogram.buckets[int(place)] += count

    def take(self, other: Samples) -> None:
        """Add the metrics of another part. No metric has values of two parts."""
        self.values |= other.values
        self.histograms |= other.histograms


def split(measured: Mapping[str, int]) -> dict[str, list[tuple[Sequence[str], int]]]:
    """Measurements by name, each with its labels, and for a duration the bucket as the last one."""
    found: dict[str, list[tuple[Sequence[str], int]]] = {}
    for key, count in measured.items():
        name, *labels = key.split(SEPARATOR)
        found.setdefault(name, []).append((labels, count))
    return found
