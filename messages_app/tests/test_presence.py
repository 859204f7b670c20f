"""Which processes are alive, by the server's clock."""

from __future__ import annotations

import os

import pytest

from messages_app.store.presence import FORGET_MS, SILENCE_MS, Register
from messages_app.store.scripts import load_scripts
from messages_app.tests.ledgers import Desk, on_test_clock

pytestmark = pytest.mark.redis


@pytest.fixture
def register(desk: Desk) -> Register:
    return Register(desk.client, scripts=load_scripts(on_test_clock))


def test_a_process_is_there_until_it_is_silent(desk: Desk, register: Register) -> None:
    seen_at = register.announce("host:1", "worker", started_at_ms=7, details={"running": 3})
    (present,) = register.present()

    assert (present.name, present.role, present.pid, present.started_at_ms) == ("host:1", "worker", os.getpid(), 7)
    assert (present.seen_at_ms, present.details) == (seen_at, {"running": 3})
    assert seen_at == desk.now
    desk.wait(SILENCE_MS - 1)
    assert len(register.present()) == 1
    desk.wait(1)
    assert register.present() == []
    register.announce("host:1", "worker", started_at_ms=7)
    assert [again.seen_at_ms for again in register.present()] == [desk.now]


def test_roles_are_told_apart(register: Register) -> None:
    register.announce("a", "worker", started_at_ms=1)
    register.announce("b", "cron", started_at_ms=1)

    assert [present.name for present in register.present("cron")] == ["b"]
    assert register.present("dlq_worker") == []


def test_who_ends_says_so(register: Register) -> None:
    register.announce("a", "worker", started_at_ms=1)
    register.withdraw("a")
    register.withdraw("nobody")

    assert register.present() == []


def test_the_dead_are_forgotten_in_time(desk: Desk, register: Register) -> None:
    register.announce("a", "worker", started_at_ms=1)
    desk.wait(FORGET_MS)
    register.announce("b", "worker", started_at_ms=1)

    assert desk.client.hkeys("dlq:presence:about") == [b"b"]
    assert desk.client.zrange("dlq:presence", 0, -1) == [b"b"]


def test_a_clock_that_is_off_is_told_from_the_second_beat_on(desk: Desk) -> None:
    ahead = Register(desk.client, scripts=load_scripts(on_test_clock), wall=lambda: desk.now / 1000 + 3600)
    behind = Register(desk.client, scripts=load_scripts(on_test_clock), wall=lambda: desk.now / 1000 - 3)
    right = Register(desk.client, scripts=load_scripts(on_test_clock), wall=lambda: desk.now / 1000)
    for _ in range(2):
        ahead.announce("ahead", "worker", started_at_ms=1)
        behind.announce("behind", "worker", started_at_ms=1)
        right.announce("right", "worker", started_at_ms=1)

    told = {one.name: one.clock_off_ms for one in right.present()}
    assert told == {"ahead": 3_600_000, "behind": -3000, "right": 0}
