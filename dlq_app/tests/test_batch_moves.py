"""Updates of many letters at once change each by its own values, and only as it was read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.letter import DeadLetter, Death, Settled
from dlq_app.domain.replay_policy import Placement
from dlq_app.domain.states import Status
from dlq_app.domain.strategies import Strategy
from dlq_app.services import dead_letters
from dlq_app.services.replaying import order_of
from dlq_app.store.outcome_updates import PlacedDeath, death_update, place_death
from dlq_app.store.repository import ClaimOrder, Letters
from dlq_app.testing import a_death

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]
AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
#: Nothing that somebody writes may be read as an expression.
ORDER = ClaimOrder(
    replay_id="r-1", kind="batch", by="$$ROOT", why="$status", batch_id="b-$1", locked_by="$host/1", at=AT
)  # fmt: skip


def some(letters: Letters, *message_ids: str, **changes: Any) -> list[DeadLetter]:
    deaths = [a_death(message_id, **changes) for message_id in message_ids]
    assert all(answer.ok for answer in dead_letters.record_outcomes(deaths, []))
    return [found for one in message_ids if (found := letters.find(one))]


def documents(store: Store) -> dict[str, Any]:
    """All letters by message id, without what differs by the server's clock and by the letter's own id."""
    found = {}
    for row in store["dead_letters"].find():
        row.pop("_id")
        if "replay" in row:
            assert isinstance(row["replay"].pop("lockedAt"), datetime)
        if "resolvedAt" in row:
            assert isinstance(row.pop("resolvedAt"), datetime)
        found[row["messageId"]] = row
    return found


@pytest.fixture
def claimable(letters: Letters, store: Store) -> list[DeadLetter]:
    found = some(letters, "m-1", "m-2", "m-3")
    store["dead_letters"].update_one({"messageId": "m-2"}, {"$set": {"status": "dlq_manual", "fence": 1007}})
    old = {"epoch": 3, "outcome": "failed_same", "batchId": "b-0"}
    store["dead_letters"].update_one({"messageId": "m-3"}, {"$push": {"replayAttempts": old}})
    return [letters.find(one.message_id) or one for one in found]


def test_each_claim_has_its_own_fence_status_and_replay(
    letters: Letters, store: Store, claimable: list[DeadLetter]
) -> None:
    store["dead_letters"].update_one({"messageId": "m-1"}, {"$unset": {"fence": ""}})
    claimable[0] = replace(claimable[0], fence=0)
    before = documents(store)

    answer = letters.claim_many(claimable, ORDER)

    assert answer.is_sure
    after = documents(store)
    for message_id, epoch in (("m-1", 1), ("m-2", 1008), ("m-3", 1001)):
        was, row = before[message_id], after[message_id]
        common = {"epoch": epoch, "kind": "batch", "by": "$$ROOT", "why": "$status", "batchId": "b-$1", "version": 0}
        attempt = {"replayId": "r-1", **common, "at": AT, "outcome": None}
        assert row == {
            **was,
            "status": "dlq_processing",
            "fence": epoch,
            "updatedAt": AT,
            "replay": {"id": "r-1", **common, "lockedBy": "$host/1", "from": was["status"]},
            "replayAttempts": [*was["replayAttempts"], attempt],
            "history": [
                *was["history"],
                {"at": AT, "who": "$$ROOT", "what": "claim", "why": "$status", "batchId": "b-$1"},
            ],
        }
    claims = {letter.message_id: letter.claim for letter in answer.claimed}
    for letter in claimable:
        claim = claims[letter.message_id]
        assert claim is not None
        found = letters.find(letter.message_id)
        assert found is not None
        assert found.claim == replace(claim, locked_at=found.claim.locked_at if found.claim else None)
        assert order_of(found, 2**42, force=False).epoch_seen == letter.fence
        assert found.fence == claim.epoch


def test_letters_claimed_together_share_an_epoch_above_all_their_fences(letters: Letters, store: Store) -> None:
    found = some(letters, "m-1", "m-2", "m-3", "m-4", "m-5")
    last_year, next_year = (int(datetime(year, 11, 24, tzinfo=UTC).timestamp() * 1000) for year in (2025, 2027))
    fences = {"m-1": last_year, "m-2": last_year + 7, "m-3": next_year, "m-4": last_year + 50, "m-5": 3}
    for name, fence in fences.items():
        store["dead_letters"].update_one({"messageId": name}, {"$set": {"fence": fence}})
    store["dead_letters"].update_one({"messageId": "m-4"}, {"$set": {"status": "dlq_manual"}})
    before = documents(store)

    answer = letters.claim_many([letters.find(one.message_id) or one for one in found], ORDER)

    assert answer.is_sure
    assert [letter.message_id for letter in answer.claimed] == list(fences), "in the order of the plan"
    rows = documents(store)
    alone = {"m-3": next_year + 1, "m-4": last_year + 51}
    for letter in answer.claimed:
        was, row, epoch = (
            before[letter.message_id],
            rows[letter.message_id],
            alone.get(letter.message_id, last_year + 8),
        )
        common = {"epoch": epoch, "kind": "batch", "by": "$$ROOT", "why": "$status", "batchId": "b-$1", "version": 0}
        together = {} if letter.message_id in alone else {"together": True}
        assert row == {
            **was,
            "status": "dlq_processing",
            "fence": epoch,
            "updatedAt": AT,
            "replay": {"id": "r-1", **common, "lockedBy": "$host/1", "from": was["status"], **together},
            "replayAttempts": [*was["replayAttempts"], {"replayId": "r-1", **common, "at": AT, "outcome": None}],
            "history": [
                *was["history"],
                {"at": AT, "who": "$$ROOT", "what": "claim", "why": "$status", "batchId": "b-$1"},
            ],
        }
        assert letter.fence == epoch
        assert order_of(letter, 2**42, force=False).epoch_seen == fences[letter.message_id]
        read = letters.find(letter.message_id)
        assert read is not None
        seen = order_of(read, 2**42, force=False).epoch_seen
        assert seen == (epoch - 1 if letter.message_id in alone else was["closedEpoch"]), "an executor that took over"


@pytest.mark.parametrize(
    "moved",
    [
        {"$inc": {"fence": 1}},
        {"$set": {"status": "dlq_manual"}},
        {"$set": {"status": "dlq_processing"}},
        {"$push": {"replayAttempts": {"batchId": "b-$1", "epoch": 5}}},
        {"$set": {"skippedBy": ["b-$1"]}},
    ],
)
def test_a_letter_that_is_not_as_it_was_read_is_not_claimed(
    letters: Letters, store: Store, moved: dict[str, Any]
) -> None:
    found = some(letters, "m-1", "m-2")
    store["dead_letters"].update_one({"messageId": "m-2"}, moved)

    answer = letters.claim_many(found, ORDER)

    assert not answer.is_sure
    rows = {row["messageId"]: row for row in store["dead_letters"].find()}
    assert rows["m-1"]["replay"]["id"] == "r-1", "the others are"
    assert "replay" not in rows["m-2"]


def test_a_letter_that_cannot_be_changed_does_not_keep_the_others_from_being_claimed(
    letters: Letters, store: Store
) -> None:
    found = some(letters, "m-1", "m-2", "m-3")
    store["dead_letters"].update_one({"messageId": "m-2"}, {"$set": {"history": "no list"}})

    answer = letters.claim_many(found, ORDER)

    assert not answer.is_sure
    statuses = {row["messageId"]: row["status"] for row in store["dead_letters"].find()}
    assert statuses == {"m-1": "dlq_processing", "m-2": "dlq_pending", "m-3": "dlq_processing"}


def settled(letter: DeadLetter) -> Settled:
    attempt = {"number": 1, "startedAt": "2026-11-24T12:00:00.000Z", "outcome": "succeeded", "worker": "$$ROOT"}
    return Settled(
        message_id=letter.message_id, epoch=letter.fence, replay_id="r", attempts=[attempt], finished_at=AT, result=None
    )


def test_each_end_resolves_its_letter_once(letters: Letters, store: Store, claimable: list[DeadLetter]) -> None:
    left_open = {"epoch": 2, "outcome": None, "batchId": "b-0"}
    store["dead_letters"].update_one({"messageId": "m-2"}, {"$push": {"replayAttempts": left_open}})
    claimed = letters.claim_many(claimable, ORDER).claimed
    before = documents(store)
    ends = [settled(letter) for letter in claimed]

    assert letters.settle_many(ends, AT) == len(ends)

    expected = {}
    for letter in claimed:
        was = {name: value for name, value in before[letter.message_id].items() if name != "replay"}
        attempt = {**settled(letter).attempts[0], "startedAt": AT, "epoch": letter.fence}
        outcomes = {letter.fence: "succeeded", 2: "superseded"}
        replays = [
            {**one, "outcome": outcomes[one["epoch"]], "endedAt": AT} if one["outcome"] is None else one
            for one in was["replayAttempts"]
        ]
        expected[letter.message_id] = {
            **was,
            "status": "dlq_resolved",
            "resolution": "replayed",
            "nextRetryAt": None,
            "updatedAt": AT,
            "closedEpoch": letter.fence,
            "fence": letter.fence,
            "lastReplay": {"at": AT, "outcome": "succeeded"},
            "replayAttempts": replays,
            "attempts": [*was["attempts"], attempt],
            "history": [
                *was["history"],
                {"at": AT, "who": "system", "what": "resolve", "why": "the replay succeeded"},
            ],
        }
    assert documents(store) == expected
    assert letters.settle_many(ends, AT) == 0, "nothing is written twice"
    assert documents(store) == expected


def test_an_end_does_not_get_over_a_newer_claim(letters: Letters, store: Store, claimable: list[DeadLetter]) -> None:
    claimed = letters.claim_many(claimable, ORDER).claimed
    store["dead_letters"].update_one({"messageId": "m-1"}, {"$inc": {"fence": 1}})

    answers = dead_letters.record_outcomes([], [settled(letter) for letter in claimed])

    assert letters.settle_many([settled(claimed[0])], AT) == 0
    assert all(answer.ok for answer in answers)
    statuses = {row["messageId"]: row["status"] for row in store["dead_letters"].find()}
    assert statuses == {"m-1": "dlq_processing", "m-2": "dlq_resolved", "m-3": "dlq_resolved"}


def test_one_letter_that_cannot_be_changed_does_not_keep_the_others_from_their_ends(
    letters: Letters, store: Store
) -> None:
    claimed = letters.claim_many(some(letters, "m-1", "m-2", "m-3"), ORDER).claimed
    store["dead_letters"].update_one({"messageId": "m-2"}, {"$set": {"history": "no list"}})

    answers = dead_letters.record_outcomes([], [settled(letter) for letter in claimed])

    assert [answer.ok for answer in answers] == [True, False, True]
    statuses = {row["messageId"]: row["status"] for row in store["dead_letters"].find()}
    assert statuses == {"m-1": "dlq_resolved", "m-2": "dlq_processing", "m-3": "dlq_resolved"}


@pytest.mark.parametrize(
    "written",
    [
        {"$unset": {"closedEpoch": "", "fence": "", "replayAttempts": ""}},
        {"$set": {"closedEpoch": "x", "fence": "y", "replayAttempts": [7, {"epoch": "z", "outcome": None}]}},
    ],
    ids=["missing", "of another type"],
)
def test_a_letter_with_fields_of_another_program_is_ended(
    letters: Letters, store: Store, written: dict[str, Any]
) -> None:
    claimed = letters.claim_many(some(letters, "m-1"), ORDER).claimed
    store["dead_letters"].update_one({"messageId": "m-1"}, written)

    assert dead_letters.record_outcomes([], [settled(claimed[0])])[0].ok
    found = letters.find("m-1")
    assert found is not None
    assert (found.status, found.fence) == (Status.RESOLVED, claimed[0].fence)


def failed(letter: DeadLetter, **changes: Any) -> Death:
    values = {
        "error_type": "$$ROOT", "error_reason": f"$status of {letter.message_id}", "error_stack": "",
        "system_state": {"cpu": 1.0, "host": "$host"}, "attempts": [{"number": 1, "outcome": "failed", "worker": "$x"}],
        "died_at": AT, **changes,
    }  # fmt: skip
    return a_death(letter.message_id, epoch=letter.fence, replay_id=f"r-{letter.message_id}", batch_id="b-$1", **values)


def placed(letters: Letters, deaths: list[Death], placements: list[Placement]) -> list[PlacedDeath]:
    states = letters.letter_states([death.message_id for death in deaths], with_body=False)
    return [
        place_death(death, states[death.message_id], place, AT) for death, place in zip(deaths, placements, strict=True)
    ]


PLACEMENTS = [
    Placement(Status.PENDING, Strategy.IMMEDIATE, AT),
    Placement(Status.MANUAL, Strategy.MANUAL, None),
    Placement(Status.FAILED, Strategy.OFF_PEAK, None),
]


def test_replays_that_fail_together_leave_what_each_would_leave_alone(
    letters: Letters, store: Store, claimable: list[DeadLetter]
) -> None:
    left_open = {"epoch": 2, "outcome": None, "batchId": "b-0"}
    store["dead_letters"].update_one({"messageId": "m-2"}, {"$push": {"replayAttempts": left_open}})
    store["dead_letters"].update_one({"messageId": "m-3"}, {"$set": {"closedEpoch": 7.5}})
    claimed = letters.claim_many(claimable, ORDER).claimed
    store["dead_letters"].update_one({"messageId": "m-1"}, {"$set": {"resolution": "discarded", "resolvedAt": AT}})
    same = {"error_type": claimed[0].error_type, "error_reason": claimed[0].error_reason, "error_stack": ""}
    deaths = [failed(claimed[0], **same), *(failed(letter) for letter in claimed[1:])]
    ends = placed(letters, deaths, PLACEMENTS)
    before = list(store["dead_letters"].find())
    assert letters.write([death_update(end, AT) for end in ends]).all_matched
    expected = documents(store)
    store["dead_letters"].delete_many({})
    store["dead_letters"].insert_many(before)

    assert letters.fail_many(ends, AT) is True

    assert documents(store) == expected
    assert [expected[f"m-{n}"]["status"] for n in (1, 2, 3)] == [place.status for place in PLACEMENTS]
    assert letters.fail_many(ends, AT) is False, "nothing is written twice"
    assert documents(store) == expected


@pytest.mark.parametrize("moved", [{"$inc": {"fence": 1}}, {"$set": {"closedEpoch": 1001}}, {"$unset": {"fence": ""}}])
def test_a_failed_replay_does_not_change_a_letter_that_is_not_as_it_was_read(
    letters: Letters, store: Store, moved: dict[str, Any]
) -> None:
    claimed = letters.claim_many(some(letters, "m-1", "m-2"), ORDER).claimed
    ends = placed(letters, [failed(letter) for letter in claimed], PLACEMENTS[:2])
    store["dead_letters"].update_one({"messageId": "m-2"}, moved)
    before = documents(store)["m-2"]

    assert letters.fail_many(ends, AT) is False

    assert documents(store)["m-1"]["status"] == "dlq_pending", "the others are written"
    assert documents(store)["m-2"] == before


def test_one_letter_that_cannot_be_changed_does_not_keep_the_others_from_their_failures(
    letters: Letters, store: Store
) -> None:
    claimed = letters.claim_many(some(letters, "m-1", "m-2", "m-3"), ORDER).claimed
    store["dead_letters"].update_one({"messageId": "m-2"}, {"$set": {"history": "no list"}})

    answers = dead_letters.record_outcomes([failed(letter) for letter in claimed], [])

    assert [answer.ok for answer in answers] == [True, False, True]
    assert {message_id: row["closedEpoch"] for message_id, row in documents(store).items()} == {
        "m-1": 1001, "m-2": 1000, "m-3": 1001,
    }  # fmt: skip


def test_replays_whose_failures_are_too_large_together_are_written_alone(letters: Letters) -> None:
    found = some(letters, *(f"m-{n}" for n in range(40)))
    claimed = letters.claim_many(found, ORDER).claimed
    long = [{"number": n, "outcome": "failed", "note": "x" * 20_000} for n in range(30)]

    answers = dead_letters.record_outcomes([failed(letter, attempts=long) for letter in claimed], [])

    assert all(answer.ok for answer in answers)
    assert all((letters.find(letter.message_id) or letter).closed_epoch == letter.fence for letter in claimed)
