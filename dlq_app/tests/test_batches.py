"""Replay batches over a real MongoDB: plans, what becomes of their letters, operators, lists and their indexes."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import BatchBeingPlanned, BatchNotFound, MoveRefused, RequestInvalid
from dlq_app.domain.letter import Death
from dlq_app.domain.replay_batch import BatchOrder, LeftOut, Stage
from dlq_app.domain.states import Status
from dlq_app.services import batches, dead_letters
from dlq_app.store import repository
from dlq_app.testing import MemoryRecord
from dlq_app.tests.batch_rig import Rig, ids

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]


# --- plans ---


def test_a_dry_run_reports_the_plan_of_a_start_and_writes_nothing(rig: Rig, store: Store) -> None:
    rig.die(*ids(5))
    rig.die("n-1", type="demo", error_type="NETWORK_ERROR")
    dead_letters.discard("m-0000", actor="key:olga")
    dead_letters.replay("m-0001", actor="key:olga")

    found = batches.dry_run(BatchOrder.parse({"all": True}))

    assert found.count == 4
    assert found.by_error_type == [("TIMEOUT_ERROR", 3), ("NETWORK_ERROR", 1)]
    assert found.by_type == [("payment.capture", 3), ("demo", 1)]
    assert found.left_out == [LeftOut("in_flight", 1), LeftOut("resolved", 1)]
    assert sorted(letter.message_id for letter in found.sample) == ["m-0002", "m-0003", "m-0004", "n-1"]
    assert [(one.name, one.state) for one in found.breakers] == [("demo", "CLOSED"), ("payment.capture", "CLOSED")]
    assert store["replay_batches"].count_documents({}) == store["replay_items"].count_documents({}) == 0
    assert rig.start().total == found.count


def test_a_plan_has_the_letters_of_its_time_oldest_failure_first(rig: Rig) -> None:
    for age, message_id in enumerate(["new", "older", "oldest"]):
        rig.die(message_id, died_at=datetime(2026, 11, 24, 12, tzinfo=UTC) - timedelta(hours=age))

    batch = rig.start(limit=2, name="two")
    rig.die("later")

    assert (batch.stage, batch.total, batch.name, batch.requested_by) == (Stage.PLANNED, 2, "two", "key:olga")
    assert [(item.seq, item.message_id) for item in rig.items(batch)] == [(0, "oldest"), (1, "older")]


def test_letters_of_an_unfinished_batch_are_excluded_until_it_has_finished(rig: Rig) -> None:
    rig.die(*ids(6))
    first = rig.start(limit=2)
    everything = BatchOrder.parse({"all": True})
    by_id = BatchOrder.parse({"ids": ["m-0000", "m-0005"]})

    found = batches.dry_run(everything)

    assert (found.count, found.left_out) == (4, [LeftOut("in_batch", 2)])
    assert [letter.message_id for letter in found.sample] == ids(6)[2:]
    assert batches.dry_run(by_id).left_out == [LeftOut("in_batch", 1)]
    assert batches.dry_run(BatchOrder.parse({"all": True, "limit": 3})).left_out == [
        LeftOut("in_batch", 2), LeftOut("limit", 1),
    ]  # fmt: skip
    second = batches.start(everything, actor="key:olga")
    assert [item.message_id for item in rig.items(second)] == ids(6)[2:], "what a dry run says is what a start does"

    batches.cancel(first.id, actor="key:olga")
    rig.run(first)
    rig.run(second)
    assert batches.dry_run(everything).count == 2, "those of the batch that was cancelled"


def test_a_plan_by_ids_takes_ids_of_letters_and_of_messages(rig: Rig) -> None:
    rig.die(*ids(3))
    order = BatchOrder.parse({"ids": [rig.letter("m-0000").id, "m-0002", "nobody"]})

    assert batches.dry_run(order).left_out == [LeftOut("not_found", 1)]
    batch = batches.start(order, actor="key:olga")

    assert {item.message_id for item in rig.items(batch)} == {"m-0000", "m-0002"}
    assert batch.ids_given
    assert batch.criteria is None


def test_a_repeated_start_with_the_same_id_returns_the_same_batch(rig: Rig, store: Store) -> None:
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


def test_a_new_error_is_distinguished_from_the_same_error(rig: Rig) -> None:
    rig.die("m-1")
    batch = rig.start()
    rig.executor().tick()
    death = rig.intake.end("m-1", done=False)
    assert isinstance(death, Death)
    rig.record([replace(death, error_type="NETWORK_ERROR", error_reason="gone")])

    done = rig.run(batch)

    assert [(item.outcome, item.error_type) for item in rig.items(done)] == [("failed_new", "NETWORK_ERROR")]


def test_letters_that_changed_since_the_plan_are_skipped_with_a_reason(rig: Rig, store: Store) -> None:
    rig.die("waits", "resolved", "in-flight", "gone", "busy", "done", "impossible")
    batch = rig.start()
    dead_letters.discard("resolved", actor="key:olga")
    dead_letters.replay("in-flight", actor="key:olga")
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


def test_a_letter_in_two_batches_and_replayed_by_hand_runs_once(rig: Rig, store: Store) -> None:
    rig.die("m-1")
    first = rig.start()
    # Two that are planned at the same instant do not see each other.
    store["replay_batches"].update_one({"_id": first.id}, {"$unset": {"active": ""}})
    second = rig.start()
    store["replay_batches"].update_one({"_id": first.id}, {"$set": {"active": True}})
    assert (first.total, second.total) == (1, 1)
    dead_letters.replay("m-1", actor="key:olga")

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


def test_late_arrivals_are_counted_and_not_replayed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
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


# --- lists ---


def test_lists_are_paged_by_cursor(rig: Rig) -> None:
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

    # Cursors as version 0.1.0 wrote them.
    old = f"{made[6].created_at.timestamp() * 1000:.0f}_{made[6].id}"
    assert [batch.name for batch in batches.page(limit=2, cursor=old).batches] == ["5", "4"]
    assert [item.seq for item in batches.items(made[0].id, cursor="2").items] == [3, 4, 5, 6]
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
def test_no_query_scans_the_collection_or_sorts_in_memory(
    store: Store, collection: str, where: dict[str, Any], sort: list[Any]
) -> None:
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
