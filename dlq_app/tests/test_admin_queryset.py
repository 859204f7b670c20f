"""The stand-in for a queryset: what a changelist asks it, and what it refuses by name."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db.models import Q
from pymongo.database import Database

from dlq_app.admin.letters.queryset import LettersQuerySet, Unsupported, letter_of
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.models import DeadLetter
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON, a_document

pytestmark = pytest.mark.mongo


@pytest.fixture
def forty(store: Database[dict[str, Any]]) -> list[str]:
    """Forty-five letters, the first of which failed last; their message ids in the order of the list."""
    names = [f"m-{n:02}" for n in range(45)]
    store.dead_letters.insert_many(
        [a_document(name, lastFailedAt=NOON - timedelta(minutes=n)) for n, name in enumerate(names)]
    )
    return names


def ids(rows: Any) -> list[str]:
    return [row.message_id for row in rows]


def test_nothing_is_asked_before_somebody_looks() -> None:
    letters: Any = object()  # any question would fail

    narrowed = LettersQuerySet(letters).narrowed(types=("demo",)).filter(Q()).order_by("-type", "-pk")

    assert narrowed._clone().criteria == LetterCriteria(types=("demo",))
    assert narrowed.sort.name == "-type"
    assert narrowed


def test_pages_counts_and_loops(forty: list[str]) -> None:
    found = LettersQuerySet()

    assert found.count() == 45
    assert ids(found[0:20]) == forty[:20]
    assert ids(found[20:40]) == forty[20:40]
    assert ids(found[40:45]) == forty[40:]
    assert ids(found) == forty
    assert len(found) == 45
    assert ids([found[3]]) == ["m-03"]
    assert found[10:10] == []


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (("messageId", "-pk"), "m-00"),
        (("-messageId", "-pk"), "m-44"),
        (("lastFailedAt", "-pk"), "m-44"),
        (("-pk",), "m-00"),
    ],
)
def test_the_primary_key_that_django_adds_changes_no_order(
    forty: list[str], names: tuple[str, ...], first: str
) -> None:
    assert ids(LettersQuerySet().order_by(*names)[0:1]) == [first]


def test_a_row_holds_its_letter(forty: list[str]) -> None:
    row = LettersQuerySet()[0:1][0]

    whole = LettersQuerySet().get(id=row.pk)

    assert (letter_of(whole).message_id, letter_of(whole).text) == ("m-00", '{"orderId": 5511870, "amount": "129.00"}')
    assert str(whole) == "m-00"
    assert LettersQuerySet().get(pk="m-07").message_id == "m-07"


@pytest.mark.parametrize("ref", ["nonsense", "0" * 24, "m-99", "\0", "x" * 5000, ""])
def test_an_unknown_id_does_not_exist(forty: list[str], ref: str) -> None:
    with pytest.raises(DeadLetter.DoesNotExist):
        LettersQuerySet().get(id=ref)


def test_checked_rows_are_kept_as_they_are() -> None:
    letters: Any = object()

    chosen = LettersQuerySet(letters).filter(pk__in=["a", "b"])

    assert (chosen.ids, chosen.count()) == (("a", "b"), 2)


@pytest.mark.parametrize(
    "ask",
    [
        lambda found: found.filter(Q(status="dlq_pending")),
        lambda found: found.filter(status__in=["dlq_pending"]),
        lambda found: found.order_by("errorStack"),
        lambda found: found.get(message_id="m-1"),
        lambda found: found[5:],
        lambda found: found[0:10:2],
        lambda found: found[0:1000],
    ],
)
def test_what_only_tables_can_do_is_refused(ask: Any) -> None:
    with pytest.raises(Unsupported):
        ask(LettersQuerySet())


@pytest.mark.parametrize("name", ["aggregate", "update", "delete", "values_list", "distinct", "datetimes"])
def test_an_unknown_member_is_named(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        getattr(LettersQuerySet(), name)


def test_no_letters_with_a_reason(forty: list[str]) -> None:
    found = LettersQuerySet().none("search for a word").order_by("-type")

    assert (found.nothing, found.count(), list(found), found[0:20]) == ("search for a word", 0, [], [])


@pytest.mark.parametrize("error", [QueryTooSlow(), StoreUnavailable()])
def test_a_count_that_takes_too_long_is_many(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def slow(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(Letters, "count", slow)
    found = LettersQuerySet()

    assert (found.count(), found.total().is_capped, found.is_uncounted) == (10_000, True, True)
