"""The cron loop: what is due runs, what fails does not stop the rest, a difference in the accounts is told once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone

from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from management.cron import Accounts, Cron, Duty, delete_expired_sessions
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import AccountRow


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def a_cron(clock: Clock, *duties: Duty) -> Cron:
    return Cron(duties, threading.Event(), monotonic=clock)


def noting(done: list[str], name: str) -> Callable[[], None]:
    return lambda: done.append(name)


def test_everything_is_done_at_once_and_then_at_its_interval() -> None:
    clock, done = Clock(), list[str]()
    cron = a_cron(clock, Duty("a", 5, noting(done, "a")), Duty("b", 60, noting(done, "b")))

    first_wait = cron.turn()
    clock.now += 5
    cron.turn()

    assert done == ["a", "b", "a"]
    assert first_wait == 5


def test_nothing_is_done_before_it_is_due() -> None:
    clock, done = Clock(), list[str]()
    cron = a_cron(clock, Duty("a", 5, noting(done, "a")))

    cron.turn()
    clock.now += 4.9
    wait = cron.turn()

    assert done == ["a"]
    assert wait == pytest.approx(0.1)


def test_a_duty_that_fails_is_logged_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    clock, done = Clock(), list[str]()

    def fail() -> None:
        raise OSError("no such host")

    cron = a_cron(clock, Duty("a", 5, fail), Duty("b", 5, noting(done, "b")))

    with caplog.at_level(logging.ERROR, "management.cron"):
        cron.turn()
        clock.now += 5
        cron.turn()

    assert done == ["b", "b"]
    assert [record.__dict__["duty"] for record in caplog.records] == ["a", "a"]


@pytest.mark.parametrize("away", [StoreUnavailable("Redis rejects writes"), LettersUnavailable("no primary")])
def test_a_store_that_is_away_is_told_when_it_begins_and_when_it_ends(
    away: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    clock, answers = Clock(), [away, away, away, None, None, away]

    def ask() -> None:
        if answer := answers.pop(0):
            raise answer

    cron = a_cron(clock, Duty("a", 5, ask))

    with caplog.at_level(logging.INFO, "management.cron"):
        for _ in range(6):
            cron.turn()
            clock.now += 5

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "duty_waits"),
        ("INFO", "duty_goes_on"),
        ("WARNING", "duty_waits"),
    ]


def test_it_ends_between_two_duties() -> None:
    clock, done = Clock(), list[str]()
    stop = threading.Event()
    cron = Cron([Duty("a", 5, stop.set), Duty("b", 5, noting(done, "b"))], stop, monotonic=clock)

    cron.run()

    assert done == []


def a_row(*, accepted: int, done: int, dead: int = 0) -> AccountRow:
    return AccountRow(day="20261124", type="demo", accepted=accepted, done=done, dead=dead, open=0)


def test_a_difference_is_told_when_it_appears_changes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    rows = [a_row(accepted=3, done=3)]
    accounts = Accounts(lambda days: rows)

    with caplog.at_level(logging.WARNING, "management.cron"):
        for accepted, done in ((3, 3), (4, 3), (4, 3), (5, 3), (5, 5)):
            rows[0] = a_row(accepted=accepted, done=done)
            accounts.check(2)

    assert [(r.levelname, r.__dict__["difference"]) for r in caplog.records] == [
        ("ERROR", 1),
        ("ERROR", 2),
        ("WARNING", 0),
    ]


@pytest.mark.django_db
def test_expired_sessions_are_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.db.close_old_connections", lambda: None)  # it would close that of the test
    now = timezone.now()
    for key, hours in (("old", -1), ("valid", 1)):
        Session.objects.create(session_key=key, session_data="", expire_date=now + timedelta(hours=hours))

    delete_expired_sessions()

    assert [session.session_key for session in Session.objects.all()] == ["valid"]


def test_a_count_below_zero_is_told_although_the_row_adds_up(caplog: pytest.LogCaptureFixture) -> None:
    accounts = Accounts(lambda days: [a_row(accepted=0, done=50, dead=-50)])

    accounts.check(2)

    assert [(r.levelname, r.__dict__["below_zero"]) for r in caplog.records] == [("ERROR", 50)]
