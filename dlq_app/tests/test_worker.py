"""The DLQ worker's loop and lease."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.services import dead_letters
from dlq_app.store import repository
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake, a_death
from dlq_app.worker import EVERY_S, LEASE, ROUND, DlqWorker
from dlqsite.tests.patience import eventually

pytestmark = [pytest.mark.mongo, pytest.mark.django_db]


def test_a_lease_has_one_owner_until_it_ends(letters: Letters) -> None:
    leases = repository.leases()

    assert leases.take("poll", "a", timedelta(minutes=1))
    assert leases.take("poll", "a", timedelta(minutes=1)), "its owner renews it"
    assert not leases.take("poll", "b", timedelta(minutes=1))
    leases.give_back("poll", "b")
    assert not leases.take("poll", "b", timedelta(minutes=1)), "only its owner gives it back"
    leases.give_back("poll", "a")
    assert leases.take("poll", "b", timedelta(0))
    assert leases.take("poll", "a", timedelta(minutes=1)), "a lease that is over is free"


def test_only_one_of_many_gets_a_lease(letters: Letters) -> None:
    start = threading.Barrier(8)
    got: list[bool] = []

    def want(n: int) -> None:
        start.wait()
        got.append(repository.leases().take("poll", f"w{n}", timedelta(minutes=1)))

    threads = [threading.Thread(target=want, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(got) == [False] * 7 + [True]


def test_it_replays_due_letters_and_sleeps_half_a_minute(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])
    worker = DlqWorker(dice=lambda: 0.5)

    assert worker.tick() == EVERY_S
    assert [order.message_id for order in intake.forwarded] == ["m-1"]
    assert worker.details() == {"polls": True, "replayed": 1, "released": 0, "batches": 0}


def test_it_sleeps_only_until_the_next_letter_is_due(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(died_at=datetime.now(UTC) - timedelta(seconds=50))], [])

    assert 5 < DlqWorker(dice=lambda: 0.5).tick() <= 10


def test_a_full_round_is_followed_by_the_next_at_once(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(ROUND + 1)], [])
    worker = DlqWorker()

    assert worker.tick() == 0.0
    assert worker.tick() > 0.0
    assert len(intake.forwarded) == ROUND + 1


def test_a_second_worker_leaves_the_poll_to_the_first(letters: Letters, intake: MemoryIntake) -> None:
    DlqWorker().tick()
    dead_letters.record_outcomes([a_death()], [])

    assert DlqWorker(dice=lambda: 1.0).tick() == EVERY_S * 1.2
    assert intake.forwarded == []


@pytest.mark.django_db(transaction=True)  # the worker's thread writes to the audit log
def test_it_continues_after_a_store_was_unavailable_and_stops_on_request(
    letters: Letters, intake: MemoryIntake
) -> None:
    dead_letters.record_outcomes([a_death()], [])
    worker = DlqWorker()
    asked = threading.Event()

    def away() -> None:
        asked.set()
        raise StoreUnavailable("intake is away")

    intake.fail["before_now_ms"] = away
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    assert asked.wait(10)
    intake.fail.clear()
    worker.nudge()
    eventually(lambda: intake.forwarded, seconds=30)
    worker.stop()
    thread.join(10)

    assert not thread.is_alive()
    assert [order.message_id for order in intake.forwarded] == ["m-1"]
    assert repository.leases().take(LEASE, "next", timedelta(minutes=1)), "the lease was given back"
