"""Executors of replay batches killed between any two steps; stores that are unavailable or lose data."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.replay_batch import Stage
from dlq_app.services import batches, dead_letters
from dlq_app.store import repository
from dlq_app.store.claims import Claims
from dlq_app.store.store_clock import StoreClock
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import Killed, Rig, expire_chunk, ids, kill_at, tick_killed

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]


def claims_die(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    kill_at(monkeypatch, Claims, "claim_many")


def claims_die_after(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    kill_at(monkeypatch, Claims, "claim_many", after=True)


def forwards_die(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    kill_at(monkeypatch, MemoryIntake, "forward_many", after=True)


def marks_die_after(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
    kill_at(monkeypatch, repository.Items, "mark_sent", after=True)


@pytest.mark.parametrize("dies", [claims_die, claims_die_after, forwards_die, marks_die_after])
@pytest.mark.parametrize("ended_meanwhile", [False, True])
def test_another_executor_finishes_the_chunk_of_a_killed_one(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch, dies: Callable[..., None], ended_meanwhile: bool
) -> None:
    rig.die(*ids(60))
    # Only where something limits a batch is every letter marked at once.
    batch = rig.start(maxFailures=100) if dies is marks_die_after else rig.start()
    dies(monkeypatch, rig)
    tick_killed(rig.executor())
    if ended_meanwhile:
        rig.end_messages(lambda message_id: not message_id.endswith("3"))
    expire_chunk(store, batch)

    done = rig.run(batch, done=lambda message_id: not message_id.endswith("3"))

    assert sorted(rig.sent()) == ids(60), "each once"
    assert (done.counts.sent, done.counts.succeeded, done.counts.failed) == (60, 54, 6)


def test_a_chunk_whose_owner_may_be_alive_is_not_taken_over(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die(*ids(10))
    batch = rig.start()
    claims_die(monkeypatch, rig)
    tick_killed(rig.executor())
    other = rig.executor()
    for _ in range(5):
        other.tick()

    assert rig.sent() == []
    expire_chunk(store, batch)
    assert rig.run(batch, other).counts.succeeded == 10


def test_a_chunk_expires_by_the_clock_of_the_store(rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a store whose clock is an hour behind, this host's clock is an hour ahead."""
    rig.die(*ids(10))
    batch = rig.start()
    claims_die(monkeypatch, rig)
    tick_killed(rig.executor())
    expire_chunk(store, batch)
    other = rig.executor()
    behind = StoreClock(lambda: repository.letters().server_now() - timedelta(hours=1))
    with monkeypatch.context() as patched:
        patched.setattr(repository, "_clock", lambda: behind)
        for _ in range(5):
            other.tick()
        assert rig.sent() == []
    assert rig.run(batch, other).counts.succeeded == 10


def test_letters_sent_and_not_marked_are_found_by_the_next_executor(rig: Rig) -> None:
    rig.die(*ids(120))
    batch = rig.start()
    gone = rig.executor()
    while len(rig.sent()) < 120:
        gone.tick()
    assert batches.get(batch.id).counts.sent == 0, "not marked yet"
    rig.end_messages(lambda message_id: None if message_id.endswith("7") else True)

    done = rig.run(batch, rig.executor())

    assert sorted(rig.sent()) == ids(120), "each once"
    assert (done.counts.sent, done.counts.succeeded) == (120, 120)


def test_a_letter_without_an_outcome_is_marked_as_sent_after_a_while(rig: Rig, store: Store) -> None:
    rig.die(*ids(3))
    batch = rig.start()
    executor = rig.executor()
    while len(rig.sent()) < 3:
        executor.tick()
    assert not any(item.sent for item in rig.items(batch))
    rig.clock_s += 2

    executor.tick()

    assert all(item.sent and not item.outcome for item in rig.items(batch))
    assert rig.run(batch, executor).counts.succeeded == 3


def test_an_executor_that_stops_marks_the_letters_it_has_sent(rig: Rig) -> None:
    rig.die(*ids(3))
    batch = rig.start()
    executor = rig.executor()
    while len(rig.sent()) < 3:
        executor.tick()

    executor.stop()

    assert all(item.sent for item in rig.items(batch))


def test_the_next_letters_are_read_while_the_last_ones_are_sent(rig: Rig, store: Store) -> None:
    rig.die(*ids(700))
    batch = rig.start()
    executor = rig.executor()
    sizes: list[int] = []
    forward_many = rig.intake.forward_many

    def forwards(orders: Any) -> Any:
        if not sizes:
            # Read ahead after the first of the larger chunks; by the time of its claim this one has moved.
            store["dead_letters"].update_one({"messageId": "m-0400"}, {"$set": {"status": "dlq_resolved"}})
        sizes.append(len(orders))
        return forward_many(orders)

    rig.intake.forward_many = forwards  # type: ignore[method-assign]

    done = rig.run(batch, executor)

    assert sizes[:3] == [50, 250, 249]
    assert (done.counts.succeeded, done.counts.skipped) == (699, 1)
    assert rig.outcomes(batch)["m-0400"] == "skipped:resolved"


def test_killed_between_the_skip_of_the_letter_and_that_of_the_item(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die("m-1", "m-2")
    batch = rig.start()
    dead_letters.replay("m-1", actor="key:olga")
    kill_at(monkeypatch, repository.Items, "record_outcomes")
    tick_killed(rig.executor())
    rig.record([rig.intake.end("m-1", done=False)])
    expire_chunk(store, batch)

    done = rig.run(batch)

    assert rig.outcomes(done) == {"m-1": "skipped:in_flight", "m-2": "succeeded"}
    assert rig.sent() == ["m-1", "m-2"], "the letter waits again, and still this batch does not replay it"


def test_killed_between_the_last_outcome_and_the_change_of_stage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.die("m-1")
    batch = rig.start()
    executor = rig.executor()
    executor.tick()
    rig.end_messages()
    kill_at(monkeypatch, repository.Batches, "move")
    with pytest.raises(Killed):
        rig.run(batch, executor)

    assert batches.get(batch.id).stage is Stage.RUNNING
    assert rig.run(batch).stage is Stage.FINISHED


def test_a_claim_released_by_the_sweep_is_made_again(rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.die("m-1")
    batch = rig.start()
    claims_die_after(monkeypatch, rig)
    tick_killed(rig.executor())
    store["dead_letters"].update_many({}, {"$set": {"replay.lockedAt": datetime(2026, 1, 1, tzinfo=UTC)}})
    assert dead_letters.release_stale() == 1
    expire_chunk(store, batch)

    assert rig.outcomes(rig.run(batch)) == {"m-1": "succeeded"}
    assert len(rig.sent()) == 1


def test_a_letter_whose_epoch_was_voided_is_dispatched_again(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die("m-1")
    batch = rig.start()
    claims_die_after(monkeypatch, rig)
    tick_killed(rig.executor())
    rig.intake.void("m-1", rig.letter("m-1").fence)
    expire_chunk(store, batch)

    assert rig.outcomes(rig.run(batch)) == {"m-1": "succeeded"}
    assert [order.epoch for order in rig.intake.forwarded] == [1002]


def test_claims_with_a_lost_answer_are_read_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.die(*ids(5))
    claim_many = Claims.claim_many
    lost: list[int] = []

    def loses(self: Claims, claims: Any, order: Any) -> Any:
        answer = claim_many(self, claims, order)
        lost.append(len(claims))
        return type(answer)([], is_sure=False)

    monkeypatch.setattr(Claims, "claim_many", loses)

    done = rig.run(rig.start())

    assert lost == [5]
    assert done.counts.succeeded == 5
    assert sorted(rig.sent()) == ids(5)


def test_a_batch_waits_for_unavailable_intake_and_shows_it(rig: Rig) -> None:
    rig.die(*ids(5))
    batch = rig.start()
    executor = rig.executor()
    rig.intake.fail["before_forward_many"] = StoreUnavailable("intake is away")
    for _ in range(3):
        executor.tick()

    waits = batches.get(batch.id)
    assert (waits.stage, waits.waiting) == (Stage.RUNNING, "intake is away")
    rig.intake.fail.clear()

    done = rig.run(batch, executor)
    assert (done.counts.succeeded, done.waiting) == (5, "")
    assert sorted(rig.sent()) == ids(5)


def test_a_message_that_redis_lost_is_sent_again(rig: Rig, store: Store) -> None:
    rig.die("m-1")
    batch = rig.start()
    executor = rig.executor()
    executor.tick()
    rig.intake.records.clear()
    store["dead_letters"].update_many({}, {"$set": {"replay.lockedAt": datetime(2026, 1, 1, tzinfo=UTC)}})
    assert dead_letters.release_stale() == 1

    assert rig.outcomes(rig.run(batch, executor)) == {"m-1": "succeeded"}
    assert len(rig.sent()) == 2


def test_a_letter_deleted_in_flight_does_not_block_the_batch(rig: Rig, store: Store) -> None:
    rig.die("m-1", "m-2")
    batch = rig.start()
    executor = rig.executor()
    executor.tick()
    store["dead_letters"].delete_one({"messageId": "m-1"})

    assert rig.outcomes(rig.run(batch, executor)) == {"m-1": "skipped:gone", "m-2": "succeeded"}


def test_cancelled_while_a_chunk_was_claimed_and_its_executor_killed(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die(*ids(5))
    batch = rig.start()
    claims_die_after(monkeypatch, rig)
    tick_killed(rig.executor())
    batches.cancel(batch.id, actor="key:olga")
    executor = rig.executor()
    for _ in range(3):
        executor.tick()
    assert batches.get(batch.id).finished_at is None
    store["dead_letters"].update_many({}, {"$set": {"replay.lockedAt": datetime(2026, 1, 1, tzinfo=UTC)}})
    assert dead_letters.release_stale() == 5

    done = rig.run(batch, executor)

    assert set(rig.outcomes(done).values()) == {"skipped:cancelled"}
    assert rig.sent() == []
