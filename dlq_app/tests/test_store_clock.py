"""Letters say when something happened by MongoDB's clock, whatever the clock of the writer says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dlq_app.rest import contract
from dlq_app.services import dead_letters
from dlq_app.store import repository
from dlq_app.store.store_clock import ASK_EVERY_S, StoreClock
from dlq_app.testing import a_death

START = datetime(2027, 1, 15, 8, tzinfo=UTC)


class Hosts:
    """A server, and a host whose clock can be set."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.shift = 0.0
        self.asked = 0
        self.clock = StoreClock(
            self.ask, monotonic=lambda: self.passed, wall=lambda: START.timestamp() + self.passed + self.shift
        )

    def ask(self) -> datetime:
        self.asked += 1
        return START + timedelta(seconds=self.passed)


def test_the_server_is_asked_once_in_a_while() -> None:
    hosts = Hosts()
    for hosts.passed in (0.0, 1.0, ASK_EVERY_S):
        assert hosts.clock.now() == START + timedelta(seconds=hosts.passed)
    assert hosts.asked == 1
    hosts.passed += 1
    assert hosts.clock.now() == START + timedelta(seconds=hosts.passed)
    assert hosts.asked == 2


def test_a_clock_that_is_set_changes_nothing() -> None:
    hosts = Hosts()
    hosts.clock.now()
    hosts.shift = 3600.0
    assert hosts.clock.now() == START
    assert hosts.asked == 2


@pytest.mark.mongo
def test_letters_have_the_time_of_the_server(mongo_db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose clock is an hour behind is a host whose clock is an hour ahead."""
    behind = StoreClock(lambda: repository.letters().server_now() - timedelta(hours=1))
    monkeypatch.setattr(repository, "_clock", lambda: behind)
    dead_letters.record_outcomes([a_death("m-1")], [])
    dead_letters.add_note("m-1", actor="ann", text="look")
    dead_letters.set_aside("m-1", actor="ann")

    letter = repository.letters().find("m-1")
    assert letter is not None
    told = [letter.created_at, letter.updated_at, letter.notes[0]["at"], *(entry["at"] for entry in letter.history)]
    assert len(told) > 4
    assert max(told) < datetime.now(UTC) - timedelta(minutes=50)


def test_what_lies_in_the_future_is_judged_by_the_stores_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(repository, "_clock", lambda: StoreClock(lambda: ahead))

    with pytest.raises(ValueError, match="must be in the future"):
        contract._read_future((ahead - timedelta(minutes=1)).isoformat())
    assert contract._read_future((ahead + timedelta(minutes=1)).isoformat()) == ahead + timedelta(minutes=1)
