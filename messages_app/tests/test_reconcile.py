"""``reconcile``: each kind of difference, made in real stores, is reported; those with a safe repair are repaired."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from bson import ObjectId

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.differences import KINDS, Report
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.states import Status
from dlq_app.services import batches, dead_letters
from dlq_app.services import figures as figures_service
from dlq_app.store import indexes, repository
from dlq_app.store.figures import figures
from dlq_app.store.mongo import database
from dlq_app.testing import MemoryIntake
from dlq_app.tests.batch_rig import Rig
from messages_app.domain.ledger_rules import is_message_id
from messages_app.domain.records import Completed
from messages_app.store.ledger import Ledger, ledger
from messages_app.tests.handling import an_acceptance
from messages_app.tests.ledgers import order, token
from messages_app.tests.test_reconciliation import bury, replay_well, run_next, statuses
from messages_app.work.reconcile import Scope, reconcile

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class Stack:
    """A ledger and the letters of its messages, and short ways to break them."""

    def __init__(self, redis_client: redis.Redis, mongo_db: Any) -> None:
        self.redis: Any = redis_client
        self.mongo = mongo_db
        self.book: Ledger = ledger()

    def accept(self, name: str, **changes: Any) -> None:
        self.book.accept(an_acceptance(message_id=name, **changes))

    def claim(self, name: str) -> Any:
        self.accept(name)
        (claimed,) = self.book.claim(token=token(), limit=1, owner="w", holding=0).records
        assert claimed.message_id == name
        return claimed

    def wait_for_retry(self, name: str) -> None:
        self.accept(name, not_before_ms=self.book.now_ms() + 3_600_000)

    def bury(self, name: str) -> None:
        bury(self.book, name)

    def letter(self, name: str) -> Any:
        return self.mongo.dead_letters.find_one({"messageId": name})

    def change(self, name: str, **fields: Any) -> None:
        self.mongo.dead_letters.update_one({"messageId": name}, {"$set": fields})

    def claim_letter(self, name: str, *, age: timedelta = timedelta(0)) -> int:
        """Claim a letter for a replay, as a process that was killed before the forward."""
        epoch = int(self.letter(name)["fence"]) + 1
        now = self.mongo.client.admin.command("hello")["localTime"].replace(tzinfo=UTC)
        claim = {"id": "r-1", "epoch": epoch, "kind": "operator", "from": "dlq_manual", "lockedAt": now - age}
        attempt = {"replayId": "r-1", "epoch": epoch, "kind": "operator", "outcome": None}
        self.change(name, status="dlq_processing", fence=epoch, replay=claim, replayAttempts=[attempt])
        return epoch

    def forward(self, name: str, epoch: int) -> None:
        closed = int(self.letter(name)["closedEpoch"])
        self.book.forward(order(name, epoch, death_seen=closed, deadline_ms=self.book.now_ms() + 60_000))


@pytest.fixture
def stack(redis_client: redis.Redis, mongo_db: Any) -> Stack:
    store = database()
    if indexes.missing(store):
        indexes.ensure(store, keep_resolved_days=90)
    return Stack(redis_client, mongo_db)


def found(report: Report) -> dict[str, int]:
    return {one.kind.name: one.count for one in report.differences}


def test_a_busy_stack_agrees(stack: Stack) -> None:
    stack.bury("dead")
    stack.bury("replayed")
    replay_well(stack.book, stack.mongo, "replayed")
    stack.accept("done")
    run_next(stack.book, well=True)
    stack.bury("claimed")
    stack.claim_letter("claimed", age=timedelta(minutes=4))
    stack.bury("replaying")
    stack.forward("replaying", stack.claim_letter("replaying"))
    stack.accept("queued")
    stack.wait_for_retry("scheduled")

    report = reconcile()

    assert found(report) == {}
    assert (report.left, report.undecided) == (0, [])
    assert report.in_flight == {
        "claimedLetters": 2, "queued": 2, "scheduled": 1, "retryWait": 0, "running": 0, "outbox": 0,
    }  # fmt: skip
    assert report.compared == {"messages": 7, "entries": 3, "accounts": 1, "outcomes": 3, "letters": 4}


def test_a_running_message_and_an_outcome_on_its_way_are_no_differences(stack: Stack) -> None:
    stack.claim("running")
    claimed = stack.claim("done")
    stack.book.flush([Completed(message_id="done", fence=claimed.fence, result="1", attempt_json="{}")])
    stack.bury("waits")
    stack.book.resettle("waits", stack.book.get("waits").epoch)  # type: ignore[union-attr]

    report = reconcile()

    assert found(report) == {}
    assert (report.in_flight["running"], report.in_flight["outbox"]) == (1, 1)


def test_traffic_is_no_difference(stack: Stack) -> None:
    """Messages are accepted, run, given up, recorded and replayed while everything is compared."""
    stop = threading.Event()
    broken: list[Exception] = []

    def work(name: str) -> None:
        book, number = ledger(), 0
        try:
            while not stop.is_set():
                number += 1
                stack.accept(f"{name}-{number}")
                run_next(book, well=number % 3 == 0)
                letters = repository.letters().walk(LetterCriteria())
                for letter in itertools.islice(letters, 2):
                    if isinstance(letter, DeadLetter) and letter.status is not Status.PROCESSING:
                        dead_letters.replay(letter.id, actor="key:olga", force=True)
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("x", "y")]
    for thread in threads:
        thread.start()
    try:
        reports = [reconcile() for _ in range(8)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert broken == []
    assert [found(report) for report in reports] == [{}] * 8
    assert (found(reconcile()), reconcile().undecided) == ({}, [])


# --- the ledger: kind, how it comes about, whether it is repaired ---


def _unreadable(stack: Stack) -> None:
    stack.redis.hset("dlq:msg:m", mapping={"state": "lost", "epoch": "1"})


def _queued_in_no_index(stack: Stack) -> None:
    stack.accept("m")
    stack.redis.delete("dlq:waiting:normal", "rq:queue:normal")


def _scheduled_in_no_index(stack: Stack) -> None:
    stack.wait_for_retry("m")
    stack.redis.delete("dlq:due:scheduled")


def _running_in_no_index(stack: Stack) -> None:
    stack.claim("m")
    stack.redis.delete("dlq:due:running")


def _entry_without_message(stack: Stack) -> None:
    stack.redis.zadd("dlq:outbox", {"gone": 1})


def _entry_of_an_ended_message(stack: Stack) -> None:
    stack.bury("m")
    stack.redis.zadd("dlq:due:retry_wait", {"m": stack.book.now_ms() + 10_000})


def _entry_in_a_second_index(stack: Stack) -> None:
    stack.accept("m")
    stack.redis.zadd("dlq:due:retry_wait", {"m": stack.book.now_ms() + 10_000})


def _outcome_in_no_index(stack: Stack) -> None:
    stack.bury("m")
    stack.book.resettle("m", stack.book.get("m").epoch)  # type: ignore[union-attr]
    stack.redis.delete("dlq:outbox")


def _death_without_flag(stack: Stack) -> None:
    stack.bury("m")
    stack.book.resettle("m", stack.book.get("m").epoch)  # type: ignore[union-attr]
    stack.redis.hset("dlq:msg:m", "outbox", "")


def _wake_up_lost(stack: Stack) -> None:
    stack.accept("m")
    stack.redis.zadd("dlq:waiting:normal", {"m": stack.book.now_ms() - 120_000})
    for key in stack.redis.scan_iter("rq:job:*"):
        stack.redis.delete(key)
    stack.redis.delete("rq:queue:normal")


def _lease_over(stack: Stack) -> None:
    stack.claim("m")
    past = stack.book.now_ms() - 120_000
    stack.redis.hset("dlq:msg:m", "leaseUntil", past)
    stack.redis.zadd("dlq:due:running", {"m": past})


def _overdue(stack: Stack) -> None:
    stack.wait_for_retry("m")
    past = stack.book.now_ms() - 120_000
    stack.redis.hset("dlq:msg:m", "dueAt", past)
    stack.redis.zadd("dlq:due:scheduled", {"m": past})


def _payload_missing(stack: Stack) -> None:
    stack.accept("m")
    stack.redis.delete("dlq:body:m")


def _expires_while_open(stack: Stack) -> None:
    stack.accept("m")
    stack.redis.pexpire("dlq:body:m", 1_000_000)


def _never_expires(stack: Stack) -> None:
    stack.bury("m")
    stack.redis.persist("dlq:msg:m")


def _payload_without_message(stack: Stack) -> None:
    stack.redis.set("dlq:body:gone", "{}")


def _quarantined(stack: Stack) -> None:
    stack.bury("m")
    epoch = stack.book.get("m").epoch  # type: ignore[union-attr]
    stack.book.resettle("m", epoch)
    stack.book.quarantine("m", epoch, "too large")


def _account(stack: Stack) -> str:
    return f"dlq:acct:{stack.redis.smembers('dlq:acct:index').pop().decode()}"


def _account_differs(stack: Stack) -> None:
    stack.bury("m")
    stack.redis.hincrby(_account(stack), "accepted", 3)


def _account_negative(stack: Stack) -> None:
    stack.bury("m")
    stack.redis.hset(_account(stack), mapping={"accepted": "0", "dead": "1", "open": "-1"})


def _account_open_differs(stack: Stack) -> None:
    stack.accept("m")
    stack.redis.hset(_account(stack), mapping={"accepted": "3", "open": "3"})


def _account_below_records(stack: Stack) -> None:
    stack.bury("m")
    stack.redis.hset(_account(stack), mapping={"accepted": "0", "dead": "0"})


def _epoch_behind(stack: Stack) -> None:
    stack.bury("m")
    stack.change("m", fence=2_000_000_000_000, closedEpoch=2_000_000_000_000)
    stack.redis.delete(*stack.redis.scan_iter("dlq:*"))


# --- messages and letters ---


def _death_without_letter(stack: Stack) -> None:
    stack.bury("m")
    stack.mongo.dead_letters.delete_many({})


def _success_without_letter(stack: Stack) -> None:
    stack.bury("m")
    backup = stack.letter("m")
    replay_well(stack.book, stack.mongo, "m")
    stack.mongo.dead_letters.replace_one({"messageId": "m"}, backup)


def _claim_without_message(stack: Stack) -> None:
    stack.bury("m")
    stack.claim_letter("m", age=timedelta(minutes=7))


def _claim_ended(stack: Stack) -> None:
    stack.bury("m")
    stack.forward("m", stack.claim_letter("m"))
    backup = stack.letter("m")
    run_next(stack.book, well=True)
    stack.mongo.dead_letters.replace_one({"messageId": "m"}, backup)
    stack.redis.delete("dlq:recorded")


def _open_letter_of_done_message(stack: Stack) -> None:
    stack.bury("m")
    stack.redis.delete("dlq:msg:m", "dlq:story:m", "dlq:body:m", "dlq:recorded")
    stack.redis.delete(_account(stack))
    stack.accept("m")
    run_next(stack.book, well=True)


def _replay_without_claim(stack: Stack) -> None:
    stack.bury("m")
    backup = stack.letter("m")
    stack.forward("m", stack.claim_letter("m"))
    stack.mongo.dead_letters.replace_one({"messageId": "m"}, backup)


def _not_letters(stack: Stack) -> None:
    stack.mongo.dead_letters.insert_one({"messageId": 7, "status": "dlq_manual"})


def _attempt_without_outcome(stack: Stack) -> None:
    stack.bury("m")
    stack.change("m", replayAttempts=[{"epoch": 1, "outcome": None}])


def _pending_without_time(stack: Stack) -> None:
    stack.bury("m")
    stack.change("m", status="dlq_pending", nextRetryAt=None)


def _sent_twice_by_batch(stack: Stack) -> None:
    stack.bury("m")
    stack.change("m", replayAttempts=[{"epoch": n, "outcome": "failed_same", "batchId": "b-1"} for n in (1, 2)])


LEDGER: list[tuple[str, Callable[[Stack], None]]] = [
    ("record_unreadable", _unreadable),
    ("open_in_no_index", _queued_in_no_index),
    ("open_in_no_index", _scheduled_in_no_index),
    ("open_in_no_index", _running_in_no_index),
    ("index_leftover", _entry_without_message),
    ("index_leftover", _entry_of_an_ended_message),
    ("index_leftover", _entry_in_a_second_index),
    ("outcome_in_no_index", _outcome_in_no_index),
    ("outcome_in_no_index", _death_without_flag),
    ("wakeup_lost", _wake_up_lost),
    ("lease_over", _lease_over),
    ("overdue", _overdue),
    ("payload_missing", _payload_missing),
    ("expires_while_open", _expires_while_open),
    ("never_expires", _never_expires),
    ("payload_without_message", _payload_without_message),
    ("quarantined", _quarantined),
    ("account_differs", _account_differs),
    ("account_negative", _account_negative),
    ("account_open_differs", _account_open_differs),
    ("account_below_records", _account_below_records),
    ("epoch_behind", _epoch_behind),
    ("death_without_letter", _death_without_letter),
    ("success_without_letter", _success_without_letter),
    ("claim_without_message", _claim_without_message),
    ("claim_ended", _claim_ended),
    ("open_letter_of_done_message", _open_letter_of_done_message),
    ("replay_without_claim", _replay_without_claim),
    ("not_letters", _not_letters),
    ("attempt_without_outcome", _attempt_without_outcome),
    ("pending_without_time", _pending_without_time),
    ("sent_twice_by_batch", _sent_twice_by_batch),
]


@pytest.mark.parametrize(("kind", "make"), LEDGER, ids=[make.__name__[1:] for _, make in LEDGER])
def test_a_difference_is_reported_and_repaired_where_that_is_safe(
    stack: Stack, kind: str, make: Callable[[Stack], None]
) -> None:
    stack.bury("beside")
    stack.mongo.dead_letters.delete_many({})
    stack.redis.flushall()
    make(stack)

    first = reconcile()
    assert kind in found(first), found(first)
    assert set(found(first)) - {kind} <= _ALONGSIDE.get(kind, set())
    assert first.found[kind].examples
    assert first.left > 0
    assert found(reconcile()) == found(first), "it only reads"

    fixed = reconcile(fix=True)

    assert kind in found(fixed)
    if KINDS[kind].is_repairable:
        assert fixed.found[kind].repaired == fixed.found[kind].count
        assert kind not in found(reconcile())
    else:
        assert fixed.found[kind].repaired == 0
        assert kind in found(reconcile())


#: What the same break makes differ, too.
_ALONGSIDE = {
    "record_unreadable": {"account_open_differs"},
    "account_negative": {"account_open_differs"},
}


def test_repaired_messages_run_and_repaired_outcomes_are_recorded(stack: Stack) -> None:
    _queued_in_no_index(stack)
    reconcile(fix=True)
    stack.redis.zadd("dlq:waiting:normal", {"m": stack.book.now_ms() - 11_000})
    stack.book.due()
    assert run_next(stack.book, well=False) == "m"
    assert statuses(stack.mongo).keys() == {"m"}

    record = stack.book.get("m")
    assert record is not None
    stack.book.resettle("m", record.epoch)
    stack.redis.delete("dlq:outbox")
    stack.mongo.dead_letters.delete_many({})
    reconcile(fix=True)
    assert stack.book.figures().outbox == 1
    assert found(reconcile()) == {}


def test_a_raised_epoch_is_above_every_letter(stack: Stack) -> None:
    _epoch_behind(stack)
    reconcile(fix=True)

    stack.accept("m")
    run_next(stack.book, well=False)

    assert int(stack.letter("m")["closedEpoch"]) == 2_000_000_000_001


def test_the_release_of_a_stale_claim_blocks_its_epoch(stack: Stack) -> None:
    stack.bury("m")
    epoch = stack.claim_letter("m", age=timedelta(minutes=7))

    reconcile(fix=True)

    assert stack.letter("m")["status"] == "dlq_manual"
    stack.forward("m", epoch)
    assert stack.book.get("m").epoch < epoch  # type: ignore[union-attr]


def test_messages_with_two_letters_are_reported_without_the_unique_index(stack: Stack) -> None:
    stack.bury("m")
    stack.mongo.dead_letters.drop_index(indexes.UNIQUE)
    try:
        stack.mongo.dead_letters.insert_one({**stack.letter("m"), "_id": ObjectId()})
        report = reconcile()
        assert found(report)["letters_twice"] == 1
        assert report.found["letters_twice"].examples == ["m"]
    finally:
        stack.mongo.dead_letters.delete_many({})
        indexes.ensure(database(), keep_resolved_days=90)


def test_differences_are_counted_in_full_and_named_in_part(stack: Stack) -> None:
    for number in range(25):
        stack.redis.set(f"dlq:body:gone-{number}", "{}")

    report = reconcile()

    assert found(report) == {"payload_without_message": 25}
    assert len(report.found["payload_without_message"].examples) == 10


def test_since_leaves_out_older_letters_and_quick_looks_at_what_is_open(stack: Stack) -> None:
    _pending_without_time(stack)
    stack.change("m", updatedAt=LONG_AGO)

    assert "pending_without_time" in found(reconcile())
    assert found(reconcile(Scope(since=LONG_AGO + timedelta(days=1)))) == {}
    assert found(reconcile(Scope(quick=True))) == {}

    _entry_without_message(stack)
    quick = reconcile(Scope(quick=True))
    assert found(quick) == {"index_leftover": 1}
    assert "messages" not in quick.compared


def test_a_quick_comparison_finds_missing_letters(stack: Stack) -> None:
    _death_without_letter(stack)

    assert found(reconcile(Scope(quick=True))) == {"death_without_letter": 1}
    assert stack.redis.zcard("dlq:lacking") == 0, "it only reads"


def test_only_ids_that_intake_accepts_are_written(stack: Stack) -> None:
    stack.redis.zadd("dlq:outbox", {"an id\nof another program": 1})

    report = reconcile(fix=True)

    assert not is_message_id("an id\nof another program")
    assert (found(report), report.left) == ({"index_leftover": 1}, 1)


# --- batches ---


@pytest.fixture
def rig(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Rig:
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    return Rig(repository.letters(), port)


def _ended_batch(rig: Rig, *names: str) -> str:
    rig.die(*names)
    return rig.run(rig.start()).id


def test_batches_that_ran_agree(rig: Rig, stack: Stack) -> None:
    _ended_batch(rig, "a", "b")
    rig.die("c")
    rig.start(name="waits", scheduledAt=(datetime.now(UTC) + timedelta(days=1)).isoformat())

    report = reconcile()

    assert found(report) == {}
    assert report.in_flight["batches"] == 1
    assert report.compared["batches"] == 2


def test_differences_of_batches_are_reported_and_repaired(rig: Rig, stack: Stack) -> None:
    counts, opened, lost = _ended_batch(rig, "a"), _ended_batch(rig, "b", "c"), _ended_batch(rig, "d")
    differs = _ended_batch(rig, "e")
    stack.mongo.replay_batches.update_one({"_id": counts}, {"$set": {"counts.succeeded": 7}})
    stack.mongo.replay_items.update_one({"batchId": opened, "messageId": "b"}, {"$set": {"outcome": None}})
    stack.mongo.replay_items.delete_one({"batchId": lost})
    stack.mongo.replay_items.update_one({"batchId": differs}, {"$set": {"outcome": "failed_same"}})
    stack.mongo.replay_items.insert_one({"_id": "b-gone:1", "batchId": "b-gone", "seq": 0, "outcome": None})
    stack.mongo.replay_batches.insert_one({"_id": "b-odd", "stage": "sideways"})

    first = reconcile()

    assert found(first) == {
        "batch_unreadable": 1, "batch_counts_differ": 3, "batch_ended_with_open_letters": 1,
        "batch_letters_missing": 1, "batch_outcome_missing": 1, "batch_outcome_differs": 1, "letters_without_batch": 1,
    }  # fmt: skip
    assert found(reconcile()) == found(first), "it only reads"
    reconcile(fix=True)
    reconcile(fix=True)
    assert found(reconcile()) == {"batch_unreadable": 1, "batch_letters_missing": 1, "batch_outcome_differs": 1}


def test_a_reopened_batch_sends_nothing_and_ends_again(rig: Rig, stack: Stack) -> None:
    batch_id = _ended_batch(rig, "a", "b")
    sent = len(rig.sent())
    gone = {"batchId": batch_id, "messageId": "a"}
    stack.mongo.replay_items.update_one(gone, {"$set": {"outcome": None, "sent": False}})
    stack.change("a", replayAttempts=[])

    assert found(reconcile(fix=True)) == {"batch_ended_with_open_letters": 1}
    assert stack.mongo.replay_batches.find_one({"_id": batch_id})["active"] is True
    batch = rig.run(batches.get(batch_id), until=lambda one: not stack.mongo.replay_batches.find_one({"active": True}))

    assert len(rig.sent()) == sent
    assert batch.counts.remaining == 0
    assert found(reconcile()) == {}


def test_a_batch_that_nobody_ends_is_reported_after_a_minute(rig: Rig, stack: Stack) -> None:
    batch_id = _ended_batch(rig, "a")
    unfinished = {"$set": {"stage": "running", "active": True, "finishedAt": None}}
    stack.mongo.replay_batches.update_one({"_id": batch_id}, unfinished)
    assert found(reconcile()) == {}

    stack.mongo.replay_batches.update_one({"_id": batch_id}, {"$set": {"updatedAt": LONG_AGO}})

    assert found(reconcile()) == {"batch_not_ended": 1}


def test_a_limit_of_a_batch_that_does_not_exist_is_removed(rig: Rig, stack: Stack) -> None:
    starts = [
        {"id": "b-gone", "count": 5, "at": datetime.now(UTC) - timedelta(minutes=20)},
        {"id": "b-new", "count": 5, "at": datetime.now(UTC)},
    ]
    stack.mongo.dlq_approvals.insert_one({"_id": "key:olga", "starts": starts})

    report = reconcile(fix=True)

    assert found(report) == {"approval_without_batch": 1}
    assert [one["id"] for one in stack.mongo.dlq_approvals.find_one()["starts"]] == ["b-new"]


def test_stored_figures_are_compared_with_a_count(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures_service, "MAX_INLINE_LETTERS", 1)
    for name in ("a", "b", "c"):
        stack.bury(name)
    figures().keep(figures().count(10))
    assert found(reconcile()) == {}
    stack.bury("d")
    assert found(reconcile()) == {}, "it changed since they were counted"

    stack.mongo.dead_letters.update_many({}, {"$set": {"updatedAt": LONG_AGO}})

    assert found(reconcile(fix=True)) == {"figures_differ": 1}
    assert found(reconcile()) == {}


def test_every_kind_is_made_by_a_test() -> None:
    made = {kind for kind, _ in LEDGER} | {
        "letters_twice", "figures_differ", "approval_without_batch", "batch_not_ended", "batch_unreadable",
        "batch_counts_differ", "batch_ended_with_open_letters", "batch_letters_missing", "batch_outcome_missing",
        "batch_outcome_differs", "letters_without_batch",
    }  # fmt: skip

    assert made == set(KINDS)
