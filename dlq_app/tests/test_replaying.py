"""Replaying letters: claims, lost answers, breakers, the sweep."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import NetworkTimeout

from dlq_app.domain.errors import OrderRefused, PayloadInvalid, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.states import Status
from dlq_app.services import dead_letters, replaying
from dlq_app.services.replaying import (
    AlreadyClaimed,
    AlreadyDone,
    NotFound,
    NotReplayable,
    NotStarted,
    Refused,
    Replayed,
    Replayer,
    ReplayRequest,
    Unknown,
)
from dlq_app.store.repository import ClaimOrder, Letters
from dlq_app.testing import NOON, MemoryIntake, MemoryRecord, a_death, a_document, lose_answer

pytestmark = pytest.mark.mongo

AWAY = StoreUnavailable("intake is away")


@pytest.fixture
def letter(letters: Letters) -> DeadLetter:
    dead_letters.record_outcomes([a_death()], [])
    return found(letters)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for intake."""
    monkeypatch.setattr(replaying, "ASK_AGAIN_S", 0.0)


def found(letters: Letters, message_id: str = "m-1") -> DeadLetter:
    letter = letters.find(message_id)
    assert letter is not None
    return letter


def request(**changes: Any) -> ReplayRequest:
    return replace(ReplayRequest(replay_id="r-1", kind="operator", by="key:olga", why="the bank is back"), **changes)


def test_it_sends_the_original_as_it_was_received(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    answer = dead_letters.replay("m-1", actor="key:olga", reason="the bank is back", replay_id="r-1")

    (order,) = intake.forwarded
    assert answer == Replayed("r-1", "m-1", letter.id)
    assert order.body == a_death().body
    assert order.run_body is None
    assert order.epoch == letter.fence + 1
    assert order.death_seen == letter.closed_epoch
    assert (order.type, order.priority, order.source, order.client) == ("payment.capture", "normal", "shop", "key:shop")
    assert json.loads(order.tags) == ["eu"]
    assert order.acct_day == "20261124"
    assert order.prior_runs == 4
    assert order.replay_id == "r-1"
    claimed = found(letters)
    assert claimed.status is Status.PROCESSING
    assert claimed.claim is not None
    assert claimed.claim.epoch == order.epoch
    assert claimed.claim.came_from is Status.PENDING
    assert claimed.claim.locked_at is not None
    assert claimed.replay_attempts[-1]["outcome"] is None


def test_the_deadline_counts_from_before_the_claim(letter: DeadLetter, intake: MemoryIntake) -> None:
    dead_letters.replay("m-1", actor="key:olga")

    intake_now = intake.now_ms()
    assert 0 < intake.forwarded[0].deadline_ms - intake_now <= 4 * 60 * 1000


def test_its_good_end_resolves_the_letter(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.replay("m-1", actor="key:olga")

    dead_letters.record_outcomes([], [intake.end("m-1", done=True)])  # type: ignore[list-item]

    assert found(letters).status is Status.RESOLVED


def test_an_edited_payload_runs_and_the_original_stays(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    dead_letters.replay(
        "m-1", actor="key:olga", reason="other amount", payload=b'{"orderId": 5511870, "amount": "1.00"}'
    )

    (order,) = intake.forwarded
    claimed = found(letters)
    (version,) = claimed.versions
    assert order.body == a_death().body
    assert order.run_body == b'{"orderId": 5511870, "amount": "1.00"}'
    assert order.version == version["version"] == 1
    assert (version["by"], version["why"]) == ("key:olga", "other amount")
    assert '-  "amount": "129.00"' in version["diff"]
    assert '+  "amount": "1.00"' in version["diff"]
    assert claimed.body == a_death().body

    dead_letters.record_outcomes([intake.end("m-1", done=False)], [])  # type: ignore[list-item]
    assert found(letters).body == a_death().body, "nor does the death of the edited run touch it"


def test_versions_are_counted_up(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    for n in (1, 2):
        dead_letters.replay("m-1", actor="key:olga", payload=f'"{n}"'.encode())
        dead_letters.record_outcomes([intake.end("m-1", done=False)], [])  # type: ignore[list-item]

    assert [order.run_body for order in intake.forwarded] == [b'"1"', b'"2"']
    assert [version["version"] for version in found(letters).versions] == [1, 2]


def test_a_payload_that_intake_would_refuse_claims_nothing(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    with pytest.raises(PayloadInvalid):
        dead_letters.replay("m-1", actor="key:olga", payload=b"{")

    assert found(letters) == letter


def test_twenty_people_at_once_make_one_replay(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    start = threading.Barrier(20)
    answers: list[object] = []

    def click(n: int) -> None:
        start.wait()
        answers.append(dead_letters.replay("m-1", actor=f"user:{n}"))

    threads = [threading.Thread(target=click, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(isinstance(answer, Replayed) for answer in answers) == 1
    assert sum(isinstance(answer, AlreadyClaimed) for answer in answers) == 19
    assert len(intake.forwarded) == 1
    assert len(found(letters).replay_attempts) == 1


def test_every_claim_draws_a_new_epoch(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    epochs = []
    for _ in range(3):
        dead_letters.replay("m-1", actor="key:olga")
        epochs.append(intake.forwarded[-1].epoch)
        dead_letters.record_outcomes([intake.end("m-1", done=False)], [])  # type: ignore[list-item]

    assert epochs == [1001, 1002, 1003]


def test_a_released_claims_epoch_is_never_drawn_again(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, impatient: None
) -> None:
    intake.fail["before_forward"] = AWAY
    assert isinstance(dead_letters.replay("m-1", actor="key:olga"), NotStarted)
    intake.fail.clear()

    dead_letters.replay("m-1", actor="key:olga")

    assert intake.voids == {"m-1": 1001}
    assert [order.epoch for order in intake.forwarded] == [1002]


def test_a_closed_door_claims_nothing(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    intake.open_types["payment.capture"] = 30_000

    assert dead_letters.replay("m-1", actor="key:olga") == Refused("m-1", "payment.capture", 30.0, "payment.capture")
    assert found(letters) == letter


def test_intake_away_claims_nothing(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    intake.fail["before_now_ms"] = AWAY

    with pytest.raises(StoreUnavailable):
        dead_letters.replay("m-1", actor="key:olga")

    assert found(letters) == letter


def test_nobody_and_resolved_and_claimed_are_told_apart(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    dead_letters.record_outcomes([a_death("m-2")], [])
    dead_letters.discard("m-2", actor="key:olga")
    dead_letters.replay("m-1", actor="key:olga", replay_id="r-9")

    assert dead_letters.replay("nobody", actor="key:olga") == NotFound("nobody")
    assert dead_letters.replay("m-2", actor="key:olga") == NotReplayable("m-2", Status.RESOLVED)
    assert dead_letters.replay("m-1", actor="key:olga") == AlreadyClaimed("m-1", "r-9")
    assert dead_letters.replay("m-1", actor="key:olga", force=True) == AlreadyClaimed("m-1", "r-9")


def test_force_replays_a_resolved_letter_and_a_refusal_leaves_it_resolved(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    dead_letters.discard("m-1", actor="key:olga")
    intake.records["m-1"] = MemoryRecord("queued", 500)

    assert dead_letters.replay("m-1", actor="key:olga", force=True) == AlreadyClaimed("m-1", "queued")
    back = found(letters)
    assert back.status is Status.RESOLVED
    assert back.resolution == "discarded"

    del intake.records["m-1"]
    assert isinstance(dead_letters.replay("m-1", actor="key:olga", force=True), Replayed)
    assert not intake.forwarded[-1].ended_done


def test_an_order_says_when_the_last_run_ended_well(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.replay("m-1", actor="key:olga")
    assert not intake.forwarded[-1].ended_done
    dead_letters.record_outcomes([], [intake.end("m-1", done=True)])  # type: ignore[list-item]
    intake.records.clear()

    dead_letters.replay("m-1", actor="key:olga", force=True)

    assert intake.forwarded[-1].ended_done


class LosesClaims:
    """A collection whose claims are applied, and then the answer is lost."""

    def __init__(self, collection: Collection[dict[str, Any]], *, applied: bool) -> None:
        self._collection = collection
        self._applied = applied
        self._lost = False

    def find_one_and_update(self, *args: Any, **kwargs: Any) -> Any:
        if not self._lost:
            self._lost = True
            if self._applied:
                self._collection.find_one_and_update(*args, **kwargs)
            raise NetworkTimeout("the answer was lost")
        return self._collection.find_one_and_update(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


@pytest.mark.parametrize("applied", [True, False])
def test_a_claim_whose_answer_was_lost_is_read_back(
    letter: DeadLetter, store: Database[dict[str, Any]], letters: Letters, intake: MemoryIntake, applied: bool
) -> None:
    lossy = Letters(LosesClaims(store["dead_letters"], applied=applied))  # type: ignore[arg-type]

    assert Replayer(lossy, intake).replay(letter, request()) == Replayed("r-1", "m-1", letter.id)

    assert len(found(letters).replay_attempts) == 1
    assert len(intake.forwarded) == 1


def test_the_same_replay_asked_again_goes_on_with_its_claim(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    first = dead_letters.replay("m-1", actor="key:olga", replay_id="r-1")

    assert dead_letters.replay("m-1", actor="key:olga", replay_id="r-1") == first
    assert len(intake.forwarded) == 1


def test_a_forward_whose_answer_was_lost_is_sent_again(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    intake.fail["after_forward"] = lose_answer()

    assert isinstance(dead_letters.replay("m-1", actor="key:olga"), Replayed)
    assert len(intake.forwarded) == 1


def test_a_forward_that_landed_without_a_word_counts_as_forwarded(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, impatient: None
) -> None:
    """Looking by ``void`` finds the message: it must not be reported as not started."""
    intake.fail["after_forward"] = lose_answer(99)

    assert isinstance(dead_letters.replay("m-1", actor="key:olga"), Replayed)
    assert found(letters).status is Status.PROCESSING


def test_the_way_is_barred_before_a_claim_is_given_back(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, impatient: None
) -> None:
    """A late copy of the forward must not run what was reported as not started."""
    late: list[Callable[[], object]] = []
    forward = intake.forward

    def times_out(order: Any) -> Any:
        late.append(lambda: forward(order))
        raise AWAY

    intake.forward = times_out  # type: ignore[method-assign]

    assert isinstance(dead_letters.replay("m-1", actor="key:olga"), NotStarted)
    assert found(letters).status is Status.PENDING
    for land in late:
        land()
    assert intake.forwarded == []


def test_a_claim_stands_while_intake_says_nothing(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, impatient: None
) -> None:
    intake.fail["before_forward"] = intake.fail["before_void"] = AWAY

    assert dead_letters.replay("m-1", actor="key:olga", replay_id="r-1") == Unknown("r-1", "m-1")
    assert found(letters).status is Status.PROCESSING, "never released without a voided epoch"


@pytest.mark.parametrize(
    ("record", "answer", "status"),
    [
        (MemoryRecord("running", 5), AlreadyClaimed("m-1", "running"), Status.PENDING),
        (MemoryRecord("dead_pending", 1500), AlreadyClaimed("m-1", "dead_pending"), Status.PENDING),
        (MemoryRecord("queued", 9999), AlreadyClaimed("m-1", "queued"), Status.PENDING),
        (MemoryRecord("done", 9999), AlreadyDone("m-1"), Status.MANUAL),
        (MemoryRecord("done", 5), AlreadyDone("m-1"), Status.MANUAL),
        (MemoryRecord("done", 5, outbox="settle"), AlreadyClaimed("m-1", "done"), Status.PENDING),
    ],
    ids=["running", "newer death", "superseded open", "superseded done", "already done", "unsettled"],
)
def test_what_stands_in_the_way_sends_the_letter_back(
    letter: DeadLetter,
    letters: Letters,
    intake: MemoryIntake,
    record: MemoryRecord,
    answer: object,
    status: Status,
) -> None:
    intake.records["m-1"] = record

    assert dead_letters.replay("m-1", actor="key:olga") == answer

    back = found(letters)
    assert back.status is status
    assert back.replay_attempts == []
    assert back.claim is None
    assert back.fence == letter.fence + 1, "the epoch stays drawn"
    assert back.history[-1]["what"] in ("release", "hand_over")


@pytest.mark.parametrize("epoch", [9999, 5], ids=["superseded done", "already done"])
def test_a_resolved_letter_stays_resolved_when_a_newer_run_ended_well(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, epoch: int
) -> None:
    dead_letters.discard("m-1", actor="key:olga", reason="sent by hand")
    intake.records["m-1"] = MemoryRecord("done", epoch)
    forward = intake.forward
    # Done again between the order and its arrival: only then does `force` meet a run of a lower epoch that is done.
    intake.forward = lambda order: forward(replace(order, force=False))  # type: ignore[method-assign]
    before = found(letters)

    assert dead_letters.replay("m-1", actor="key:olga", force=True) == AlreadyDone("m-1", stays_resolved=True)

    after = found(letters)
    assert (after.status, after.resolution, after.resolved_at) == (
        Status.RESOLVED,
        before.resolution,
        before.resolved_at,
    )
    assert after.claim is None
    assert after.replay_attempts == []
    assert after.history[-1]["what"] == "release"


def test_a_resolved_letter_that_intake_can_never_run_stays_resolved(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    dead_letters.discard("m-1", actor="key:olga")
    intake.fail["before_forward"] = OrderRefused("no such priority")

    answer = dead_letters.replay("m-1", actor="key:olga", force=True)

    assert answer == NotReplayable("m-1", Status.RESOLVED, "no such priority")
    assert found(letters).status is Status.RESOLVED


def test_a_death_that_the_letter_has_seen_is_not_in_the_way(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    intake.records["m-1"] = MemoryRecord("dead_pending", letter.closed_epoch)

    assert isinstance(dead_letters.replay("m-1", actor="key:olga"), Replayed)


def test_a_forward_after_its_deadline_is_not_carried_out(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake
) -> None:
    real, began = intake.clock, [True]

    def paused() -> int:
        # The claimant slept five minutes between its claim and its forward.
        if began:
            began.clear()
            return real()
        return real() + 5 * 60 * 1000

    intake.clock = paused

    assert isinstance(dead_letters.replay("m-1", actor="key:olga"), NotStarted)
    assert intake.forwarded == []
    assert found(letters).status is Status.PENDING


def test_a_release_never_touches_a_newer_claim(letter: DeadLetter, letters: Letters, intake: MemoryIntake) -> None:
    """The fence in the filter of the release."""
    dead_letters.replay("m-1", actor="key:olga", replay_id="r-1")
    old = found(letters)
    letters.release(old, why="voided", now=datetime.now(UTC))
    intake.records.clear()
    dead_letters.replay("m-1", actor="key:olga", replay_id="r-2")

    assert not letters.release(old, why="again, late", now=datetime.now(UTC))
    assert not letters.hand_over(old, why="late", now=datetime.now(UTC))
    assert found(letters).claim.replay_id == "r-2"  # type: ignore[union-attr]


def an_order(replay_id: str, **changes: Any) -> ClaimOrder:
    values = {"replay_id": replay_id, "kind": "operator", "by": "key:olga", "locked_by": "test", "at": NOON, **changes}
    return ClaimOrder(**values)


def test_a_letter_that_was_resolved_since_it_was_read_is_not_claimed(letter: DeadLetter, letters: Letters) -> None:
    """The status in the filter of the claim: what operators do leaves the fence as it is."""
    dead_letters.discard("m-1", actor="key:olga")

    assert letters.claim(letter, an_order("r-1")) is None
    assert found(letters).status is Status.RESOLVED


def test_no_epoch_is_drawn_twice_from_one_reading(letter: DeadLetter, letters: Letters) -> None:
    """The fence in the filter of the claim: claimed and released since it was read, the letter looks the same."""
    claimed = letters.claim(letter, an_order("r-1"))
    assert claimed is not None
    letters.release(claimed, why="voided", now=NOON)

    assert letters.claim(letter, an_order("r-2")) is None
    assert found(letters).fence == 1001


def test_an_operators_move_finds_a_letter_claimed_meanwhile(letter: DeadLetter, letters: Letters) -> None:
    letters.claim(letter, an_order("r-1"))

    for move in (letters.resolve_by_hand, letters.discard, letters.set_aside):
        assert move(letter.id, who="olga", why="", now=NOON) is None
    assert found(letters).status is Status.PROCESSING


def test_a_batch_claims_a_letter_once_ever(
    letter: DeadLetter, letters: Letters, store: Database[dict[str, Any]]
) -> None:
    """Also when its replay failed and the letter waits again; another batch may."""
    claimed = letters.claim(letter, an_order("r-1", kind="batch", batch_id="b-1"))
    assert claimed is not None
    dead_letters.record_outcomes([a_death(epoch=claimed.fence, replay_id="r-1")], [])

    assert letters.claim(found(letters), an_order("r-2", kind="batch", batch_id="b-1")) is None
    assert letters.claim(found(letters), an_order("r-3", kind="batch", batch_id="b-2")) is not None


def test_a_batch_does_not_claim_what_it_skipped(
    letter: DeadLetter, letters: Letters, store: Database[dict[str, Any]]
) -> None:
    store["dead_letters"].update_one({}, {"$addToSet": {"skippedBy": "b-1"}})

    assert letters.claim(found(letters), an_order("r-1", kind="batch", batch_id="b-1")) is None
    assert letters.claim(found(letters), an_order("r-2")) is not None


# --- the sweep ---


def make_stale(store: Database[dict[str, Any]], minutes: float = 6) -> None:
    then = datetime.now(UTC) - timedelta(minutes=minutes)
    store["dead_letters"].update_many({"status": "dlq_processing"}, {"$set": {"replay.lockedAt": then}})


def claim_and_die(letters: Letters, intake: MemoryIntake) -> None:
    """A claimant killed between claim and forward."""
    intake.fail["before_forward"] = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        dead_letters.replay("m-1", actor="key:olga")
    intake.fail.clear()


def test_the_sweep_frees_a_claim_whose_claimant_died(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    claim_and_die(letters, intake)
    make_stale(store)

    assert dead_letters.release_stale() == 1

    back = found(letters)
    assert back.status is Status.PENDING
    assert back.replay_attempts == []
    assert intake.voids == {"m-1": 1001}, "looked and barred in one step"


def test_the_sweep_leaves_young_claims_alone(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    claim_and_die(letters, intake)
    make_stale(store, minutes=4)

    assert dead_letters.release_stale() == 0
    assert intake.voids == {}


def test_the_sweep_keeps_a_claim_whose_message_runs(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    dead_letters.replay("m-1", actor="key:olga")
    make_stale(store)

    assert dead_letters.release_stale() == 0
    assert dead_letters.release_stale() == 0

    kept = found(letters)
    assert kept.status is Status.PROCESSING
    assert kept.claim is not None
    assert kept.claim.locked_at is not None
    assert datetime.now(UTC) - kept.claim.locked_at < timedelta(minutes=1)
    assert intake.resettled == []


@pytest.mark.parametrize("done", [True, False])
def test_the_sweep_asks_again_for_an_outcome_that_the_letter_lacks(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]], done: bool
) -> None:
    dead_letters.replay("m-1", actor="key:olga")
    intake.end("m-1", done=done)
    make_stale(store)

    dead_letters.release_stale()

    assert intake.resettled == [("m-1", 1001)]
    assert found(letters).status is Status.PROCESSING


def test_the_sweep_does_nothing_while_intake_is_away(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    claim_and_die(letters, intake)
    make_stale(store)
    intake.fail["before_void"] = AWAY

    with pytest.raises(StoreUnavailable):
        dead_letters.release_stale()

    assert found(letters).status is Status.PROCESSING


def test_a_broken_claim_spoils_no_sweep(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    claim_and_die(letters, intake)
    make_stale(store)
    store["dead_letters"].insert_many(
        [
            a_document("bare-claim", status="dlq_processing"),
            a_document("no-numbers", status="dlq_processing", fence="x", replay="y"),
            {"messageId": 7, "status": "dlq_processing"},
        ]
    )

    dead_letters.release_stale()

    assert found(letters).status is Status.PENDING
    assert found(letters, "bare-claim").status is Status.MANUAL


# --- by itself ---


def test_it_replays_what_is_due_and_nothing_else(letters: Letters, intake: MemoryIntake) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    dead_letters.record_outcomes(
        [
            a_death("due"),
            a_death("not yet", died_at=soon),
            a_death("by hand", error_type="VALIDATION_ERROR", error_kind="permanent"),
        ],
        [],
    )

    done = dead_letters.replay_due()

    assert (done.due, done.replayed) == (1, 1)
    assert [order.message_id for order in intake.forwarded] == ["due"]
    (attempt,) = found(letters, "due").replay_attempts
    assert (attempt["kind"], attempt["by"], attempt["why"]) == ("auto", "system", "automatic replay 1 of 5")
    assert dead_letters.replay_due().due == 0


def test_a_missed_off_peak_slot_waits_for_the_next(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(error_type="DATABASE_ERROR")], [])
    assert found(letters).strategy == "off_peak"
    missed = datetime.now(UTC) - timedelta(hours=2)
    letters.postpone(found(letters), missed)

    done = dead_letters.replay_due()

    assert (done.replayed, done.postponed) == (0, 1)
    later = found(letters).next_retry_at
    assert later is not None
    assert later > datetime.now(UTC)
    assert later.hour in (2, 3, 4)


def test_an_off_peak_slot_that_has_just_begun_is_used(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(error_type="DATABASE_ERROR")], [])
    letters.postpone(found(letters), datetime.now(UTC) - timedelta(minutes=10))

    assert dead_letters.replay_due().replayed == 1


def test_an_open_breaker_puts_off_its_type_and_no_other(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(f"p-{n}") for n in range(3)] + [a_death("other", type="mail.send")], [])
    intake.open_types["payment.capture"] = 45_000

    done = dead_letters.replay_due()

    assert (done.replayed, done.postponed) == (1, 3)
    put_off = found(letters, "p-1")
    assert put_off.status is Status.PENDING
    assert put_off.dlq_retry_count == 0
    assert put_off.replay_attempts == []
    assert put_off.next_retry_at is not None
    assert timedelta(seconds=40) < put_off.next_retry_at - datetime.now(UTC) < timedelta(seconds=50)


def test_an_open_breaker_that_the_payload_chose_puts_off_only_what_goes_there(
    letters: Letters, intake: MemoryIntake
) -> None:
    intake.destinations["http.deliver"] = ("ill.example", "well.example")
    intake.open_types["ill.example"] = 45_000
    dead_letters.record_outcomes(
        [
            a_death(f"m-{n}-{host[0]}", type="http.deliver", body=f'{{"url": "https://{host}/"}}'.encode())
            for n in range(3)
            for host in ("ill.example", "well.example")
        ],
        [],
    )

    done = dead_letters.replay_due()

    assert (done.due, done.replayed, done.postponed) == (6, 3, 3)
    assert {order.message_id[-1] for order in intake.forwarded} == {"w"}
    assert found(letters, "m-0-i").next_retry_at != found(letters, "m-0-w").next_retry_at
    assert dead_letters.replay_due().due == 0


def test_an_automatic_replay_that_meets_a_running_message_waits_five_minutes(
    letters: Letters, intake: MemoryIntake
) -> None:
    dead_letters.record_outcomes([a_death()], [])
    intake.records["m-1"] = MemoryRecord("running", 5000)

    assert dead_letters.replay_due().left == 1

    back = found(letters)
    assert back.status is Status.PENDING
    assert back.next_retry_at is not None
    assert back.next_retry_at - datetime.now(UTC) > timedelta(minutes=4)


def test_many_workers_replay_each_due_letter_once(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(25)], [])
    start = threading.Barrier(4)

    def poll() -> None:
        start.wait()
        dead_letters.replay_due()

    threads = [threading.Thread(target=poll) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(order.message_id for order in intake.forwarded) == sorted(f"m-{n}" for n in range(25))


def test_a_letter_spoilt_by_hand_stops_no_poll(
    letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    long_ago = datetime(2026, 1, 1, tzinfo=UTC)
    store["dead_letters"].insert_many(
        [
            {"messageId": 7, "status": "dlq_pending", "nextRetryAt": long_ago},
            {"messageId": "half", "status": "dlq_pending", "nextRetryAt": long_ago},
            a_document("text", nextRetryAt="tomorrow"),
        ]
    )
    dead_letters.record_outcomes([a_death()], [])

    dead_letters.replay_due()

    assert [order.message_id for order in intake.forwarded] == ["m-1"]
    assert dead_letters.replay_due().due == 0, "what cannot be read does not stand at the head of every poll"


def test_intake_away_stops_the_round_without_a_trace(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])
    before = found(letters)
    intake.fail["before_now_ms"] = AWAY

    with pytest.raises(StoreUnavailable):
        dead_letters.replay_due()

    assert found(letters) == before


def test_a_letter_that_intake_can_never_run_is_left_to_a_person(letters: Letters, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death("m-1"), a_death("m-2")], [])
    refused = OrderRefused("The ledger cannot do that: bad id.")

    def refuse_the_first() -> None:
        intake.fail.clear()
        raise refused

    intake.fail["before_forward"] = refuse_the_first

    done = dead_letters.replay_due()

    assert (done.due, done.replayed, done.left) == (2, 1, 1)
    assert sorted(found(letters, name).status for name in ("m-1", "m-2")) == [Status.MANUAL, Status.PROCESSING]


def test_the_sweep_leaves_a_claim_of_no_possible_message_to_a_person(
    letter: DeadLetter, letters: Letters, intake: MemoryIntake, store: Database[dict[str, Any]]
) -> None:
    claim_and_die(letters, intake)
    make_stale(store)
    intake.fail["before_void"] = OrderRefused("bad id")

    assert dead_letters.release_stale() == 1

    assert found(letters).status is Status.MANUAL
