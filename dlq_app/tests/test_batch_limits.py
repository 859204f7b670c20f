"""Limits of a replay batch: canary, budget of failures, circuit breakers, rate."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.replay_batch import Stage
from dlq_app.services import batches, dead_letters
from dlq_app.tests.batch_rig import Rig, ids

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]


# --- canary, budget, breaker ---


def test_only_the_canary_is_sent_before_its_verdict(rig: Rig) -> None:
    rig.die(*ids(100))
    batch = rig.start(canary={"size": 5})
    seen_sent: list[int] = []

    def ends_well(message_id: str) -> bool:
        seen_sent.append(len(rig.sent()))
        return True

    done = rig.run(batch, done=ends_well)

    assert done.counts.succeeded == 100
    assert seen_sent[0] == 5
    assert [entry["what"] for entry in done.history] == ["canary", "running", "finished"]


def test_a_canary_that_fails_stops_the_batch_after_its_letters(rig: Rig) -> None:
    rig.die(*ids(100))

    done = rig.run(rig.start(canary={"size": 5, "minSuccess": 4}), done=lambda m: m not in ("m-0001", "m-0003"))

    assert (done.stage, done.stop_reason) == (Stage.STOPPED, "canary_failed")
    assert len(rig.sent()) == 5
    assert (done.counts.succeeded, done.counts.failed, done.counts.skipped, done.counts.remaining) == (3, 2, 95, 0)
    assert set(rig.outcomes(done).values()) == {"succeeded", "failed_same", "skipped:cancelled"}
    assert list(done.stop_errors) == [("TIMEOUT_ERROR", 2)]


def test_a_skipped_canary_letter_is_replaced_by_the_next(rig: Rig) -> None:
    rig.die(*ids(20))
    batch = rig.start(canary={"size": 3})
    for message_id in ("m-0000", "m-0002"):
        dead_letters.discard(message_id, actor="key:olga")

    rig.run(batch, done=lambda _: None, until=lambda b: b.counts.sent == 3)
    executor = rig.executor()
    for _ in range(5):
        executor.tick()

    assert rig.sent() == ["m-0001", "m-0003", "m-0004"]
    assert rig.run(batch).counts.succeeded == 18


def test_a_spent_budget_stops_the_batch(rig: Rig) -> None:
    rig.die(*ids(200))

    done = rig.run(rig.start(maxFailures=3), done=lambda _: False)

    assert (done.stage, done.stop_reason) == (Stage.STOPPED, "too_many_failures")
    assert done.counts.failed == len(rig.sent()) == 4, "the last of them is the one too many"
    [(error_type, count)] = done.stop_errors
    # Those that were under way when it stopped fail afterwards.
    assert (error_type, 4 <= count <= done.counts.failed) == ("TIMEOUT_ERROR", True)
    assert done.counts.remaining == 0
    assert done.finished_at is not None


def test_a_spent_failure_rate_stops_the_batch_only_after_enough_letters(rig: Rig) -> None:
    rig.die(*ids(200))

    done = rig.run(rig.start(maxFailureRate=0.5), done=lambda _: False)

    assert (done.stage, done.stop_reason) == (Stage.STOPPED, "too_many_failures")
    assert done.counts.failed == 20


def test_an_open_breaker_pauses_and_a_closed_one_ends_only_its_own_pause(rig: Rig) -> None:
    rig.die(*ids(20))
    batch = rig.start(canary={"size": 2})
    rig.intake.open_types["payment.capture"] = 1000

    paused = rig.run(batch, until=lambda b: b.stage is Stage.PAUSED)
    assert (paused.paused_by, paused.resume_to) == ("breaker", Stage.CANARY)
    rig.run(batch, until=lambda b: "payment.capture is OPEN" in b.waiting)
    assert rig.sent() == []

    batches.pause(batch.id, actor="key:olga", reason="not now")
    rig.intake.open_types.clear()
    executor = rig.executor()
    for _ in range(5):
        executor.tick()
    still = batches.get(batch.id)
    assert (still.stage, still.paused_by, still.resume_to) == (Stage.PAUSED, "operator", Stage.CANARY)

    assert batches.resume(batch.id, actor="key:olga").stage is Stage.CANARY
    done = rig.run(batch)
    assert done.counts.succeeded == 20
    assert [entry["what"] for entry in done.history] == [
        "canary", "paused", "paused", "canary", "running", "finished",
    ]  # fmt: skip


def test_a_half_open_breaker_gets_its_trial_letters_and_no_more(rig: Rig) -> None:
    rig.die(*ids(30))
    batch = rig.start()
    rig.intake.trial_types["payment.capture"] = 4
    executor = rig.executor()

    paused = rig.run(batch, executor, done=lambda _: None, until=lambda b: b.counts.sent == 4)
    for _ in range(5):
        executor.tick()

    assert (paused.stage, paused.paused_by) == (Stage.PAUSED, "breaker")
    assert len(rig.sent()) == 4, "nothing more while those are in flight"
    rig.intake.trial_types.clear()
    assert rig.run(batch, executor).counts.succeeded == 30


def test_another_types_breaker_does_not_pause_the_batch(rig: Rig) -> None:
    rig.die(*ids(5))
    rig.die("n-1", type="demo")
    rig.intake.open_types["demo"] = 1000

    assert rig.run(rig.start(filter={"type": "payment.capture"})).counts.succeeded == 5


# --- rate ---


def test_the_rate_is_kept_by_the_batch_itself(rig: Rig, store: Store) -> None:
    rig.die(*ids(30))
    batch = rig.start(ratePerSecond=10)
    executors = [rig.executor() for _ in range(3)]
    for _ in range(3):
        for executor in executors:
            executor.tick()
    first = store["replay_batches"].find_one({"_id": batch.id})
    assert first is not None

    assert len(rig.sent()) <= 3
    later = datetime.now(UTC) + timedelta(hours=1)
    store["replay_batches"].update_one({"_id": batch.id}, {"$set": {"nextSendAt": later}})
    before = len(rig.sent())
    for executor in executors:
        executor.tick()
    assert len(rig.sent()) == before, "not before its time, with any executor"

    # Letters missed during a long stop are not caught up on: the next is due in about a tenth of a second.
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    store["replay_batches"].update_one({"_id": batch.id}, {"$set": {"nextSendAt": long_ago, "chunk": None}})
    for executor in executors:
        executor.tick()
    assert before < len(rig.sent()) <= before + 3
