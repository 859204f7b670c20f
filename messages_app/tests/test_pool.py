"""The threads that run handlers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dlqsite.tests.patience import eventually
from messages_app.domain.records import Completed, Deferred, Failed, Outcome
from messages_app.envelope import Message
from messages_app.tests.handling import a_claimed, handling
from messages_app.work import pool as pool_module
from messages_app.work.pool import Pool
from messages_app.work.runner import Attempt, Runner


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(3, Runner("w-1"))
    pool.start()
    yield pool
    pool.close()


def attempts(count: int, **differing: Any) -> list[Attempt]:
    now = time.monotonic()
    return [Attempt(a_claimed(message_id=f"m{number}", **differing), now) for number in range(count)]


def take(pool: Pool, count: int) -> list[Outcome | None]:
    return [pool.outcomes.get(timeout=10) for _ in range(count)]


def test_every_message_has_one_outcome(pool: Pool) -> None:
    for _ in range(5):
        pool.add(attempts(100))

    outcomes = take(pool, 500)

    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    eventually(lambda: pool.held() == 0)
    assert pool.outcomes.empty()


def test_as_many_run_at_once_as_there_are_threads(pool: Pool) -> None:
    together = threading.Barrier(3, timeout=10)

    with handling(lambda message: together.wait() >= 0) as type:
        pool.add(attempts(6, type=type))
        outcomes = take(pool, 6)

    assert all(isinstance(outcome, Completed) for outcome in outcomes)


def test_what_no_thread_has_begun_can_be_taken_back(pool: Pool) -> None:
    release = threading.Event()

    with handling(lambda message: release.wait(10)) as type:
        pool.add(attempts(8, type=type))
        eventually(lambda: pool.busy() == 3)
        assert pool.take_unstarted(older_than=time.monotonic() - 60) == []
        back = pool.take_unstarted()
        release.set()
        take(pool, 3)

    assert len(back) == 5
    eventually(lambda: pool.held() == 0)


def test_hunger_is_felt_when_the_backlog_runs_low(pool: Pool) -> None:
    pool_module.drain(pool.demand)
    pool.low_water = 2

    pool.add(attempts(3))

    pool.demand.get(timeout=10)


def test_a_handler_that_ignores_its_deadline_is_interrupted(pool: Pool) -> None:
    def endless(message: Message) -> None:
        while True:
            time.sleep(0.001)

    with handling(endless, timeout=0.1) as type:
        pool.add(attempts(1, type=type))
        (outcome,) = take(pool, 1)

    assert isinstance(outcome, Failed)
    assert json.loads(outcome.error)["errorType"] == "TIMEOUT_ERROR"
    assert pool.abandoned() == 0


def test_a_thread_that_is_stuck_is_abandoned_and_replaced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "GRACE_S", 0.1)
    release = threading.Event()

    # One call into C that lasts longer than the interruption is waited for.
    with handling(lambda message: release.wait(20), timeout=0.1) as type:
        pool.add(attempts(3, type=type))
        outcomes = take(pool, 3)
        assert all(isinstance(outcome, Failed) for outcome in outcomes)
        eventually(lambda: pool.abandoned() == 3)
        pool.add(attempts(10))
        assert all(isinstance(outcome, Completed) for outcome in take(pool, 10))

        release.set()
        eventually(lambda: pool.abandoned() == 0)

    assert pool.outcomes.empty()
    eventually(lambda: pool.held() == 0)


def test_what_runs_can_be_stopped_and_handed_back(pool: Pool) -> None:
    def endless(message: Message) -> None:
        while True:
            time.sleep(0.001)

    with handling(endless) as type:
        pool.add(attempts(2, type=type))
        eventually(lambda: pool.busy() == 2 and all(attempt.started_at for attempt in pool.running()))
        pool.interrupt_all("shutdown")
        outcomes = take(pool, 2)

    for outcome in outcomes:
        assert isinstance(outcome, Deferred)
        assert (outcome.delay_ms, outcome.why) == (0, "shutdown")
        assert json.loads(outcome.attempt_json)["outcome"] == "deferred"
