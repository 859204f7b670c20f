"""Trend of a group over the last hour and the last 24 hours: bars, sparklines and text. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from console import trends
from dlq_app.domain.group_states import MINUTES
from dlq_app.services.groups import Group

_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
#: Width of the drawing.
_WIDTH = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The trend in words, and its tone: ``up-bad``, ``down-ok`` or none."""

    words: str
    tone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """An hour or a minute of the chart: position, start and count."""

    x: float
    width: float
    y: float
    height: float
    since: datetime
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Counts over time as bars, in a 240 by 100 drawing."""

    bars: tuple[Bar, ...]
    #: Values of the grid lines, from the top.
    scale: tuple[int, ...]
    #: Times of day below it.
    labels: tuple[str, ...]
    #: Text alternative.
    words: str


def course(group: Group) -> trends.Course:
    """The last hour, by the minute."""
    into_s = group.as_of.second + group.as_of.microsecond / 1e6
    return trends.course(group.minutes, into_s, last_s=(group.as_of - group.last_seen).total_seconds())


def shown_course(group: Group) -> Course:
    """The course of the last hour; without a new letter in it, for how many hours there was none."""
    found = course(group)
    if found.trend is not trends.Trend.NONE:
        return Course(words=found.words, tone=found.tone)
    if not any(group.trend):
        return Course(words="no new one in 24 h", tone="")
    quiet = next(place for place, count in enumerate(reversed(group.trend)) if count)
    return Course(words=f"no new one for {max(1, quiet - 1)} h", tone="down-ok" if group.open == 0 else "")


def spark(trend: Sequence[int]) -> str:
    """The hours as one path; an empty hour has a small mark."""
    most = max(trend, default=0) or 1
    heights = [max(round(28 * count / most, 1), 0.6) for count in trend]
    return "".join(f"M{4 * place} 30v-{height:g}h3v{height:g}z" for place, height in enumerate(heights))


def minute_spark(minutes: Sequence[int]) -> str:
    """The minutes of the last hour as one path; empty without a letter in it."""
    most = max(minutes, default=0)
    bars = []
    for place, count in enumerate(minutes):
        if count:
            height = max(round(28 * count / most, 1), 1.5)
            bars.append(f"M{round(95 / 60 * place, 1):g} 30v-{height:g}h1.2v{height:g}z")
    return "".join(bars)


def trend_words(trend: Sequence[int]) -> str:
    """Text alternative for screen readers."""
    return _words(trend, _HOUR)


def _words(counts: Sequence[int], step: timedelta) -> str:
    by, whole = ("hour", "24 hours") if step == _HOUR else ("minute", "hour")
    head = f"New letters by {by}, last {whole}"
    if not any(counts):
        return f"{head}: none"
    if step == _HOUR:
        return f"{head}: {', '.join(map(str, counts))}"
    return f"{head}: {sum(counts):,}, up to {max(counts):,} a minute"


def chart(group: Group) -> Chart:
    """The last 24 hours, by the hour."""
    return _chart(group.trend, group.trend_from, _HOUR)


def minute_chart(group: Group) -> Chart:
    """The last hour, by the minute."""
    begin = group.as_of.replace(second=0, microsecond=0) - (MINUTES - 1) * _MINUTE
    return _chart(group.minutes or (0,) * MINUTES, begin, _MINUTE)


def _chart(counts: Sequence[int], begin: datetime, step: timedelta) -> Chart:
    """The counts as bars with their scale."""
    top = _round_up(max(counts, default=0))
    each = _WIDTH / len(counts)
    bars = []
    for place, count in enumerate(counts):
        height = round(100 * count / top, 1)
        if count:
            height = max(height, 1.5)  # one of very many is still to be seen
        bars.append(
            Bar(
                x=round(each * (place + 0.1), 1),
                width=round(0.8 * each, 1),
                y=round(100 - height, 1),
                height=height,
                since=begin + place * step,
                count=count,
            )
        )
    edges = (begin + len(counts) * step * quarter / 4 for quarter in range(5))
    return Chart(
        bars=tuple(bars),
        scale=(top, top // 2, 0),
        labels=tuple(f"{edge.astimezone(UTC):%H:%M}" for edge in edges),
        words=_words(counts, step),
    )


def _round_up(most: int) -> int:
    """The next round number for a scale."""
    power = 1
    while True:
        for step in (2, 4, 6, 10):
            if step * power >= most:
                return step * power
        power *= 10
