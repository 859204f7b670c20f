"""Replay batches over a real MongoDB: plans, stages, what is sent, and what each death leaves behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app import batches, repository, services
from dlq_app.batching import Executor, _is_gone
from dlq_app.criteria import LetterCriteria
from dlq_app.errors import BatchBeingPlanned, BatchNotFound, MoveRefused, RequestInvalid, StoreUnavailable
from dlq_app.letter import Death
from dlq_app.replay_batch import BatchOrder, LeftOut, ReplayBatch, Stage
from dlq_app.repository import Letters
from dlq_app.repository.claims import Claims
from dlq_app.states import Status
from dlq_app.testing import MemoryIntake, MemoryRecord
from dlq_app.tests.batch_rig import Killed, Rig

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]


@pytest.fixture
def rig(letters: Letters, intake: MemoryIntake) -> Rig:
    return Rig(letters, intake)


def ids(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}-{n:04}" for n in range(count)]


def expire_chunk(store: Store, batch: ReplayBatch) -> None:
    """A minute later: whoever took the chunk has had its time."""
    over = datetime.now(UTC) - timedelta(seconds=1)
    store["replay_batches"].update_one({"_id": batch.id, "chunk": {"$ne": None}}, {"$set": {"chunk.until": over}})


def kill_at(monkeypatch: pytest.MonkeyPatch, place: object, name: str, *, after: bool = False) -> None:
    """Let the next call of a method be the last thing that its process does."""
    method = getattr(place, name)

    def dies(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(place, name, method)
        if after:
            method(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(place, name, dies)


def tick_killed(executor: Executor, turns: int = 20) -> None:
    for _ in range(turns):
        try:
            executor.tick()
        except Killed:
            return
    raise AssertionError("it was not killed")


# --- plans ---


def test_a_dry_run_tells_what_a_start_would_freeze_and_writes_nothing(rig: Rig, store: Store) -> None:
    rig.die(*ids(5))
    rig.die("n-1", type="demo", error_type="NETWORK_ERROR")
    services.discard("m-0000", actor="key:olga")
    services.replay("m-0001", actor="key:olga")

    found = batches.dry_run(BatchOrder.parse({"all": True}))

    assert found.count == 4
    assert found.by_error_type == [("TIMEOUT_ERROR", 3), ("NETWORK_ERROR", 1)]
    assert found.by_type == [("payment.capture", 3), ("demo", 1)]
    assert found.left_out == [LeftOut("in_flight", 1), LeftOut("resolved", 1)]
    assert sorted(letter.message_id for letter in found.sample) == ["m-0002", "m-0003", "m-0004", "n-1"]
    assert [(one.name, one.state) for one in found.breakers] == [("demo", "CLOSED"), ("payment.capture", "CLOSED")]
    assert store["replay_batches"].count_documents({}) == store["replay_items"].count_documents({}) == 0
    assert rig.start().total == found.count


def test_a_plan_holds_the_letters_of_its_instant_in_the_order_of_their_failures(rig: Rig) -> None:
    for age, message_id in enumerate(["new", "older", "oldest"]):
        rig.die(message_id, died_at=datetime(2026, 11, 24, 12, tzinfo=UTC) - timedelta(hours=age))

    batch = rig.start(limit=2, name="two")
    rig.die("later")

    assert (batch.stage, batch.total, batch.name, batch.requested_by) == (Stage.PLANNED, 2, "two", "key:olga")
    assert [(item.seq, item.message_id) for item in rig.items(batch)] == [(0, "oldest"), (1, "older")]
    assert batches.dry_run(BatchOrder.parse({"all": True, "limit": 2})).left_out == [LeftOut("limit", 2)]


def test_a_plan_by_ids_takes_ids_of_letters_and_of_messages(rig: Rig) -> None:
    rig.die(*ids(3))
    order = BatchOrder.parse({"ids": [rig.letter("m-0000").id, "m-0002", "nobody"]})

    assert batches.dry_run(order).left_out == [LeftOut("not_found", 1)]
    batch = batches.start(order, actor="key:olga")

    assert {item.message_id for item in rig.items(batch)} == {"m-0000", "m-0002"}
    assert batch.ids_given
    assert batch.criteria is None


def test_the_same_id_again_is_the_same_batch(rig: Rig, store: Store) -> None:
    rig.die(*ids(3))
    order = BatchOrder.parse({"all": True})
    first = batches.start(order, actor="key:olga", batch_id="b-1")
    rig.die("later")

    assert batches.start(order, actor="key:olga", batch_id="b-1") == first

    store["replay_batches"].update_one({"_id": "b-1"}, {"$set": {"stage": "planning"}})
    with pytest.raises(BatchBeingPlanned):
        batches.start(order, actor="key:olga", batch_id="b-1")
    with pytest.raises(BatchNotFound):
        batches.get("b-1")
    store["replay_batches"].update_one({"_id": "b-1"}, {"$set": {"createdAt": datetime(2026, 1, 1, tzinfo=UTC)}})
    assert batches.start(order, actor="key:olga", batch_id="b-1").total == 4, "its maker was killed: planned anew"


def test_an_abandoned_plan_is_deleted_with_its_items(rig: Rig, store: Store) -> None:
    rig.die(*ids(3))
    batch = rig.start()
    store["replay_batches"].update_one({"_id": batch.id}, {"$set": {"stage": "planning"}})
    executor = rig.executor()
    executor.tick()
    assert store["replay_items"].count_documents({}) == 3, "not before ten minutes are over"

    store["replay_batches"].update_one({"_id": batch.id}, {"$set": {"createdAt": datetime(2026, 1, 1, tzinfo=UTC)}})
    executor.tick()

    assert store["replay_batches"].count_documents({}) == store["replay_items"].count_documents({}) == 0


def test_an_empty_plan_is_finished_at_once(rig: Rig) -> None:
    done = rig.run(rig.start())

    assert (done.stage, done.total, done.counts.remaining) == (Stage.FINISHED, 0, 0)


# --- to the end ---


def test_every_letter_is_sent_once_and_ends_with_its_outcome(rig: Rig) -> None:
    rig.die(*ids(120))

    done = rig.run(rig.start(reason="the bank is back"), done=lambda message_id: not message_id.endswith("7"))

    assert done.stage is Stage.FINISHED
    assert (done.counts.sent, done.counts.succeeded, done.counts.failed) == (120, 108, 12)
    assert (done.counts.skipped, done.counts.remaining) == (0, 0)
    assert sorted(rig.sent()) == ids(120)
    assert rig.outcomes(done) == {one: "failed_same" if one.endswith("7") else "succeeded" for one in ids(120)}
    assert batches.report(done.id) == [("succeeded", "", 108), ("failed_same", "TIMEOUT_ERROR", 12)]
    letter = rig.letter("m-0007")
    assert letter.status is Status.PENDING
    assert letter.dlq_retry_count == 0, "a batch is not an automatic replay"
    assert letter.replay_attempts[0]["batchId"] == done.id
    claim = next(entry for entry in letter.history if entry["what"] == "claim")
    assert (claim["who"], claim["why"], claim["batchId"]) == ("key:olga", "the bank is back", done.id)
    order = rig.intake.forwarded[0]
    assert (order.batch_id, order.body) == (done.id, b'{"orderId": 5511870, "amount": "129.00"}')


def test_a_new_error_is_told_from_the_same(rig: Rig) -> None:
    rig.die("m-1")
    batch = rig.start()
    rig.executor().tick()
    death = rig.intake.end("m-1", done=False)
    assert isinstance(death, Death)
    rig.record([replace(death, error_type="NETWORK_ERROR", error_reason="gone")])

    done = rig.run(batch)

    assert [(item.outcome, item.error_type) for item in rig.items(done)] == [("failed_new", "NETWORK_ERROR")]


def test_letters_that_moved_since_the_plan_are_skipped_and_say_so(rig: Rig, store: Store) -> None:
    rig.die("waits", "resolved", "in-flight", "gone", "busy", "done", "impossible")
    batch = rig.start()
    services.discard("resolved", actor="key:olga")
    services.replay("in-flight", actor="key:olga")
    store["dead_letters"].delete_one({"messageId": "gone"})
    rig.intake.records["busy"] = MemoryRecord("running", 10)
    rig.intake.records["done"] = MemoryRecord("done", 10)
    rig.intake.impossible.add("impossible")

    done = rig.run(batch, done=lambda message_id: None if message_id == "in-flight" else True)

    assert rig.outcomes(done) == {
        "waits": "succeeded",
        "resolved": "skipped:resolved",
        "in-flight": "skipped:in_flight",
        "gone": "skipped:gone",
        "busy": "skipped:in_flight",
        "done": "skipped:already_done",
        "impossible": "skipped:not_replayable",
    }
    assert (done.counts.sent, done.counts.skipped) == (1, 6)
    assert rig.letter("busy").status is Status.PENDING, "given back, after its epoch was barred"
    assert rig.intake.voids["busy"] > 0
    assert rig.letter("done").status is Status.MANUAL
    skipped = {row["messageId"] for row in store["dead_letters"].find({"skippedBy": batch.id})}
    assert skipped == {"resolved", "in-flight", "busy", "done", "impossible"}


def test_a_letter_in_two_batches_and_replayed_by_hand_runs_once(rig: Rig) -> None:
    rig.die("m-1")
    first, second = rig.start(), rig.start()
    services.replay("m-1", actor="key:olga")

    one = rig.run(first, done=lambda _: None)
    two = rig.run(second, done=lambda _: None)

    assert rig.outcomes(one) == rig.outcomes(two) == {"m-1": "skipped:in_flight"}
    assert rig.sent() == ["m-1"]


def test_two_batches_replay_one_letter_twice_only_when_the_first_replay_failed(rig: Rig) -> None:
    rig.die("m-1", "m-2")
    first = rig.run(rig.start(), done=lambda message_id: message_id == "m-1")
    second = rig.run(rig.start())

    assert rig.outcomes(first) == {"m-1": "succeeded", "m-2": "failed_same"}
    assert rig.outcomes(second) == {"m-2": "succeeded"}


def test_two_executors_share_a_batch_and_send_nothing_twice(rig: Rig) -> None:
    rig.die(*ids(300))
    batch = rig.start()
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        executor = rig.executor()
        try:
            while not stop.is_set():
                executor.tick()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        done = rig.run(batch)
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert not errors
    assert done.counts.succeeded == 300
    assert sorted(rig.sent()) == ids(300)


# --- killed between any two steps ---


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
def test_what_a_killed_executor_took_the_next_one_finishes(
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


def test_nobody_touches_a_chunk_whose_owner_may_be_alive(
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


def test_an_executor_of_this_host_that_has_ended_is_known_to_be_gone(rig: Rig) -> None:
    import os
    import socket
    import subprocess
    import sys

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert _is_gone(f"{socket.gethostname()}/{ended.pid}/x")
    assert not _is_gone(f"{socket.gethostname()}/{os.getpid()}/x")
    assert not _is_gone(f"elsewhere/{ended.pid}/x")
    assert not _is_gone("broken")


def test_what_was_sent_and_not_marked_is_found_by_the_next_executor(rig: Rig) -> None:
    rig.die(*ids(120))
    batch = rig.start()
    gone = rig.executor()
    while len(rig.sent()) < 120:
        gone.tick()
    assert batches.get(batch.id).counts.sent == 0, "nobody has said so yet"
    rig.end_messages(lambda message_id: None if message_id.endswith("7") else True)

    done = rig.run(batch, rig.executor())

    assert sorted(rig.sent()) == ids(120), "each once"
    assert (done.counts.sent, done.counts.succeeded) == (120, 120)


def test_what_has_no_outcome_for_a_while_is_marked_as_sent(rig: Rig, store: Store) -> None:
    rig.die(*ids(3))
    batch = rig.start()
    executor = rig.executor()
    while len(rig.sent()) < 3:
        executor.tick()
    assert not any(item.sent for item in rig.items(batch))
    for progress in executor._progress.values():
        progress.unmarked = dict.fromkeys(progress.unmarked, float("-inf"))
        progress.collect_due = 0.0

    executor.tick()

    assert all(item.sent and not item.outcome for item in rig.items(batch))
    assert rig.run(batch, executor).counts.succeeded == 3


def test_an_executor_that_stops_marks_what_it_has_sent(rig: Rig) -> None:
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


def test_killed_between_the_letters_no_and_the_items_skip(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die("m-1", "m-2")
    batch = rig.start()
    services.replay("m-1", actor="key:olga")
    kill_at(monkeypatch, repository.Items, "end")
    tick_killed(rig.executor())
    rig.record([rig.intake.end("m-1", done=False)])
    expire_chunk(store, batch)

    done = rig.run(batch)

    assert rig.outcomes(done) == {"m-1": "skipped:in_flight", "m-2": "succeeded"}
    assert rig.sent() == ["m-1", "m-2"], "the letter waits again, and still this batch does not replay it"


def test_killed_between_the_last_outcome_and_the_stage(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_claim_that_the_sweep_gave_back_is_made_again(
    rig: Rig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.die("m-1")
    batch = rig.start()
    claims_die_after(monkeypatch, rig)
    tick_killed(rig.executor())
    store["dead_letters"].update_many({}, {"$set": {"replay.lockedAt": datetime(2026, 1, 1, tzinfo=UTC)}})
    assert services.release_stale() == 1
    expire_chunk(store, batch)

    assert rig.outcomes(rig.run(batch)) == {"m-1": "succeeded"}
    assert len(rig.sent()) == 1


def test_an_order_that_was_barred_leaves_its_letter_to_be_looked_at_again(
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


def test_claims_whose_answer_was_lost_are_read_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_intake_away_is_waited_for_and_said(rig: Rig) -> None:
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
    assert services.release_stale() == 1

    assert rig.outcomes(rig.run(batch, executor)) == {"m-1": "succeeded"}
    assert len(rig.sent()) == 2


def test_a_letter_deleted_under_way_does_not_hold_the_batch_up(rig: Rig, store: Store) -> None:
    rig.die("m-1", "m-2")
    batch = rig.start()
    executor = rig.executor()
    executor.tick()
    store["dead_letters"].delete_one({"messageId": "m-1"})

    assert rig.outcomes(rig.run(batch, executor)) == {"m-1": "skipped:gone", "m-2": "succeeded"}


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
        services.discard(message_id, actor="key:olga")

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
    assert 4 <= done.counts.failed == len(rig.sent()) <= 20
    [(error_type, count)] = done.stop_errors
    # Those that were under way when it stopped fail afterwards.
    assert (error_type, 4 <= count <= done.counts.failed) == ("TIMEOUT_ERROR", True)
    assert done.counts.remaining == 0
    assert done.finished_at is not None


def test_a_spent_failure_rate_stops_the_batch_only_after_enough_letters(rig: Rig) -> None:
    rig.die(*ids(200))

    done = rig.run(rig.start(maxFailureRate=0.5), done=lambda _: False)

    assert (done.stage, done.stop_reason) == (Stage.STOPPED, "too_many_failures")
    assert 20 <= done.counts.failed <= 60


def test_an_open_breaker_pauses_and_a_closed_one_lifts_only_its_own_pause(rig: Rig) -> None:
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


def test_a_breaker_that_is_trying_gets_a_few_letters_and_no_more(rig: Rig) -> None:
    rig.die(*ids(30))
    batch = rig.start()
    rig.intake.trial_types["payment.capture"] = 4
    executor = rig.executor()

    paused = rig.run(batch, executor, done=lambda _: None, until=lambda b: b.counts.sent == 4)
    for _ in range(5):
        executor.tick()

    assert (paused.stage, paused.paused_by) == (Stage.PAUSED, "breaker")
    assert len(rig.sent()) == 4, "nothing more while those are under way"
    rig.intake.trial_types.clear()
    assert rig.run(batch, executor).counts.succeeded == 30


def test_another_types_breaker_does_not_pause_the_batch(rig: Rig) -> None:
    rig.die(*ids(5))
    rig.die("n-1", type="demo")
    rig.intake.open_types["demo"] = 1000

    assert rig.run(rig.start(filter={"type": "payment.capture"})).counts.succeeded == 5


# --- operators ---


def test_pause_resume_and_cancel_from_where_they_are_possible(rig: Rig) -> None:
    rig.die(*ids(5))
    batch = rig.start(scheduledAt="2099-01-01T00:00:00Z")
    executor = rig.executor()
    executor.tick()
    assert batches.get(batch.id).stage is Stage.PLANNED
    for verb in (batches.pause, batches.resume):
        with pytest.raises(MoveRefused):
            verb(batch.id, actor="key:olga")

    cancelled = batches.cancel(batch.id, actor="key:olga", reason="no longer needed")

    assert (cancelled.stage, cancelled.stop_reason, cancelled.started_at) == (Stage.CANCELLED, "no longer needed", None)
    done = rig.run(batch, executor)
    assert set(rig.outcomes(done).values()) == {"skipped:cancelled"}
    assert (done.counts.skipped, done.counts.remaining) == (5, 0)
    with pytest.raises(MoveRefused):
        batches.cancel(batch.id, actor="key:olga")
    with pytest.raises(BatchNotFound):
        batches.pause("b-nobody", actor="key:olga")


def test_a_cancelled_batch_sends_nothing_more_and_waits_for_what_it_sent(rig: Rig) -> None:
    rig.die(*ids(200))
    batch = rig.start(ratePerSecond=100)
    executor = rig.executor()
    rig.run(batch, executor, done=lambda _: None, until=lambda b: b.counts.sent > 0)
    batches.cancel(batch.id, actor="key:olga")
    sent = len(rig.sent())
    for _ in range(5):
        executor.tick()
    open_still = batches.get(batch.id)
    assert open_still.finished_at is None, "what was sent has no outcome yet"

    done = rig.run(batch, executor)

    assert len(rig.sent()) == sent
    assert (done.counts.succeeded, done.counts.skipped) == (sent, 200 - sent)


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
    assert services.release_stale() == 5

    done = rig.run(batch, executor)

    assert set(rig.outcomes(done).values()) == {"skipped:cancelled"}
    assert rig.sent() == []


def test_a_paused_batch_sends_nothing(rig: Rig) -> None:
    rig.die(*ids(100))
    batch = rig.start(ratePerSecond=100)
    executor = rig.executor()
    rig.run(batch, executor, until=lambda b: b.counts.sent > 0)
    batches.pause(batch.id, actor="key:olga")
    sent = len(rig.sent())
    for _ in range(10):
        executor.tick()

    assert len(rig.sent()) == sent
    batches.resume(batch.id, actor="key:olga")
    with pytest.raises(MoveRefused):
        batches.resume(batch.id, actor="key:olga")
    assert rig.run(batch, executor).counts.succeeded == 100


def test_late_arrivals_are_counted_and_not_swept_in(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.die(*ids(20))
    batch = rig.start(filter={"errorType": "TIMEOUT_ERROR"})
    rig.die(*ids(500, "late"))
    rig.die("other", error_type="NETWORK_ERROR")

    done = rig.run(batch)

    assert done.total == 20
    assert done.late_arrivals == 500
    assert sorted(rig.sent()) == ids(20)
    batches._late.clear()
    rig.die("much-later")
    assert batches.get(batch.id).late_arrivals == 500, "when it was over it was over"


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
    assert len(rig.sent()) == before, "not before its time, whoever asks"

    # After a long stop no debt is worked off: the next is due about a tenth of a second from now.
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    store["replay_batches"].update_one({"_id": batch.id}, {"$set": {"nextSendAt": long_ago, "chunk": None}})
    for executor in executors:
        executor.tick()
    assert before < len(rig.sent()) <= before + 3


# --- lists ---


def test_lists_are_walked_by_cursor(rig: Rig) -> None:
    rig.die(*ids(7))
    made = [rig.start(name=str(n)) for n in range(5)]
    for waiting in made[1:]:
        batches.cancel(waiting.id, actor="key:olga")
    rig.run(made[0], done=lambda message_id: message_id != "m-0003")
    made += [rig.start(name=str(n), scheduledAt="2099-01-01T00:00:00Z") for n in range(5, 8)]

    names: list[str] = []
    cursor = None
    while True:
        page = batches.page(limit=2, cursor=cursor)
        names += [batch.name for batch in page.batches]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert names == ["7", "6", "5", "4", "3", "2", "1", "0"]
    assert [batch.name for batch in batches.page(stages=["finished"]).batches] == ["0"]
    assert [batch.name for batch in batches.running(3)] == ["7", "6", "5"]

    found = [item.seq for item in batches.items(made[0].id, limit=3).items]
    more = batches.items(made[0].id, limit=3, cursor=batches.items(made[0].id, limit=3).next_cursor)
    assert found + [item.seq for item in more.items] == [0, 1, 2, 3, 4, 5]
    assert [item.message_id for item in batches.items(made[0].id, outcome="failed").items] == ["m-0003"]
    assert len(batches.items(made[0].id, outcome="succeeded").items) == 6
    assert batches.items(made[0].id, outcome="open").items == []
    with pytest.raises(RequestInvalid):
        batches.items(made[0].id, outcome="x")
    with pytest.raises(RequestInvalid):
        batches.items(made[0].id, cursor="x")
    with pytest.raises(RequestInvalid):
        batches.page(cursor="x")
    with pytest.raises(RequestInvalid):
        batches.page(stages=["planning"])


def test_batches_are_deleted_long_after_their_end(rig: Rig, store: Store) -> None:
    rig.die(*ids(3))
    old, young = rig.run(rig.start(), done=lambda _: False), rig.run(rig.start())
    store["replay_batches"].update_one({"_id": old.id}, {"$set": {"finishedAt": datetime(2026, 1, 1, tzinfo=UTC)}})

    rig.executor().tick()

    assert [row["_id"] for row in store["replay_batches"].find()] == [young.id]
    assert store["replay_items"].distinct("batchId") == [young.id]


# --- indexes ---


def stages_of(plan: Any) -> set[str]:
    """Every stage of a query plan."""
    found: set[str] = set()
    if isinstance(plan, dict):
        if "stage" in plan:
            found.add(str(plan["stage"]))
        for name, inner in plan.items():
            if name != "rejectedPlans":
                found |= stages_of(inner)
    elif isinstance(plan, list):
        for inner in plan:
            found |= stages_of(inner)
    return found


@pytest.mark.parametrize(
    ("collection", "where", "sort"),
    [
        ("replay_batches", {"active": True}, [("createdAt", 1)]),
        ("replay_batches", {"finishedAt": {"$lt": datetime(2026, 1, 1)}}, [("finishedAt", 1)]),  # noqa: DTZ001
        ("replay_items", {"batchId": "b", "seq": {"$gte": 5, "$lt": 9}, "outcome": None}, [("seq", 1)]),
        ("replay_items", {"batchId": "b", "outcome": None, "sent": True, "seq": {"$gt": 3, "$lt": 9}}, [("seq", 1)]),
        ("replay_items", {"batchId": "b", "outcome": {"$in": ["failed_same", "x"]}, "seq": {"$gt": 3}}, [("seq", 1)]),
        ("replay_items", {"batchId": "b", "outcome": None}, [("seq", 1)]),
    ],
)  # fmt: skip
def test_no_question_scans_or_sorts(store: Store, collection: str, where: dict[str, Any], sort: list[Any]) -> None:
    found = stages_of(store[collection].find(where).sort(sort).explain()["queryPlanner"]["winningPlan"])

    assert found & {"IXSCAN", "SORT_MERGE"}
    assert not found & {"COLLSCAN", "SORT"}


def test_the_list_of_batches_is_merged_from_its_stages(store: Store) -> None:
    where = {"stage": {"$in": ["running", "paused"]}}
    order = [("createdAt", -1), ("_id", -1)]
    plan = store["replay_batches"].find(where).sort(order).explain()["queryPlanner"]["winningPlan"]

    assert "SORT_MERGE" in stages_of(plan)
    assert not stages_of(plan) & {"COLLSCAN", "SORT"}


def test_late_arrivals_of_all_letters_are_read_by_index(rig: Rig, store: Store) -> None:
    assert repository.items().late_arrivals("b-1", LetterCriteria(), datetime(2026, 1, 1, tzinfo=UTC)) == 0
    where = {"$and": [{}, {"createdAt": {"$gte": datetime(2026, 1, 1, tzinfo=UTC)}}]}
    assert "COLLSCAN" not in stages_of(store["dead_letters"].find(where).explain()["queryPlanner"]["winningPlan"])
