"""One move of many letters: what is shown is what is done, and nothing that changed meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import MoveRefused, StoreUnavailable
from dlq_app.domain.states import Resolution, Status, Verb
from dlq_app.services import bulk
from dlq_app.store.repository import Letters, Selection
from dlq_app.testing import a_document

pytestmark = pytest.mark.mongo

NOW = datetime.now(UTC)
EARLIER = NOW - timedelta(hours=1)


def put(store: Database[dict[str, Any]], count: int, prefix: str = "m", **changes: Any) -> list[str]:
    fields = {"updatedAt": EARLIER, "lastFailedAt": EARLIER, **changes}
    documents = [a_document(f"{prefix}-{n:05}", **fields) for n in range(count)]
    return [str(one) for one in store.dead_letters.insert_many(documents).inserted_ids]


def move(which: Selection, verb: Verb, count: int) -> bulk.Moved:
    return bulk.move_many(which, verb, count=count, actor="user:olga", reason="tidying")


@pytest.mark.parametrize(
    ("verb", "status", "resolution"),
    [
        (Verb.RESOLVE_BY_HAND, Status.RESOLVED, Resolution.BY_HAND),
        (Verb.DISCARD, Status.RESOLVED, Resolution.DISCARDED),
        (Verb.SET_ASIDE, Status.MANUAL, None),
    ],
)
def test_all_that_match_are_moved_in_chunks(
    store: Database[dict[str, Any]], letters: Letters, verb: Verb, status: Status, resolution: Resolution | None
) -> None:
    put(store, 1203)
    put(store, 2, "other", errorType="DATABASE_ERROR")
    which = Selection(criteria=LetterCriteria(error_types=("TIMEOUT_ERROR",)), as_of=NOW)

    shown = bulk.preview(which, verb)
    done = move(which, verb, shown.count)

    assert (shown.count, shown.chosen, len(shown.sample)) == (1203, 1203, 10)
    assert (done.count, done.stopped) == (1203, None)
    moved = letters.find("m-01202")
    assert moved is not None
    assert (moved.status, moved.resolution, moved.next_retry_at) == (status, resolution, None)
    assert (moved.history[-1]["who"], moved.history[-1]["what"], moved.history[-1]["why"]) == (
        "user:olga",
        verb,
        "tidying",
    )
    other = letters.find("other-00000")
    assert other is not None
    assert other.status is Status.PENDING


def test_the_number_that_was_shown_is_never_exceeded(store: Database[dict[str, Any]]) -> None:
    put(store, 700)
    which = Selection(criteria=LetterCriteria(), as_of=NOW)

    assert move(which, Verb.DISCARD, 600).count == 600
    assert store.dead_letters.count_documents({"status": "dlq_pending"}) == 100


def test_what_is_touched_or_arrives_after_the_count_is_left_alone(
    store: Database[dict[str, Any]], letters: Letters
) -> None:
    first, second = put(store, 2)
    which = Selection(criteria=LetterCriteria(), as_of=NOW)
    shown = bulk.preview(which, Verb.RESOLVE_BY_HAND)
    letters.add_note(second, who="user:mira", note="wait for me", now=NOW + timedelta(seconds=1))
    put(store, 1, "late", updatedAt=NOW + timedelta(seconds=1))

    done = move(which, Verb.RESOLVE_BY_HAND, shown.count)

    assert (shown.count, done.count) == (2, 1)
    assert [d["messageId"] for d in store.dead_letters.find({"status": "dlq_resolved"})] == ["m-00000"]
    assert store.dead_letters.count_documents({"_id": {"$ne": first}, "status": "dlq_pending"}) == 2


def test_only_statuses_that_allow_the_move_are_counted_and_moved(store: Database[dict[str, Any]]) -> None:
    put(store, 3)
    put(store, 2, "done", status="dlq_resolved", resolution="replayed")
    put(store, 1, "busy", status="dlq_processing")
    which = Selection(criteria=LetterCriteria(), as_of=NOW)

    shown = bulk.preview(which, Verb.DISCARD)

    assert (shown.count, shown.chosen, shown.left_out) == (3, 6, 3)
    assert move(which, Verb.DISCARD, 6).count == 3
    assert store.dead_letters.count_documents({"resolution": "replayed"}) == 2


def test_letters_are_named_one_by_one_and_nonsense_names_none(store: Database[dict[str, Any]]) -> None:
    ids = put(store, 5)
    which = Selection(ids=(ids[0], ids[4], "nonsense", "0" * 24), as_of=NOW)

    assert bulk.preview(which, Verb.SET_ASIDE).count == 2
    assert move(which, Verb.SET_ASIDE, 4).count == 2


def test_doing_it_again_moves_nothing_more(store: Database[dict[str, Any]]) -> None:
    put(store, 3)
    which = Selection(criteria=LetterCriteria(), as_of=NOW)

    assert [move(which, Verb.DISCARD, 3).count, move(which, Verb.DISCARD, 3).count] == [3, 0]
    assert all(len(d["history"]) == 2 for d in store.dead_letters.find())


def test_too_many_are_refused_before_anything_is_done(store: Database[dict[str, Any]]) -> None:
    put(store, 1)
    which = Selection(criteria=LetterCriteria(), as_of=NOW)

    with pytest.raises(MoveRefused, match="50000"):
        move(which, Verb.DISCARD, bulk.MAX_LETTERS + 1)

    assert store.dead_letters.count_documents({"status": "dlq_pending"}) == 1


def test_a_store_that_goes_away_in_the_middle_is_said_with_what_was_done(
    store: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 1200)
    which = Selection(criteria=LetterCriteria(), as_of=NOW)
    real = Letters.move_many

    def interrupted(self: Letters, *args: Any, **options: Any) -> Any:
        chunks = real(self, *args, **options)
        yield next(chunks)
        raise StoreUnavailable("away")

    monkeypatch.setattr(Letters, "move_many", interrupted)

    done = move(which, Verb.DISCARD, 1200)

    assert done.count == 500
    assert done.stopped is not None
