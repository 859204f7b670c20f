"""Counters of letters: each letter counts once, whoever counts and whatever is interrupted or deleted."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database
from pytest_django import Settings

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.objectives import LettersObjective
from dlq_app.services import letter_counts
from dlq_app.store import repository
from dlq_app.store.letter_counts import MARGIN, SPAN, Counted, LetterCounts
from dlq_app.store.mongo import BATCHES, COUNTS, LETTERS
from dlq_app.testing import a_document
from wire.errors import PolicyError

Store = Database[dict[str, Any]]
DAY = timedelta(days=1)


@pytest.fixture
def now(store: Store) -> datetime:
    return repository.letters().server_now()


def letter(store: Store, name: str, created: datetime, resolved: datetime | None = None, how: str = "replayed") -> None:
    document = a_document(name, status="dlq_failed", createdAt=created)
    if resolved:
        document |= {"status": "dlq_resolved", "resolvedAt": resolved, "resolution": how}
    store[LETTERS].insert_one(document)


def steps(store: Store, now: datetime, within: timedelta = DAY) -> Counted:
    counts = repository.letter_counts()
    while counts.step(now, within):
        pass
    found = counts.read()
    assert found is not None
    return found


def begun(store: Store, at: datetime) -> None:
    """Counting began then."""
    assert not repository.letter_counts().step(at, DAY)


@pytest.mark.mongo
def test_it_counts_from_its_beginning_on(store: Store, now: datetime) -> None:
    letter(store, "before", now - 3 * DAY, now - timedelta(hours=2))
    begun(store, now - timedelta(hours=1))
    letter(store, "replayed", now - DAY * 2, now - timedelta(minutes=50))
    letter(store, "discarded", now - DAY * 2, now - timedelta(minutes=5), "discarded")
    letter(store, "later", now - DAY * 2, now)

    assert steps(store, now).resolved == {"replayed": 1, "discarded": 1, "resolved_by_hand": 0}
    assert steps(store, now).resolved == {"replayed": 1, "discarded": 1, "resolved_by_hand": 0}
    assert steps(store, now + MARGIN + SPAN).resolved["replayed"] == 2


@pytest.mark.mongo
def test_a_letter_is_judged_once_when_its_time_is_over(store: Store, now: datetime) -> None:
    begun(store, now - DAY)
    created = now - DAY - timedelta(hours=5)
    letter(store, "in time", created, created + timedelta(hours=23))
    letter(store, "at the last moment", created, created + DAY)
    letter(store, "late", created, created + DAY + timedelta(seconds=1))
    letter(store, "open", created)
    letter(store, "young", now - timedelta(hours=23))
    first = steps(store, now)
    store[LETTERS].delete_many({})

    assert (first.due, first.missed) == (4, 2)
    assert (steps(store, now).due, steps(store, now).missed) == (4, 2)


@pytest.mark.mongo
def test_two_processes_count_a_span_once(store: Store, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(store, now - timedelta(minutes=5))
    letter(store, "a", now - 2 * DAY, now - timedelta(minutes=2))
    counts, other = repository.letter_counts(), repository.letter_counts()
    judged = LetterCounts._judged

    def while_the_other_counts(self: LetterCounts, *arguments: Any) -> tuple[int, int]:
        if self is counts:
            other.step(now, DAY)
        return judged(self, *arguments)

    monkeypatch.setattr(LetterCounts, "_judged", while_the_other_counts)
    counts.step(now, DAY)

    assert steps(store, now).resolved["replayed"] == 1


@pytest.mark.mongo
def test_a_step_that_was_killed_is_repeated_and_one_whose_answer_was_lost_is_not(
    store: Store, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(store, now - timedelta(minutes=5))
    letter(store, "a", now - 2 * DAY, now - timedelta(minutes=2))
    counts = repository.letter_counts()

    def killed(*arguments: Any) -> Any:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(counts, "_judged", killed)
        with pytest.raises(StoreUnavailable):
            counts.step(now, DAY)
    mark = store[COUNTS].find_one({"_id": "letters"})
    counts.step(now, DAY)  # carried out, and the caller never heard of it

    assert mark is not None
    assert mark["until"] == now - timedelta(minutes=5) - MARGIN
    assert steps(store, now).resolved["replayed"] == 1


@pytest.mark.mongo
def test_a_longer_time_for_letters_judges_none_twice(store: Store, now: datetime) -> None:
    begun(store, now - DAY)
    letter(store, "open", now - DAY - timedelta(hours=1))
    assert steps(store, now).due == 1

    assert steps(store, now, 3 * DAY).due == 1
    assert steps(store, now + 3 * DAY, 3 * DAY).due == 1


@pytest.mark.mongo
def test_a_pause_of_cron_is_made_up_for(store: Store, now: datetime) -> None:
    begun(store, now - 4 * DAY)
    for hour in range(90):
        letter(store, f"l{hour}", now - 5 * DAY, now - timedelta(hours=hour + 1))

    for _ in range(5):
        letter_counts.advance()

    assert steps(store, now).resolved["replayed"] == 90


@pytest.mark.mongo
def test_batches_that_stopped_count(store: Store, now: datetime) -> None:
    begun(store, now - timedelta(hours=1))
    stopped = [{"_id": n, "stage": "stopped", "stoppedAt": now - timedelta(minutes=n)} for n in (1, 2, 90)]
    store[BATCHES].insert_many([*stopped, {"_id": 4, "stage": "cancelled"}])

    assert steps(store, now).stopped_batches == 2


@pytest.mark.mongo
def test_counters_that_are_not_moved_on_are_not_current(store: Store, now: datetime) -> None:
    assert letter_counts.read() is None
    begun(store, now - timedelta(minutes=20))
    assert letter_counts.read() is None

    letter_counts.advance()
    assert letter_counts.read() is not None


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ({"letters": {"ratio": 1}}, "0.5 to 0.9999"),
        ({"letters": {"ratio": True}}, "0.5 to 0.9999"),
        ({"letters": {"within_hours": 0}}, "1 to 720"),
        ({"letters": {"within_hours": 72}}, "at most 48"),
        ({"letters": {"within": 3}}, "unknown key 'within'"),
        ({"messages": {}}, "unknown table 'messages'"),
        ({"letters": 3}, "must be a table"),
    ],
)
def test_a_wrong_objective_is_rejected(raw: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyError, match=told):
        LettersObjective.parse(raw, keep_resolved_days=2)


def test_the_checks_name_the_file(settings: Settings) -> None:
    from dlq_app.checks import policies

    settings.OBJECTIVES_POLICY = {"letters": {"ratio": 2}}

    assert [(found.id, "objectives.toml" in str(found.hint)) for found in policies()] == [("dlq_app.E003", True)]
