"""Trend of a group over the last 24 hours: bars, sparkline and text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import sqrt

from dlq_app.services.groups import Group

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The trend in words, and its tone: ``up-bad``, ``down-ok`` or none."""

    words: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An hour of the chart: position, start and count."""

    x: int
    y: float
    height: float
    since: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """The last 24 hours as bars, in a 240 by 100 drawing."""

    bars: tuple[Bar, ...]
    #: Values of the grid lines, from the top.
    scale: tuple[int, ...]
    #: Times of day below it.
    labels: tuple[str, ...]


def course(group: Group) -> Course:
    """Compare the last one to two hours with the six before."""
    trend = group.trend
    if not any(trend):
        return Course(words="no new one in 24 h", tone="")
    quiet = next(place for place, count in enumerate(reversed(trend)) if count)
    if quiet >= 2:
        return Course(words=f"no new one for {quiet - 1} h", tone="down-ok" if group.open == 0 else "")
    into = (group.as_of - (group.trend_from + (len(trend) - 1) * _HOUR)) / _HOUR
    hours = 1 + min(max(into, 0.0), 1.0)
    recent, expected = sum(trend[-2:]), sum(trend[-8:-2]) / 6 * hours
    # Small numbers vary by chance.
    margin = 2 * sqrt(expected) + 2
    pace = _pace(recent / hours)
    if recent > expected + margin:
        return Course(words=f"{pace}, rising", tone="up-bad")
    if recent < expected - margin:
        return Course(words=f"{pace}, falling", tone="down-ok")
    return Course(words=f"{pace}, steady", tone="")


def _pace(per_hour: float) -> str:
    if per_hour >= 120:
        return f"{per_hour / 60:,.0f} a minute"
    return f"{per_hour:.0f} an hour" if per_hour >= 1 else "less than 1 an hour"


def spark(trend: Sequence[int]) -> str:
    """The hours as one path; an empty hour has a small mark."""
    most = max(trend, default=0) or 1
    heights = [max(round(28 * count / most, 1), 0.6) for count in trend]
    return "".join(f"M{4 * place} 30v-{height:g}h3v{height:g}z" for place, height in enumerate(heights))


def trend_words(trend: Sequence[int]) -> str:
    """Text alternative for screen readers."""
    if not any(trend):
        return "New letters by hour, last 24 hours: none"
    return f"New letters by hour, last 24 hours: {', '.join(map(str, trend))}"


def chart(group: Group) -> Chart:
    """The hours as bars with their scale."""
    top = _round_up(max(group.trend, default=0))
    bars = []
    for place, count in enumerate(group.trend):
        height = round(100 * count / top, 1)
        if count:
            height = max(height, 1.5)  # one of very many is still to be seen
        since = group.trend_from + place * _HOUR
        bars.append(Bar(x=10 * place + 1, y=round(100 - height, 1), height=height, since=since, count=count))
    return Chart(
        bars=tuple(bars),
        scale=(top, top // 2, 0),
        labels=tuple(f"{(group.trend_from + hours * _HOUR).astimezone(UTC):%H:%M}" for hours in (0, 6, 12, 18, 24)),
    )


def _round_up(most: int) -> int:
    """The next round number for a scale."""
    power = 1
    while True:
        for step in (2, 4, 6, 10):
            if step * power >= most:
                return step * power
        power *= 10
