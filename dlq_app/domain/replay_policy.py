"""The replay policy, and the status that it gives to a dead letter. Pure."""

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
    """When dead letters are replayed automatically. Raises ``PolicyError`` for a value that is not allowed."""

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
    #: Error type → strategy, for transient errors. Permanent and unknown errors always need a decision.
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
        """The strategy for an error: manual unless it is transient."""
        if error_kind != "transient":
            return Strategy.MANUAL
        return Strategy(self.strategies.get(error_type, self.transient))

    def next_replay_at(self, strategy: Strategy, done: int, since: datetime) -> datetime | None:
        """Due time of the replay after ``done`` automatic ones, or None when there is none."""
        if strategy is Strategy.MANUAL or done >= self.max_automatic_replays:
            return None
        if strategy is Strategy.OFF_PEAK:
            return strategies.off_peak(since, self.off_peak_hours, ZoneInfo(self.time_zone))
        return strategies.immediate(done, since, self.immediate_minutes)

    def missed(self, strategy: Strategy, due_at: datetime, now: datetime) -> datetime | None:
        """The next slot when the one at ``due_at`` is over; None when the replay may run now."""
        window = timedelta(minutes=self.off_peak_window_minutes)
        if strategy is Strategy.OFF_PEAK and strategies.is_missed(due_at, now, window):
            return strategies.off_peak(now, self.off_peak_hours, ZoneInfo(self.time_zone))
        return None


@dataclass(frozen=True, slots=True)
class Placement:
    """The status, strategy and next replay of a letter after a death."""

    status: Status
    strategy: Strategy
    next_retry_at: datetime | None


def place_first(policy: ReplayPolicy, *, error_type: str, error_kind: str, died_at: datetime) -> Placement:
    """The placement after the death of a new message: it waits for an automatic replay, or needs a decision."""
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
    """The placement after a failed replay, with ``done`` automatic ones before.

    A letter that was set aside stays so: a replay by hand does not restart the automatic ones.
    """
    strategy = policy.strategy(error_type, error_kind)
    if strategy is Strategy.MANUAL or was_set_aside:
        return Placement(Status.MANUAL, strategy, None)
    due_at = policy.next_replay_at(strategy, done, died_at)
    if due_at is None:
        # All are used; or the policy allows none, and then no replay has failed.
        return Placement(Status.FAILED if done else Status.MANUAL, strategy, None)
    return Placement(Status.PENDING, strategy, due_at)
