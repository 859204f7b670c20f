"""The policy file: what it accepts, and when it lets a notification pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_django import Settings

from notify_app import checks, conf
from notify_app.domain import schedule
from notify_app.domain.events import Event, Kind, Severity
from notify_app.domain.policy import NotifyPolicy, Recipient
from notify_app.domain.wording import MAX_LINE, plain
from notify_app.tests.receivers import a_recipient, policy
from wire.errors import PolicyError

QUIET = {"from": "22:00", "to": "07:00", "zone": "Europe/Berlin"}


def read(**tables: Any) -> NotifyPolicy:
    return NotifyPolicy.from_mapping(tables, file="notify.toml")


def one(**changes: Any) -> Recipient:
    return read(recipients={"team": a_recipient(**changes)}).recipients["team"]


def event(kind: Kind = Kind.GROUP_NEW, severity: Severity = Severity.WARNING, **changes: Any) -> Event:
    return Event(kind=kind, severity=severity, key="k", subject="s", title="t", **changes)


@pytest.mark.parametrize(
    ("tables", "named"),
    [
        ({"recipient": {}}, "unknown table 'recipient'"),
        ({"recipients": {"a b": a_recipient()}}, "letters, digits"),
        ({"recipients": {"team": {"channel": "apprise"}}}, "url_env is required"),
        ({"recipients": {"team": {"url_env": "X"}}}, "channel is required"),
        ({"recipients": {"team": a_recipient(channel="sms")}}, "must be one of apprise, webhook"),
        ({"recipients": {"team": a_recipient(url_env="https://hooks.example.org")}}, "name of an environment variable"),
        ({"recipients": {"team": {"channel": "webhook", "url_env": "X"}}}, "secrets is required"),
        ({"recipients": {"team": a_recipient(channel="apprise")}}, "must be left out"),
        ({"recipients": {"team": a_recipient(events=["group_newest"])}}, "group_new"),
        ({"recipients": {"team": a_recipient(events=["digest"])}}, "group_new"),
        ({"recipients": {"team": a_recipient(quiet={**QUIET, "zone": "Mars/Phobos"})}}, "name of a time zone"),
        ({"recipients": {"team": a_recipient(quiet={**QUIET, "to": "24:00"})}}, "time of day"),
        ({"recipients": {"team": a_recipient(quiet={"from": "22:00", "to": "07:00"})}}, "zone is required"),
        ({"recipients": {"team": a_recipient(quiet={**QUIET, "to": "22:00"})}}, "must differ"),
        ({"digest": {"recipients": ["team"]}}, "known are none"),
        ({"limits": {"keep_days": 0}}, "from 1 to 365"),
        ({"recipients": {f"r{number}": a_recipient() for number in range(21)}}, "at most 20"),
    ],
)
def test_a_mistake_names_its_place_and_what_is_allowed(tables: dict[str, Any], named: str) -> None:
    with pytest.raises(PolicyError, match=r"notify\.toml") as caught:
        read(**tables)

    assert named in str(caught.value)


@pytest.mark.parametrize(
    "mistake", [{"url_env": "slack://t0k3n/t0k3n"}, {"secrets": ["whsec_t0k3n="]}, {"secrets": "whsec_t0k3n"}]
)
def test_a_secret_in_the_place_of_its_variable_is_not_repeated(mistake: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="environment variable") as caught:
        read(recipients={"team": a_recipient(**mistake)})

    assert "t0k3n" not in str(caught.value)


def test_the_shipped_policy_has_no_recipient(settings: Settings) -> None:
    assert not conf.is_configured()
    assert list(checks.check_notify_policy()) == []


def test_checks_name_what_is_missing(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    with policy(recipients={"team": a_recipient()}):
        monkeypatch.delenv("HOOK_URL", raising=False)
        assert [found.id for found in checks.check_notify_policy()] == ["notify_app.W001"] * 2
        settings.CONSOLE_URL = ""
        assert "notify_app.W002" in [found.id for found in checks.check_notify_policy()]
        settings.CONSOLE_URL = "dlq.example.org"
        assert "notify_app.E002" in [found.id for found in checks.check_notify_policy()]
    with policy(recipients={"team": {}}):
        assert [found.id for found in checks.check_notify_policy()] == ["notify_app.E001"]
    with policy(digest=1):
        assert [found.id for found in checks.check_notify_policy()] == ["notify_app.E001"]


def test_filters_of_letters_apply_to_events_about_letters_only() -> None:
    team = one(types=["payment.capture"], error_types=["TIMEOUT_ERROR"], sources=["shop"])
    about: dict[str, Any] = {"types": ("payment.capture", "x"), "error_types": ("TIMEOUT_ERROR",), "sources": ("shop",)}

    assert team.wants(event(**about))
    assert not team.wants(event(**{**about, "sources": ("erp",)}))
    assert team.wants(event(Kind.BREAKER_OPENED, Severity.CRITICAL))
    assert not one(severities=["critical"]).wants(event())
    assert not one(events=["batch_stopped"]).wants(event())


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-11-30T20:59:00Z", None),
        ("2026-11-30T21:00:00Z", "2026-12-01T06:00:00Z"),
        ("2026-12-01T05:59:00Z", "2026-12-01T06:00:00Z"),
        ("2026-12-01T06:00:00Z", None),
        # The night in which the clocks change has one hour more, or less.
        ("2026-10-24T20:30:00Z", "2026-10-25T06:00:00Z"),
        ("2027-03-27T21:30:00Z", "2027-03-28T05:00:00Z"),
    ],
)
def test_quiet_hours_end_in_their_zone(at: str, until: str | None) -> None:
    held = one(quiet=QUIET).held_until(Severity.WARNING, datetime.fromisoformat(at))

    assert held == (datetime.fromisoformat(until) if until else None)


def test_quiet_hours_that_end_in_the_repeated_hour_never_end_in_the_past() -> None:
    team = one(quiet={**QUIET, "to": "02:30"})

    ends = [team.held_until(Severity.WARNING, datetime(2026, 10, 25, hour, 15, tzinfo=UTC)) for hour in (0, 1)]

    assert ends == [datetime(2026, 10, 25, hour, 30, tzinfo=UTC) for hour in (0, 1)]


def test_critical_ones_pass_quiet_hours_unless_the_policy_holds_them() -> None:
    night = datetime(2026, 12, 1, 2, tzinfo=UTC)

    assert one(quiet=QUIET).held_until(Severity.CRITICAL, night) is None
    assert one(quiet={**QUIET, "critical": "hold"}).held_until(Severity.CRITICAL, night) is not None


def test_the_digest_is_due_from_its_time_until_midnight() -> None:
    digest = read(
        recipients={"team": a_recipient()}, digest={"recipients": ["team"], "time": "08:00", "zone": "Asia/Tokyo"}
    ).digest

    assert schedule.digest_day(digest, datetime(2026, 11, 30, 22, 59, tzinfo=UTC)) is None
    day = schedule.digest_day(digest, datetime(2026, 11, 30, 23, 0, tzinfo=UTC))
    assert str(day) == "2026-12-01"
    assert schedule.digest_day(digest, datetime(2026, 12, 1, 14, 59, tzinfo=UTC)) == day
    assert schedule.digest_day(digest, datetime(2026, 12, 1, 15, 0, tzinfo=UTC)) is None


def test_the_delay_doubles_up_to_its_maximum() -> None:
    assert [schedule.again_after(number).total_seconds() for number in (1, 2, 3, 6, 99)] == [30, 60, 120, 900, 900]


def test_a_text_from_outside_stays_on_its_line_and_short() -> None:
    assert plain("a\nb\tc") == "a b c"
    assert plain("see https://evil.example/x") == "see https: //evil.example/x"
    assert len(plain("x" * 10_000)) == MAX_LINE
    assert plain("\u202eevil\x00") == "\\u202eevil\\u0000"


def test_a_lease_is_longer_than_a_step_may_take() -> None:
    from processes.steps import END_S

    assert timedelta(seconds=END_S) < schedule.LEASE
