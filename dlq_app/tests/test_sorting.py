"""Orders of lists: by an index at any size, by computed keys for a limited number of letters, each page by cursor."""

from __future__ import annotations

import random
import re
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import SortTooLarge
from dlq_app.domain.paging import SORTS, PageRequest
from dlq_app.store import computed_sorts
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON as NOW
from dlq_app.testing import a_document
from dlqsite.tests.people import member, signed_in, with_key

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]
NUMBER = 30


@pytest.fixture
def filled(store: Database[dict[str, Any]]) -> None:
    """Letters with many equal, missing and odd values, in no order."""
    dice = random.Random(7)

    def some(*values: Any) -> Any:
        return dice.choice(values)

    store.dead_letters.insert_many(
        a_document(
            f"m-{n:02}",
            status=some("dlq_pending", "dlq_resolved", "dlq_manual"),
            errorType=some("TIMEOUT_ERROR", "DATABASE_ERROR"),
            errorKind=some("transient", "permanent"),
            type=some("a.x", "b.x"),
            retryCount=some(0, 1, 2, 3.0, "many"),
            dlqRetryCount=some(0, 5, None),
            priorRuns=some(0, 1, 9),
            resolution=some("replayed", "discarded", None),
            nextRetryAt=some(None, NOW, NOW + timedelta(hours=1), "soon"),
            updatedAt=NOW + timedelta(minutes=some(1, 2, 3)),
            resolvedAt=some(None, NOW),
            firstFailedAt=NOW - timedelta(minutes=some(1, 2, 3)),
            lastFailedAt=NOW + timedelta(minutes=some(1, 2, 3)),
            createdAt=NOW + timedelta(minutes=some(1, 2, 3)),
            metadata={"source": some("shop", "web"), "priority": some("high", "normal", "low", "odd")},
        )
        for n in range(NUMBER)
    )


@pytest.mark.parametrize("name", SORTS)
def test_pages_by_cursor_have_each_letter_once_in_order(filled: None, name: str) -> None:
    client = with_key("read")
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = f"cursor={cursor}" if cursor else f"sort={name}"
        answer = client.get(f"/api/dlq?limit=7&{query}")
        assert answer.status_code == 200, answer.content
        page = answer.json()
        found += [letter["messageId"] for letter in page["data"]]
        cursor = page["pagination"]["nextCursor"]

    assert sorted(found) == [f"m-{n:02}" for n in range(NUMBER)]
    by_number = [client.get(f"/api/dlq?limit=7&sort={name}&page={n}").json()["data"] for n in range(1, 6)]
    assert [letter["messageId"] for page in by_number for letter in page] == found


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("retryCount", ["one", "two", "none"]),
        ("-retryCount", ["two", "one", "none"]),
        ("nextRetryAt", ["one", "two", "none"]),
        ("-nextRetryAt", ["two", "one", "none"]),
        ("priority", ["one", "two", "none"]),
        ("-priority", ["two", "one", "none"]),
        ("-tries", ["two", "one", "none"]),
    ],
)
def test_letters_without_a_value_come_last(
    store: Database[dict[str, Any]], letters: Letters, name: str, order: list[str]
) -> None:
    values = {"one": (1, NOW, "high"), "two": (2, NOW + timedelta(hours=1), "low"), "none": (None, None, None)}
    store.dead_letters.insert_many(
        a_document(
            who, retryCount=number, priorRuns=0, nextRetryAt=at, metadata={"source": "shop", "priority": priority}
        )
        for who, (number, at, priority) in values.items()
    )

    found = letters.page(LetterCriteria(), PageRequest(sort=SORTS[name]))

    assert [letter.message_id for letter in found.letters] == order


def test_a_computed_order_of_too_many_letters_is_refused_with_what_to_do(
    filled: None, letters: Letters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computed_sorts, "MAX_SORTED", NUMBER - 1)
    client = with_key("read")

    refused = client.get("/api/dlq?sort=-retryCount")
    narrowed = client.get("/api/dlq?sort=-retryCount&source=shop")
    indexed = client.get("/api/dlq?sort=source")

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_filter")
    (error,) = refused.json()["errors"]
    assert error["field"] == "sort"
    assert "narrow the filter, or sort by lastFailedAt, createdAt, messageId" in error["message"]
    assert (narrowed.status_code, indexed.status_code) == (200, 200)
    with pytest.raises(SortTooLarge):
        letters.page(LetterCriteria(), PageRequest(sort=SORTS["updatedAt"]))


def test_the_console_shows_the_refusal_and_the_list_in_its_usual_order(
    filled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = signed_in(member("viewer"))
    page = viewer.get("/admin/dlq_app/deadletter/").content.decode()
    (column,) = re.findall(r'href="\?o=([0-9]+)[^"]*">Tries<', page)
    tries = viewer.get(f"/admin/dlq_app/deadletter/?o={column}")
    monkeypatch.setattr(computed_sorts, "MAX_SORTED", 1)

    refused = viewer.get(f"/admin/dlq_app/deadletter/?o={column}&status=dlq_pending", follow=True)

    assert tries.status_code == 200
    assert refused.redirect_chain == [("/admin/dlq_app/deadletter/?status=dlq_pending", 302)]
    assert "by tries is possible for 1 letters" in refused.content.decode()


def test_the_order_by_source_reads_no_letter_to_sort(store: Database[dict[str, Any]], filled: None) -> None:
    order = [(key.field, key.direction) for key in SORTS["source"].keys]

    plan = str(store.dead_letters.find().sort(order).limit(5).explain()["queryPlanner"]["winningPlan"])

    assert "source_last_failed" in plan
    assert "SORT" not in plan
