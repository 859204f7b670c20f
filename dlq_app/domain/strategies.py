"""When a letter is replayed automatically: soon, off-peak, or never. Pure; the clock is an argument."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo


class Strategy(StrEnum):
    """How the time of a letter's next automatic replay is chosen."""

    IMMEDIATE = "immediate"
    OFF_PEAK = "off_peak"
    MANUAL = "manual"


def immediate(done: int, since: datetime, minutes: Sequence[int]) -> datetime:
    """Time of the replay after ``done`` earlier ones, by the wait of that number in ``minutes``, or the last one."""
    return since + timedelta(minutes=minutes[min(done, len(minutes) - 1)])


def off_peak(after: datetime, hours: Sequence[int], zone: ZoneInfo) -> datetime:
    """The first off-peak slot strictly later than ``after``."""
    return next(slot for slot in _slots(after, hours, zone) if slot > after)


def is_missed(due_at: datetime, now: datetime, window: timedelta) -> bool:
    """Whether the window of an off-peak slot is over."""
    return now >= due_at + window


def _slots(around: datetime, hours: Sequence[int], zone: ZoneInfo) -> Iterator[datetime]:
    # From the day before: near midnight the local date and the UTC date differ, and a skipped slot slides forward.
    day = around.astimezone(zone).date() - timedelta(days=1)
    while True:
        yield from (first_instant(day, hour, zone) for hour in sorted(hours))
        day += timedelta(days=1)


def first_instant(day: date, hour: int, zone: ZoneInfo) -> datetime:
    """The instant at which ``hour`` o'clock begins on the local ``day``, as aware UTC.

    An hour that the clocks skip begins at the first minute that exists after it; one that they repeat begins once, the
    first time.
    """
    wall = datetime.combine(day, time(hour))
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # The wall time does not exist. Read with the offset from after the change it lies before the change, read with the
    # one from before it lies after: the change is in between, and its first minute is the answer.
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    low, high = early, first
    offset = high.astimezone(zone).utcoffset()
    while high - low > timedelta(minutes=1):
        middle = low + timedelta(minutes=int((high - low).total_seconds() // 120))
        if middle.astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high
