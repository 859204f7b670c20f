"""When letters replay by themselves, and what a policy refuses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as some

from dlq_app import conf
from dlq_app.domain.replay_policy import Placement, ReplayPolicy, place_again, place_first
from dlq_app.domain.states import Status
from dlq_app.domain.strategies import Strategy, first_instant, immediate, off_peak
from dlq_app.testing import NOON
from wire.errors import PolicyError

POLICY = ReplayPolicy(strategies={"DATABASE_ERROR": Strategy.OFF_PEAK})
BERLIN = ZoneInfo("Europe/Berlin")


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[misc,arg-type]


def test_immediate_waits_grow_to_an_hour() -> None:
    waits = [immediate(done, NOON, (1, 5, 15, 30, 60)) - NOON for done in range(7)]

    assert [int(wait.total_seconds() // 60) for wait in waits] == [1, 5, 15, 30, 60, 60, 60]


@pytest.mark.parametrize(
    ("after", "slot"),
    [
        (utc(2026, 11, 24, 12), utc(2026, 11, 25, 1)),
        (utc(2026, 11, 25, 0, 59, 59), utc(2026, 11, 25, 1)),
        (utc(2026, 11, 25, 1), utc(2026, 11, 25, 2)),
        (utc(2026, 11, 25, 2, 30), utc(2026, 11, 25, 3)),
        (utc(2026, 11, 25, 3), utc(2026, 11, 26, 1)),
        # The clocks skip 02:00 to 03:00: the slots of 2 and 3 o'clock are one.
        (utc(2026, 3, 28, 23), utc(2026, 3, 29, 1)),
        (utc(2026, 3, 29, 1), utc(2026, 3, 29, 2)),
        # They repeat 02:00 to 03:00: once, the first time.
        (utc(2026, 10, 24, 23), utc(2026, 10, 25, 0)),
        (utc(2026, 10, 25, 0), utc(2026, 10, 25, 2)),
        (utc(2026, 10, 25, 1, 30), utc(2026, 10, 25, 2)),
    ],
)
def test_off_peak_slots_by_the_clock_of_berlin(after: datetime, slot: datetime) -> None:
    assert off_peak(after, (2, 3, 4), BERLIN) == slot


@pytest.mark.parametrize(
    ("zone", "day", "hour", "instant"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 2, utc(2026, 3, 29, 1)),
        ("America/New_York", date(2026, 3, 8), 2, utc(2026, 3, 8, 7)),
        ("America/New_York", date(2026, 11, 1), 1, utc(2026, 11, 1, 5)),
        ("Australia/Lord_Howe", date(2026, 10, 4), 2, utc(2026, 10, 3, 15, 30)),
        # A whole day that never was.
        ("Pacific/Apia", date(2011, 12, 30), 3, utc(2011, 12, 30, 10)),
        # Midnight skipped.
        ("America/Sao_Paulo", date(2018, 11, 4), 0, utc(2018, 11, 4, 3)),
        ("Asia/Kolkata", date(2026, 11, 24), 2, utc(2026, 11, 23, 20, 30)),
    ],
)
def test_an_hour_begins_at_the_first_minute_that_exists(zone: str, day: date, hour: int, instant: datetime) -> None:
    assert first_instant(day, hour, ZoneInfo(zone)) == instant


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Casablanca"]


@given(
    some.integers(0, 32 * 365 * 24 * 60),
    some.sampled_from(ZONES),
    some.sets(some.integers(0, 23), min_size=1, max_size=4),
)
def test_a_slot_is_later_and_within_two_days_and_at_a_full_hour_or_just_after_a_gap(
    minutes: int, zone: str, hours: set[int]
) -> None:
    now = utc(2005, 1, 1) + timedelta(minutes=minutes)

    slot = off_peak(now, tuple(hours), ZoneInfo(zone))

    assert now < slot <= now + timedelta(hours=49)
    local = slot.astimezone(ZoneInfo(zone))
    minute_before = (slot - timedelta(minutes=1)).astimezone(ZoneInfo(zone))
    assert (local.hour in hours and local.minute == 0) or local.utcoffset() != minute_before.utcoffset()


def test_a_slot_may_start_late_within_its_window_only() -> None:
    due_at = utc(2026, 11, 25, 2)

    assert POLICY.missed(Strategy.OFF_PEAK, due_at, due_at + timedelta(minutes=59)) is None
    assert POLICY.missed(Strategy.OFF_PEAK, due_at, due_at + timedelta(minutes=60)) == utc(2026, 11, 25, 4)
    assert POLICY.missed(Strategy.OFF_PEAK, due_at, utc(2026, 11, 25, 10)) == utc(2026, 11, 26, 2)
    assert POLICY.missed(Strategy.IMMEDIATE, due_at, utc(2026, 11, 25, 10)) is None


@pytest.mark.parametrize(
    ("error_type", "error_kind", "place"),
    [
        ("TIMEOUT_ERROR", "transient", Placement(Status.PENDING, Strategy.IMMEDIATE, NOON + timedelta(minutes=1))),
        ("DATABASE_ERROR", "transient", Placement(Status.PENDING, Strategy.OFF_PEAK, utc(2026, 11, 25, 2))),
        ("VALIDATION_ERROR", "permanent", Placement(Status.MANUAL, Strategy.MANUAL, None)),
        ("DATABASE_ERROR", "permanent", Placement(Status.MANUAL, Strategy.MANUAL, None)),
        ("UNKNOWN_ERROR", "unknown", Placement(Status.MANUAL, Strategy.MANUAL, None)),
        ("UNKNOWN_ERROR", "nonsense", Placement(Status.MANUAL, Strategy.MANUAL, None)),
    ],
)
def test_where_a_first_death_leads(error_type: str, error_kind: str, place: Placement) -> None:
    assert place_first(POLICY, error_type=error_type, error_kind=error_kind, died_at=NOON) == place


@pytest.mark.parametrize(
    ("done", "set_aside", "status"),
    [(1, False, Status.PENDING), (4, False, Status.PENDING), (5, False, Status.FAILED), (1, True, Status.MANUAL)],
)
def test_where_the_death_of_a_replay_leads(done: int, set_aside: bool, status: Status) -> None:
    place = place_again(
        POLICY,
        error_type="TIMEOUT_ERROR",
        error_kind="transient",
        died_at=NOON,
        done=done,
        was_set_aside=set_aside,
    )

    assert place.status is status
    assert (place.next_retry_at is None) == (status is not Status.PENDING)


def test_a_policy_without_automatic_replays_leaves_letters_to_people() -> None:
    policy = ReplayPolicy(max_automatic_replays=0)

    place = place_first(policy, error_type="TIMEOUT_ERROR", error_kind="transient", died_at=NOON)
    assert place.status is Status.MANUAL


@pytest.mark.parametrize(
    ("raw", "key", "accepted"),
    [
        ({"max_automatic_replays": 51}, "max_automatic_replays", "0 to 50"),
        ({"max_automatic_replays": True}, "max_automatic_replays", "whole number"),
        ({"max_automatic_replays": 1.5}, "max_automatic_replays", "whole number"),
        ({"immediate_minutes": []}, "immediate_minutes", "1 to 50"),
        ({"immediate_minutes": [0]}, "immediate_minutes", "1 to 10080"),
        ({"immediate_minutes": 5}, "immediate_minutes", "list"),
        ({"off_peak_hours": [24]}, "off_peak_hours", "0 to 23"),
        ({"off_peak_window_minutes": 0}, "off_peak_window_minutes", "1 to 720"),
        ({"time_zone": "Mars/Olympus"}, "time_zone", "IANA"),
        ({"time_zone": 1}, "time_zone", "IANA"),
        ({"time_zone": "../../etc/passwd"}, "time_zone", "IANA"),
        ({"transient": "manual"}, "transient", "immediate, off_peak"),
        ({"transient": []}, "transient", "immediate, off_peak"),
        ({"strategies": {"timeout": "immediate"}}, "strategies", "capitals"),
        ({"strategies": {"TIMEOUT_ERROR": "never"}}, "replay.toml [strategies]: TIMEOUT_ERROR", "off_peak"),
        ({"strategies": []}, "strategies", "table"),
        ({"keep_resolved_days": -1}, "keep_resolved_days", "0 to 3650"),
        ({"max_replays": 3}, "max_replays", "known are"),
    ],
)
def test_a_policy_that_is_wrong_says_where_and_what_is_accepted(raw: dict[str, Any], key: str, accepted: str) -> None:
    with pytest.raises(PolicyError) as caught:
        ReplayPolicy.parse(raw)

    assert "replay.toml" in caught.value.detail
    assert key in caught.value.detail
    assert accepted in caught.value.detail


def test_the_shipped_policy_is_the_default_one() -> None:
    shipped = conf.replay_policy()

    assert shipped.max_automatic_replays == 5
    assert shipped.immediate_minutes == (1, 5, 15, 30, 60)
    assert shipped.off_peak_hours == (2, 3, 4)


def test_a_wrong_policy_fails_the_system_check() -> None:
    with override_settings(REPLAY_POLICY={"max_automatic_replays": 99}, MASKING_POLICY={"contains": ["X-Y"]}):
        found = {message.id for message in run_checks() if (message.id or "").startswith("dlq_app")}

    assert found == {"dlq_app.E001", "dlq_app.E002"}
    assert not [message for message in run_checks() if (message.id or "").startswith("dlq_app")]
