"""In which state a group is: by what people said about it and what happened since. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

#: How long a group counts as new.
NEW_FOR = timedelta(hours=24)
_HOUR = timedelta(hours=1)


class GroupState(StrEnum):
    """What a person who looks at the list of groups needs to know of one."""

    #: Seen for the first time within the last 24 hours.
    NEW = "new"
    #: Seen for longer.
    ONGOING = "ongoing"
    #: Somebody resolved it, and a letter of it died since.
    REGRESSED = "regressed"
    #: Somebody wants to hear no more of it for a while.
    IGNORED = "ignored"
    #: Somebody resolved it and no letter died since, or none of its letters is open.
    RESOLVED = "resolved"


#: In these somebody should look at it, worst first.
OPEN_STATES = (GroupState.REGRESSED, GroupState.NEW, GroupState.ONGOING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What somebody said last about the state of a group. Unlimited ignoring has none of the three ends."""

    #: ``resolved`` or ``ignored``.
    state: GroupState
    by: str
    at: datetime
    reason: str = ""
    #: Ignored until this instant, …
    until: datetime | None = None
    #: … until more letters than this arrive in one clock hour, …
    until_per_hour: int | None = None
    #: … or until so many letters of it have died since. Whatever comes first.
    until_count: int | None = None
    #: Why ignoring ended: ``time``, ``rate`` or ``count``. It does not begin again by itself.
    ended: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What happened in a group."""

    open: int
    first_seen: datetime
    last_seen: datetime
    #: Letters that arrived in each of the clock hours from ``hours_from`` on.
    trend: Sequence[int]
    hours_from: datetime
    #: Letters that died since it was ignored; needed only for ``until_count``.
    deaths_since: int = 0


def state_of(said: Said | None, seen: Seen, now: datetime) -> GroupState:
    """The state of a group at ``now``.

    Ignored holds, whatever happens, until one of its ends is reached. Otherwise a group in which nothing is open is
    resolved: there is nothing to do. What somebody resolved and what died since is regressed until somebody says
    something else; the rest is new for 24 hours, then ongoing.
    """
    if said and said.state is GroupState.IGNORED and not (said.ended or why_ended(said, seen, now)):
        return GroupState.IGNORED
    if seen.open == 0:
        return GroupState.RESOLVED
    if said and said.state is GroupState.RESOLVED:
        return GroupState.REGRESSED if seen.last_seen > said.at else GroupState.RESOLVED
    return GroupState.NEW if now - seen.first_seen < NEW_FOR else GroupState.ONGOING


def why_ended(said: Said, seen: Seen, now: datetime) -> str:
    """``time``, ``rate`` or ``count`` when an end of ignoring is reached, else empty.

    The rate is judged by whole clock hours that began after the group was ignored, the present one included: what made
    somebody ignore it must not end that.
    """
    if said.until is not None and now >= said.until:
        return "time"
    if said.until_count is not None and seen.deaths_since >= said.until_count:
        return "count"
    if said.until_per_hour is not None:
        since = [count for n, count in enumerate(seen.trend) if seen.hours_from + n * _HOUR >= said.at]
        if max(since, default=0) > said.until_per_hour:
            return "rate"
    return ""
