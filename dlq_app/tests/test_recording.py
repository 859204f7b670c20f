"""How deaths and ends of replays get into letters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ExecutionTimeout, NetworkTimeout

from dlq_app.conf import replay_policy
from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter import DeadLetter, Death, Recorded, Settled
from dlq_app.domain.states import Resolution, Status
from dlq_app.services import dead_letters, recording
from dlq_app.store.repository import ClaimOrder, Letters
from dlq_app.testing import NOON, a_death, a_document, a_settlement

pytestmark = pytest.mark.mongo

OK = Recorded(ok=True)


def claim(letters: Letters, message_id: str = "m-1", *, kind: str = "operator", **changes: Any) -> DeadLetter:
    letter = letters.find(message_id)
    assert letter is not None
    order = ClaimOrder(
        **{"replay_id": "r-1", "kind": kind, "by": "key:olga", "locked_by": "test", "at": NOON, **changes}
    )
    claimed = letters.claim(letter, order)
    assert claimed is not None
    return claimed


def test_it_writes_the_letter_of_a_first_death(letters: Letters) -> None:
    answers = dead_letters.record_outcomes([a_death()], [])

    letter = letters.find("m-1")
    assert answers == [OK]
    assert letter is not None
    assert letter.status is Status.PENDING
    assert letter.body == b'{"orderId": 5511870, "amount": "129.00"}'
    assert letter.next_retry_at == NOON + timedelta(minutes=1)
    assert (letter.fence, letter.closed_epoch, letter.retry_count, letter.dlq_retry_count) == (1000, 1000, 3, 0)
    assert letter.prior_runs == 4
    assert letter.attempts[0]["durationMs"] == 7300
    assert letter.attempts[0]["epoch"] == 1000
    assert letter.metadata["systemState"]["host"] == "app-2"
    assert [entry["what"] for entry in letter.history] == ["dead_letter"]


def test_it_leaves_permanent_and_unknown_errors_to_a_person(letters: Letters) -> None:
    dead_letters.record_outcomes(
        [
            a_death("m-1", error_type="VALIDATION_ERROR", error_kind="permanent"),
            a_death("m-2", error_type="UNKNOWN_ERROR", error_kind="unknown"),
        ],
        [],
    )

    for message_id in ("m-1", "m-2"):
        letter = letters.find(message_id)
        assert letter is not None
        assert letter.status is Status.MANUAL
        assert letter.next_retry_at is None


def test_it_writes_the_same_death_once(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    before = letters.find("m-1")

    assert dead_letters.record_outcomes([a_death(), a_death()], []) == [OK, OK]

    assert letters.find("m-1") == before


def test_it_answers_in_order_deaths_first(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death("m-1"), a_death("m-2")], [])
    claimed = claim(letters, "m-1")

    answers = dead_letters.record_outcomes(
        [a_death("m-3"), a_death("m-2"), a_death("m-4")],
        [a_settlement("m-1", epoch=claimed.fence), a_settlement("gone", epoch=7)],
    )

    assert answers == [OK] * 5
    assert {letters.find(m).status for m in ("m-2", "m-3", "m-4")} == {Status.PENDING}  # type: ignore[union-attr]
    assert letters.find("gone") is None


def test_it_settles_a_replay(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters)

    dead_letters.record_outcomes([], [a_settlement(epoch=claimed.fence)])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.status is Status.RESOLVED
    assert letter.resolution is Resolution.REPLAYED
    assert letter.resolved_at is not None
    assert letter.replay_attempts[0]["outcome"] == "succeeded"
    assert letter.closed_epoch == letter.fence == 1001
    assert letter.claim is None


def test_it_never_settles_over_a_newer_claim(letters: Letters) -> None:
    """The guard ``fence <= epoch``: the end of a replay whose claim was released and drawn anew."""
    dead_letters.record_outcomes([a_death()], [])
    first = claim(letters)
    letters.release(first, why="voided", now=NOON)
    second = claim(letters, replay_id="r-2")

    assert dead_letters.record_outcomes([], [a_settlement(epoch=first.fence)]) == [OK]

    letter = letters.find("m-1")
    assert letter == second


def test_it_never_records_an_older_death_over_a_newer_outcome(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death(epoch=2000)], [])
    before = letters.find("m-1")

    assert dead_letters.record_outcomes([a_death(epoch=1000, body=b'"older"')], []) == [OK]

    assert letters.find("m-1") == before


def test_it_puts_a_letter_back_when_its_replay_failed_the_same_way(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters, kind="auto")

    dead_letters.record_outcomes(
        [
            a_death(
                epoch=claimed.fence, replay_id="r-1", body=b'"edited"', died_at=NOON + timedelta(hours=1),
                retry_count=0, prior_runs=5,
            )
        ],
        [],
    )  # fmt: skip

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.status is Status.PENDING
    assert (letter.retry_count, letter.tries) == (3, 5), "a replay adds a try and takes none away"
    assert letter.dlq_retry_count == 1
    assert letter.replay_attempts[0]["outcome"] == "failed_same"
    assert letter.next_retry_at == NOON + timedelta(hours=1, minutes=5)
    assert letter.body == a_death().body, "the original is never touched by a replay"
    assert [entry["what"] for entry in letter.history] == ["dead_letter", "claim", "put_back"]


def test_it_says_when_a_replay_failed_in_a_new_way(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters)

    dead_letters.record_outcomes(
        [a_death(epoch=claimed.fence, replay_id="r-1", error_type="VALIDATION_ERROR", error_kind="permanent")], []
    )

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.replay_attempts[0]["outcome"] == "failed_new"
    assert letter.status is Status.MANUAL
    assert letter.history[-1]["what"] == "hand_over"


def test_it_counts_only_automatic_replays(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters, kind="operator")

    dead_letters.record_outcomes([a_death(epoch=claimed.fence, replay_id="r-1")], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.dlq_retry_count == 0


def test_it_counts_a_failed_replay_once_however_often_it_is_told(letters: Letters) -> None:
    """The guard ``closedEpoch``: moves once per epoch."""
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters, kind="auto")
    death = a_death(epoch=claimed.fence, replay_id="r-1")

    for _ in range(3):
        dead_letters.record_outcomes([death, death], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.dlq_retry_count == 1
    assert len(letter.attempts) == 8


def test_it_fails_a_letter_after_its_fifth_automatic_replay(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    for n in range(1, 6):
        claimed = claim(letters, kind="auto", replay_id=f"r-{n}")
        dead_letters.record_outcomes([a_death(epoch=claimed.fence, replay_id=f"r-{n}")], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.dlq_retry_count == 5
    assert letter.status is Status.FAILED
    assert letter.next_retry_at is None
    assert letter.history[-1]["what"] == "fail"


def test_it_leaves_a_letter_aside_when_a_replay_by_hand_fails(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    found = letters.find("m-1")
    assert found is not None
    letters.set_aside(found.id, who="olga", why="ask the bank first", now=NOON)
    claimed = claim(letters)

    dead_letters.record_outcomes([a_death(epoch=claimed.fence, replay_id="r-1")], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.status is Status.MANUAL
    assert letter.next_retry_at is None


def test_a_new_message_with_the_same_id_takes_over_the_letter(letters: Letters) -> None:
    trace, other = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'c' * 32}-{'d' * 16}-01"
    dead_letters.record_outcomes([a_death(traceparent=trace)], [])
    claimed = claim(letters, kind="auto")
    dead_letters.record_outcomes([a_death(epoch=claimed.fence, replay_id="r-1", traceparent=other)], [])
    replayed = letters.find("m-1")

    new = a_death(epoch=9000, body=b'{"new": true}', source="app", acct_day="20261125", traceparent=other)
    dead_letters.record_outcomes([new], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert replayed is not None
    assert (replayed.traceparent, letter.traceparent, letter.trace_id) == (trace, other, "c" * 32)
    assert letter.body == b'{"new": true}'
    assert [former["originalMessage"] for former in letter.former_messages] == [a_death().body.decode()]
    assert letter.dlq_retry_count == 0
    assert letter.metadata["source"] == "app"
    assert letter.acct_day == "20261125"
    assert (letter.fence, letter.closed_epoch) == (9000, 9000)


def test_a_new_message_with_the_same_bytes_leaves_no_former_one(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    dead_letters.record_outcomes([a_death(epoch=9000)], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.former_messages == []
    assert letter.closed_epoch == 9000


def test_the_death_of_a_new_message_closes_open_attempts_as_superseded(letters: Letters) -> None:
    """Without it an attempt whose claim was overtaken stays open for ever."""
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters)

    dead_letters.record_outcomes([a_death(epoch=9000)], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.replay_attempts[0]["outcome"] == "superseded"
    assert letter.status is Status.PENDING
    assert letter.claim is None
    assert not letters.release(claimed, why="late", now=NOON), "the overtaken claim has nothing left to release"


def test_a_death_reopens_a_resolved_letter(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])
    found = letters.find("m-1")
    assert found is not None
    letters.discard(found.id, who="olga", why="test data", now=NOON)

    dead_letters.record_outcomes([a_death(epoch=9000)], [])

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.status is Status.PENDING
    assert letter.resolution is None
    assert letter.resolved_at is None


def test_the_death_of_a_replay_whose_letter_was_purged_writes_a_new_one(letters: Letters) -> None:
    assert dead_letters.record_outcomes([a_death(epoch=7, replay_id="r-1")], []) == [OK]

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.closed_epoch == 7


def test_two_epochs_of_one_message_in_one_call_leave_the_newer(letters: Letters) -> None:
    deaths = [a_death(epoch=2000, body=b'"newer"'), a_death(epoch=1000, body=b'"older"')]

    assert dead_letters.record_outcomes(deaths, []) == [OK, OK]

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.closed_epoch == 2000
    assert letter.body == b'"newer"'


def test_two_epochs_of_a_message_that_has_a_letter_are_both_told(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death(epoch=1000)], [])

    assert dead_letters.record_outcomes([a_death(epoch=2000), a_death(epoch=3000)], []) == [OK, OK]

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.closed_epoch == 3000
    assert {attempt["epoch"] for attempt in letter.attempts} == {1000, 2000, 3000}


class IsOvertaken:
    """A collection in which somebody else writes just before the first bulk of updates."""

    def __init__(self, collection: Collection[dict[str, Any]], first: Callable[[], object]) -> None:
        self._collection = collection
        self._first: Callable[[], object] | None = first

    def bulk_write(self, requests: Any, **kwargs: Any) -> Any:
        if self._first and isinstance(requests[0], UpdateOne):
            first, self._first = self._first, None
            first()
        return self._collection.bulk_write(requests, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


def test_an_outcome_that_was_overtaken_is_judged_again(letters: Letters, store: Database[dict[str, Any]]) -> None:
    dead_letters.record_outcomes([a_death(epoch=1000), a_death("m-2", epoch=1000)], [])
    overtaken = IsOvertaken(
        store["dead_letters"],
        lambda: dead_letters.record_outcomes([a_death(epoch=2000), a_death("m-2", epoch=9000)], []),
    )

    answers = recording.record(
        Letters(overtaken),  # type: ignore[arg-type]
        [a_death(epoch=3000), a_death("m-2", epoch=3000)],
        replay_policy(),
        NOON,
    )

    first, second = letters.find("m-1"), letters.find("m-2")
    assert answers == [OK, OK]
    assert first is not None
    assert second is not None
    assert (first.closed_epoch, second.closed_epoch) == (3000, 9000)
    assert {attempt["epoch"] for attempt in first.attempts} == {1000, 2000, 3000}
    assert {attempt["epoch"] for attempt in second.attempts} == {1000, 9000}


def test_an_outcome_on_its_way_does_not_touch_a_letter_claimed_anew_meanwhile(letters: Letters) -> None:
    """The fence in the filter: the claim was released and another one drawn."""
    dead_letters.record_outcomes([a_death()], [])
    first = claim(letters)
    letters.release(first, why="voided", now=NOON)
    second = claim(letters, replay_id="r-2")

    assert letters.settle_many([a_settlement(epoch=first.fence)], NOON) == 0
    assert letters.find("m-1") == second


def test_an_outcome_on_its_way_does_not_touch_a_letter_that_has_it_meanwhile(letters: Letters) -> None:
    """The ``closedEpoch`` in the filter: another drainer wrote it."""
    dead_letters.record_outcomes([a_death()], [])
    claimed = claim(letters)
    dead_letters.record_outcomes([], [a_settlement(epoch=claimed.fence)])
    settled = letters.find("m-1")

    assert letters.settle_many([a_settlement(epoch=claimed.fence)], NOON) == 0
    assert letters.find("m-1") == settled


@pytest.mark.parametrize(
    "changes",
    [
        {"body": b"\xff\xfe not utf-8"},
        {"body": b'"nul \x00 in it"'},
        {"error_reason": "lone \ud800 surrogate and \x00 nul"},
        {"error_stack": "\udfff\x00"},
        {"attempts": [{"startedAt": "no instant", "errorReason": "\ud800", "big": 2**70, "a\x00b": {"$set": 1}}]},
        {"attempts": [{"deep": __import__("functools").reduce(lambda inner, _: [inner], range(300), 0)}]},
        {"system_state": {"cpu": float("nan"), "host": "\ud800", "odd": {1, 2}}},
        {"tags": ("\x00",), "source": "\ud800"},
    ],
    ids=["bytes", "nul", "reason", "stack", "attempts", "deep", "state", "labels"],
)
def test_it_stores_what_looks_unstorable(letters: Letters, changes: dict[str, Any]) -> None:
    death = a_death(**changes)

    assert dead_letters.record_outcomes([a_death("m-0"), death, a_death("m-2")], []) == [OK, OK, OK]

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.body == death.body


def test_it_keeps_the_payload_as_text_where_it_is_text(letters: Letters, store: Database[dict[str, Any]]) -> None:
    dead_letters.record_outcomes([a_death("m-1"), a_death("m-2", body=b"\xff")], [])

    stored = {d["messageId"]: d["originalMessage"] for d in store["dead_letters"].find()}
    assert stored == {"m-1": a_death().body.decode(), "m-2": b"\xff"}


def test_it_refuses_only_the_document_that_can_never_be_stored(letters: Letters) -> None:
    answers = dead_letters.record_outcomes(
        [a_death("m-1"), a_death("m-2", body=b"x" * (17 * 1024 * 1024)), a_death("m-3")], []
    )

    assert [answer.ok for answer in answers] == [True, False, True]
    assert answers[1].why
    assert letters.find("m-3") is not None


def test_a_letter_spoilt_by_hand_refuses_its_outcome_and_no_other(
    letters: Letters, store: Database[dict[str, Any]]
) -> None:
    store["dead_letters"].insert_one(a_document("m-1", attempts="not a list"))
    dead_letters.record_outcomes([a_death("m-2")], [])

    answers = dead_letters.record_outcomes([a_death("m-1", epoch=5000), a_death("m-2", epoch=5000)], [])

    assert [answer.ok for answer in answers] == [False, True]


def test_a_letter_without_numbers_takes_an_outcome(letters: Letters, store: Database[dict[str, Any]]) -> None:
    document = a_document("m-1")
    del document["fence"], document["closedEpoch"]
    store["dead_letters"].insert_one(document)

    assert dead_letters.record_outcomes([a_death("m-1", epoch=5000)], []) == [OK]

    letter = letters.find("m-1")
    assert letter is not None
    assert letter.closed_epoch == 5000


class LosesAnswers:
    """A collection whose writes of many letters are applied, and then the answer is lost."""

    def __init__(self, collection: Collection[dict[str, Any]], times: int) -> None:
        self._collection = collection
        self._left = times

    def bulk_write(self, *args: Any, **kwargs: Any) -> Any:
        return self._lose(self._collection.bulk_write(*args, **kwargs))

    def update_many(self, *args: Any, **kwargs: Any) -> Any:
        return self._lose(self._collection.update_many(*args, **kwargs))

    def _lose(self, result: Any) -> Any:
        if self._left > 0:
            self._left -= 1
            raise NetworkTimeout("the answer was lost")
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


class TooSlow:
    """A collection in which one operation runs out of its time on the server, as all do while MongoDB is locked."""

    def __init__(self, collection: Collection[dict[str, Any]], operation: str) -> None:
        self._collection = collection
        self._operation = operation

    def __getattr__(self, name: str) -> Any:
        return self._run_out if name == self._operation else getattr(self._collection, name)

    def _run_out(self, *args: Any, **kwargs: Any) -> Any:
        raise ExecutionTimeout("operation exceeded time limit", 50)


@pytest.mark.parametrize("operation", ["find", "bulk_write", "update_many"])
def test_a_mongodb_that_is_locked_is_away_and_no_fault_of_the_outcome(
    letters: Letters, store: Database[dict[str, Any]], operation: str
) -> None:
    """Any other error would put the outcome into quarantine."""
    dead_letters.record_outcomes([a_death("m-1")], [])
    claimed = claim(letters, "m-1", kind="auto")
    end: Death | Settled = a_settlement("m-1", epoch=claimed.fence)
    if operation == "find":  # a success is written unread
        end = a_death("m-1", epoch=claimed.fence, replay_id="r-1")
    outcomes: list[Death | Settled] = [end, a_death("m-2")]
    locked = Letters(TooSlow(store["dead_letters"], operation))  # type: ignore[arg-type]
    if operation == "update_many":
        locked._many = locked._letters

    with pytest.raises(StoreUnavailable):
        recording.record(locked, outcomes, replay_policy(), NOON)

    assert recording.record(letters, outcomes, replay_policy(), NOON) == [OK, OK]


def test_an_answer_that_was_lost_is_no_loss(letters: Letters, store: Database[dict[str, Any]]) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    claimed = claim(letters, "m-1", kind="auto")
    outcomes = [a_death("m-1", epoch=claimed.fence, replay_id="r-1"), a_death("m-2")]
    lossy = Letters(LosesAnswers(store["dead_letters"], times=2))  # type: ignore[arg-type]

    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            recording.record(lossy, outcomes, replay_policy(), NOON)
    assert recording.record(lossy, outcomes, replay_policy(), NOON) == [OK, OK]

    first, second = letters.find("m-1"), letters.find("m-2")
    assert first is not None
    assert second is not None
    assert first.dlq_retry_count == 1
    assert len(first.attempts) == 8
    assert len(second.attempts) == 4


def test_many_drainers_at_once_record_each_outcome_once(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(20)], [])
    epochs = {f"m-{n}": claim(letters, f"m-{n}", kind="auto").fence for n in range(20)}
    deaths = [a_death(message_id, epoch=epoch, replay_id="r-1") for message_id, epoch in epochs.items()]
    newer = [replace(death, message_id=f"n-{n}", replay_id=None) for n, death in enumerate(deaths)]
    start = threading.Barrier(6)
    failures: list[BaseException] = []

    def drain(turn: int) -> None:
        start.wait()
        outcomes = [*deaths, *newer]
        try:
            dead_letters.record_outcomes(outcomes[turn:] + outcomes[:turn], [])
        except BaseException as error:  # shown by the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=drain, args=(turn,)) for turn in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    for n in range(20):
        replayed, fresh = letters.find(f"m-{n}"), letters.find(f"n-{n}")
        assert replayed is not None
        assert fresh is not None
        assert (replayed.dlq_retry_count, len(replayed.attempts)) == (1, 8)
        assert len(fresh.attempts) == 4
