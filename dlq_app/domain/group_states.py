"""The state of a group: from what people decided about it and what has happened since. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

#: A group is new for this time.
NEW_FOR = timedelta(hours=24)
#: Number of clock hours with their own counts, the current one included.
HOURS = 24
#: Number of clock minutes with their own counts, the current one included.
MINUTES = 60
_HOUR = timedelta(hours=1)


class GroupState(StrEnum):
    #: First seen within the last 24 hours.
    NEW = "new"
    #: First seen earlier.
    ONGOING = "ongoing"
    #: A user resolved it, and a letter of it has failed since.
    REGRESSED = "regressed"
    #: A user hid it for a while.
    IGNORED = "ignored"
    #: A user resolved it and no letter has failed since, or none of its letters is open.
    RESOLVED = "resolved"


#: States that need attention, worst first.
OPEN_STATES = (GroupState.REGRESSED, GroupState.NEW, GroupState.ONGOING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """The last change of a group's state by a user. Ignored without limit: none of the three limits is set."""

    #: ``resolved`` or ``ignored``.
    state: GroupState
    by: str
    at: datetime
    reason: str = ""
    #: Ignored until this time,
    until: datetime | None = None
    #: until more letters than this arrive in one clock hour,
    until_per_hour: int | None = None
    #: or until this number of its letters has failed: whichever comes first.
    until_count: int | None = None
    #: Why ignoring ended: ``time``, ``rate`` or ``count``. It is not ignored again automatically.
    ended: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """The counts of one group."""

    fingerprint: str
    error_type: str
    count: int
    open: int
    #: When the oldest of its stored letters was created.
    first_seen: datetime
    #: Its last failure.
    last_seen: datetime
    #: Message types with their counts, most first.
    types: Sequence[tuple[str, int]] = ()
    #: Letters created in each of the last clock hours, oldest first.
    trend: Sequence[int] = (0,) * HOURS
    #: Letters created in each of the last clock minutes, oldest first; empty if there is none.
    minutes: Sequence[int] = ()
    replayed_at: datetime | None = None
    #: ``succeeded``, ``failed_same``, ``failed_new``; empty without a replay.
    replay_outcome: str = ""
    #: Letters whose last replay ended in the last clock hours.
    replays_succeeded: int = 0
    replays_failed: int = 0


def state_of(
    said: Said | None, group: GroupFigures, now: datetime, *, hours_from: datetime, deaths_since: int = 0
) -> GroupState:
    """The state of a group at ``now``.

    An ignored group stays ignored until a limit is reached. Otherwise a group without open letters is resolved, and one
    that a user resolved and that has failed since is regressed until a user changes it; the rest is new for 24 hours,
    then ongoing. ``hours_from``: beginning of ``trend``. ``deaths_since``: see ``why_ended``.
    """
    is_ignored = said is not None and said.state is GroupState.IGNORED and not said.ended
    if said and is_ignored and not why_ended(said, group, now, hours_from=hours_from, deaths_since=deaths_since):
        return GroupState.IGNORED
    if group.open == 0:
        return GroupState.RESOLVED
    if said and said.state is GroupState.RESOLVED:
        return GroupState.REGRESSED if group.last_seen > said.at else GroupState.RESOLVED
    return GroupState.NEW if now - group.first_seen < NEW_FOR else GroupState.ONGOING


def why_ended(said: Said, group: GroupFigures, now: datetime, *, hours_from: datetime, deaths_since: int = 0) -> str:
    """The limit at which ignoring ends: ``time``, ``rate`` or ``count``; empty if none is reached.

    The rate is judged by whole clock hours that began after the group was ignored, the current one included: the
    failures that led to ignoring must not end it. ``deaths_since``: letters that failed since, for ``until_count``.
    """
    if said.until is not None and now >= said.until:
        return "time"
    if said.until_count is not None and deaths_since >= said.until_count:
        return "count"
    if said.until_per_hour is not None:
        since = [count for n, count in enumerate(group.trend) if hours_from + n * _HOUR >= said.at]
        if max(since, default=0) > said.until_per_hour:
            return "rate"
    return ""
