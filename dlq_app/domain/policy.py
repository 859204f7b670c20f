"""The replay policy, which validates itself, and where a death leads under it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from dlq_app.domain import strategies
from dlq_app.domain.states import Status
from dlq_app.domain.strategies import Strategy
from wire.fields import integer, list_of, one_of
from wire.policy import Readers, read_table, validate

FILE = "replay.toml"
_ERROR_TYPE = re.compile(r"[A-Z][A-Z0-9_]{0,63}\Z")


def _time_zone(value: object) -> str:
    accepted = "must be the IANA name of a time zone, such as Europe/Berlin"
    if not isinstance(value, str):
        raise ValueError(accepted)
    try:
        ZoneInfo(value)
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(accepted) from error
    return value


def _automatic(value: object) -> Strategy:
    return Strategy(one_of((Strategy.IMMEDIATE, Strategy.OFF_PEAK))(value))


def _strategies(value: object) -> dict[str, Strategy]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a table of error type = strategy")
    for error_type in value:
        if not _ERROR_TYPE.match(error_type):
            raise ValueError("must have error types in capitals, such as DATABASE_ERROR, as keys")
    return read_table(value, dict.fromkeys(value, _automatic), f"{FILE} [strategies]")


_READERS: Readers = {
    "max_automatic_replays": integer(0, 50),
    "immediate_minutes": list_of(integer(1, 10_080), 1, 50, "a list of 1 to 50 whole numbers from 1 to 10080"),
    "off_peak_hours": list_of(integer(0, 23), 1, 50, "a list of whole numbers from 0 to 23"),
    "off_peak_window_minutes": integer(1, 720),
    "time_zone": _time_zone,
    "transient": _automatic,
    "strategies": _strategies,
    "keep_resolved_days": integer(0, 3650),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPolicy:
    """How dead letters replay by themselves. Every value is checked when built; a wrong one raises ``PolicyError``."""

    #: Automatic replays a letter gets before it is ``dlq_failed``. 0 to 50.
    max_automatic_replays: int = 5
    #: Waits before automatic replay 1, 2, 3 …, in minutes. 1 to 10080 each.
    immediate_minutes: tuple[int, ...] = (1, 5, 15, 30, 60)
    #: Local hours at which off-peak replays run. 0 to 23.
    off_peak_hours: tuple[int, ...] = (2, 3, 4)
    #: Minutes after its slot during which an off-peak replay may still start. 1 to 720.
    off_peak_window_minutes: int = 60
    #: IANA name of the zone whose clock the hours are read from.
    time_zone: str = "UTC"
    #: Strategy of transient errors that ``strategies`` does not name.
    transient: Strategy = Strategy.IMMEDIATE
    #: Error type → strategy, for transient errors. Permanent and unknown ones always wait for a person.
    strategies: Mapping[str, Strategy] = field(default_factory=dict)
    #: Days after which a resolved letter is deleted; 0 keeps it for ever. 0 to 3650.
    keep_resolved_days: int = 90

    def __post_init__(self) -> None:
        validate(self, _READERS, FILE)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], *, time_zone: str = "UTC") -> ReplayPolicy:
        """The policy in a parsed ``replay.toml``; missing keys have their default, ``time_zone`` the given one."""
        return cls(**read_table({"time_zone": time_zone, **raw}, _READERS, FILE))

    def strategy(self, error_type: str, error_kind: str) -> Strategy:
        """Manual unless time alone can cure the error."""
        if error_kind != "transient":
            return Strategy.MANUAL
        return Strategy(self.strategies.get(error_type, self.transient))

    def next_replay_at(self, strategy: Strategy, done: int, since: datetime) -> datetime | None:
        """When the replay after ``done`` automatic ones is due, or None when there is none."""
        if strategy is Strategy.MANUAL or done >= self.max_automatic_replays:
            return None
        if strategy is Strategy.OFF_PEAK:
            return strategies.off_peak(since, self.off_peak_hours, ZoneInfo(self.time_zone))
        return strategies.immediate(done, since, self.immediate_minutes)

    def missed(self, strategy: Strategy, due_at: datetime, now: datetime) -> datetime | None:
        """The slot to wait for instead when the one at ``due_at`` is over; None when the replay may run now."""
        window = timedelta(minutes=self.off_peak_window_minutes)
        if strategy is Strategy.OFF_PEAK and strategies.is_missed(due_at, now, window):
            return strategies.off_peak(now, self.off_peak_hours, ZoneInfo(self.time_zone))
        return None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a letter goes with a death."""

    status: Status
    strategy: Strategy
    next_retry_at: datetime | None


def place_first(policy: ReplayPolicy, *, error_type: str, error_kind: str, died_at: datetime) -> Placement:
    """Where the death of a new message leads: to wait for its first automatic replay, or for a person."""
    return place_again(policy, error_type=error_type, error_kind=error_kind, died_at=died_at, done=0)


def place_again(
    policy: ReplayPolicy,
    *,
    error_type: str,
    error_kind: str,
    died_at: datetime,
    done: int,
    was_set_aside: bool = False,
) -> Placement:
    """Where the death of a replay leads, after ``done`` automatic ones.

    A letter that a person had set aside stays aside: one replay by hand does not start the automatic ones again.
    """
    strategy = policy.strategy(error_type, error_kind)
    if strategy is Strategy.MANUAL or was_set_aside:
        return Placement(Status.MANUAL, strategy, None)
    due_at = policy.next_replay_at(strategy, done, died_at)
    if due_at is None:
        # Used up; or the policy wants none at all, then nothing has failed that a person could be told of.
        return Placement(Status.FAILED if done else Status.MANUAL, strategy, None)
    return Placement(Status.PENDING, strategy, due_at)
