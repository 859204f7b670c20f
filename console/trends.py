"""Whether something gets worse: from its number in each of the last minutes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import sqrt
from typing import Final

from console.times import took

#: Clock minutes with their own count; the last one still runs.
MINUTES: Final = 60
#: Minutes that are compared with those before them.
_RECENT, _BEFORE = 5, 15
#: Something is over after this many seconds without it, and after this many times its usual distance.
_OVER_S, _OVER_GAPS = 180.0, 5
#: So few have no pace.
_FEW = 4


class Trend(StrEnum):
    RISING = "rising"
    STEADY = "steady"
    FALLING = "falling"
    OVER = "over"
    #: Nothing within the last hour.
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The course of the last hour."""

    trend: Trend
    #: Within the last minutes, and in the quarter of an hour before.
    per_minute: float = 0.0
    before: float = 0.0
    #: Within the hour.
    total: int = 0
    #: Seconds since the last one; only if it is over.
    over_for_s: float = 0.0

    @property
    def words(self) -> str:
        """``12 a minute, rising``, ``over for 6 min``; empty if nothing happened."""
        match self.trend:
            case Trend.NONE:
                return ""
            case Trend.OVER:
                return f"over for {took(self.over_for_s)}"
        return f"{self.total} in the last hour" if self.total <= _FEW else f"{pace(self.per_minute)}, {self.trend}"

    @property
    def tone(self) -> str:
        """``up-bad``, ``down-ok`` or none."""
        return {Trend.RISING: "up-bad", Trend.FALLING: "down-ok", Trend.OVER: "down-ok"}.get(self.trend, "")


def course(minutes: Sequence[int], into_s: float, *, last_s: float | None = None) -> Course:
    """The course of ``minutes``, counts by the clock minute, oldest first.

    ``into_s``: how far the last minute has come, in seconds. ``last_s``: seconds since the last one, if known better
    than to the minute.
    """
    total = sum(minutes)
    if not total:
        return Course(trend=Trend.NONE)
    first, last = _ends(minutes)
    quiet = len(minutes) - 1 - last
    since_minute_s = max(0.0, into_s + 60 * (quiet - 1)) if quiet else 0.0
    # At most a minute apart: what is farther off is about something else.
    known = last_s is not None and since_minute_s <= last_s <= since_minute_s + 60
    quiet_s = last_s if known and last_s is not None else since_minute_s
    gap_s = 60 * (last - first + 1) / total
    if quiet and quiet_s >= max(_OVER_S, _OVER_GAPS * gap_s):
        return Course(trend=Trend.OVER, total=total, over_for_s=quiet_s)
    # What has just begun has no pace of the minutes before it.
    spent = max(1.0, min(_RECENT - 1, len(minutes) - 1 - first) + min(into_s, 60.0) / 60)
    recent, earlier = sum(minutes[-_RECENT:]), minutes[-_RECENT - _BEFORE : -_RECENT]
    before = sum(earlier) / _BEFORE
    expected = before * spent
    # Small numbers vary by chance.
    margin = 2 * sqrt(expected) + 2
    trend = Trend.STEADY
    if total <= _FEW:
        pass
    elif quiet > 1 and gap_s < 20:
        trend = Trend.FALLING
    elif recent > expected + margin:
        trend = Trend.RISING
    elif recent < expected - margin:
        trend = Trend.FALLING
    return Course(
        trend=trend, per_minute=recent / spent if recent else total / len(minutes), before=before, total=total
    )


def _ends(minutes: Sequence[int]) -> tuple[int, int]:
    """The first and the last minute that is not empty."""
    busy = [place for place, count in enumerate(minutes) if count]
    return busy[0], busy[-1]


def pace(per_minute: float) -> str:
    """``120 a minute``, ``1.5 a minute``, ``18 an hour``."""
    if per_minute >= 9.5:
        return f"{per_minute:,.0f} a minute"
    if per_minute >= 0.95:
        return f"{per_minute:.1f}".removesuffix(".0") + " a minute"
    per_hour = per_minute * 60
    return f"{per_hour:.0f} an hour" if per_hour >= 1 else "less than 1 an hour"


def added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Sums by the minute; an empty sequence counts as zeros."""
    if not one or not other:
        return tuple(one or other)
    return tuple(a + b for a, b in zip(one, other, strict=True))
