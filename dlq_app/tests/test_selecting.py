"""Filters and searches find what a plain filter over all letters finds, and read little to find it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.filters import FILTERS
from dlq_app.domain.paging import SORTS, Cursor, PageRequest
from dlq_app.domain.search_terms import whole_words, words
from dlq_app.domain.states import Status, Verb
from dlq_app.store import indexes
from dlq_app.store.mongo import LETTERS
from dlq_app.store.queries import of_each_facet
from dlq_app.store.repository import Letters, Selection
from dlq_app.testing import NOON, a_document
from dlq_app.tests.mongo_work import Work, counted

pytestmark = pytest.mark.mongo

Document = dict[str, Any]
#: Words that every letter of a group has; a few groups share each.
TOLD = ("gateway", "refused", "order", "answer", "stock", "reserved", "mail", "bounced", "token", "expired")
GROUPS = 24


def some_letters(count: int, seed: int = 3) -> list[Document]:
    """Letters of ``GROUPS`` groups, with words of their group, of themselves and of few."""
    dice = random.Random(seed)
    groups = [
        (f"{n:016x}", dice.sample(TOLD, 3), dice.choice(("TIMEOUT_ERROR", "NETWORK_ERROR", "NOT_FOUND_ERROR")))
        for n in range(GROUPS)
    ]
    template = a_document()
    found = []
    for n in range(count):
        fingerprint, told, error_type = groups[min(int(dice.expovariate(0.2)), GROUPS - 1)]
        own = dice.sample(("urgent", "late", "eu"), dice.randrange(3))
        metadata = {
            **template["metadata"],
            "source": dice.choice(("shop", "app", "pos")),
            "priority": dice.choice(("high", "normal", "low")),
            "tags": dice.sample(("eu", "us", "vip"), dice.randrange(3)),
        }
        found.append(
            {
                **template,
                "messageId": f"{dice.choice(('order', 'mail', 'a', 'b'))}-{n:05}",
                "type": dice.choice(("order.created", "mail.send")),
                "errorType": error_type,
                "errorKind": "permanent" if error_type == "NOT_FOUND_ERROR" else "transient",
                "fingerprint": fingerprint,
                "searchWords": [error_type.lower(), *told, *own, f"{n:05}"] if n % 50 else ["SocketTimeout", *told],
                "metadata": metadata,
                "facets": [f"customerId=c{dice.randrange(6)}", *(f"orderId={n}" for n in dice.sample("abc", n % 3))],
                "status": dice.choice(list(Status)).value,
                "createdAt": NOON + timedelta(minutes=dice.randrange(500)),
                "lastFailedAt": NOON + timedelta(minutes=dice.randrange(500)),
                "updatedAt": NOON,
            }
        )
    return found


def put(store: Database[Document], letters: list[Document]) -> None:
    for begin in range(0, len(letters), 200):
        store[LETTERS].insert_many(letters[begin : begin + 200])


def some_criteria(dice: random.Random) -> Document:
    """A query with one to four filters, most of them with a search."""
    values: dict[str, tuple[str, ...]] = {
        "status": tuple(status.value for status in Status),
        "errorType": ("TIMEOUT_ERROR", "NETWORK_ERROR", "NOT_FOUND_ERROR", "NONE"),
        "errorKind": ("transient", "permanent"),
        "type": ("order.created", "mail.send"),
        "source": ("shop", "app", "none"),
        "priority": ("high", "low"),
        "facet": ("customerId=c1", "customerId=c2", "orderId=a", "orderId=b", "orderId=none"),
        "tag": ("eu", "us", "vip", "none"),
        "fingerprint": tuple(f"{n:016x}" for n in range(6)),
        "from": tuple(f"2026-11-24T{hour}:00:00Z" for hour in (12, 14)),
        "to": tuple(f"2026-11-24T{hour}:30:00Z" for hour in (15, 18)),
    }
    searched = (*TOLD, "urgent", "late", "eu", "00017", "nothing", "SocketTimeout", "timeout", "timeout_error")
    chosen: Document = {}
    if dice.random() < 0.75:
        chosen["search"] = " ".join(dice.sample(searched, dice.choice((1, 1, 2, 2, 3))))
    for name in dice.sample(list(values), dice.randrange(3) + (not chosen)):
        many = dice.random() < 0.3 and name not in ("from", "to")
        chosen[name] = dice.sample(values[name], 2) if many else dice.choice(values[name])
    return chosen


def plainly(letters: list[Document], criteria: LetterCriteria, sort: str) -> list[str]:
    """What matches, by looking at every letter; in order."""

    def at(letter: Document, path: str) -> Any:
        for name in path.split("."):
            letter = letter[name]
        return letter

    def matches(letter: Document) -> bool:
        for one in FILTERS.values():
            wanted = getattr(criteria, one.attribute)
            if not wanted or not one.path:
                continue
            value = at(letter, one.path)
            if one.name == "facet":
                if not all(set(values) & set(value) for values in of_each_facet(wanted)):
                    return False
                continue
            if one.operator == "$in":
                if not set(wanted) & set(value if isinstance(value, list) else [value]):
                    return False
            elif value < wanted if one.operator == "$gte" else value >= wanted:
                return False
        text, held = criteria.search, set(letter["searchWords"])
        return not text or any(
            (
                " " not in text and letter["messageId"].startswith(text),
                bool(words(text)) and held >= set(words(text)),
                bool(whole_words(text)) and held >= set(whole_words(text)),
            )
        )

    found = [letter for letter in letters if matches(letter)]
    for key in reversed(SORTS[sort].keys):
        found.sort(key=lambda letter, field=key.field: at(letter, field), reverse=key.direction < 0)  # type: ignore[misc]
    return [letter["messageId"] for letter in found]


def walk(letters: Letters, criteria: LetterCriteria, sort: str, limit: int) -> Iterator[str]:
    request = PageRequest(sort=SORTS[sort], limit=limit)
    while True:
        page = letters.page(criteria, request)
        yield from (letter.message_id for letter in page.letters)
        if page.next_cursor is None:
            return
        cursor = Cursor.decode(page.next_cursor.encode())
        request = PageRequest(sort=cursor.sort, limit=limit, cursor=cursor)


@pytest.mark.parametrize(
    ("few", "groups", "merged"),
    [(5000, 1000, 200), (20, 1000, 3), (0, 4, 200)],
    ids=["by keys", "merged streams", "groups unknown"],
)
def test_any_criteria_find_what_a_plain_filter_finds(
    letters: Letters,
    store: Database[Document],
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    groups: int,
    merged: int,
) -> None:
    """On every page forward and backward, by number, when counted, and when exported."""
    monkeypatch.setattr("dlq_app.store.selecting.FEW", few)
    monkeypatch.setattr("dlq_app.store.selecting.MAX_GROUPS", groups)
    monkeypatch.setattr("dlq_app.store.selecting._MERGED", merged)
    monkeypatch.setattr("dlq_app.store.pages._CHECKED", 7)
    monkeypatch.setattr("dlq_app.store.counting.CHECK_S", 60)
    held = some_letters(1500)
    put(store, held)
    dice = random.Random(f"{few} {groups}")
    matched = 0
    for _ in range(60):
        query = some_criteria(dice)
        criteria = LetterCriteria.parse(query)
        # Computed orders: test_sorting.py.
        indexed = (name for name, one in SORTS.items() if not one.is_computed)
        sort = dice.choice(("-lastFailedAt", "-lastFailedAt", *indexed))
        expected = plainly(held, criteria, sort)

        limit = max(3, len(expected) // 4)
        assert list(walk(letters, criteria, sort, limit)) == expected, (query, sort)
        back = SORTS[sort].reversed() if not sort.startswith("-") else SORTS[sort.removeprefix("-")]
        assert list(walk(letters, criteria, back.name, limit)) == expected[::-1], (query, back)
        third = letters.page(criteria, PageRequest(sort=SORTS[sort], page=3, limit=2)).letters
        assert [letter.message_id for letter in third] == expected[4:6], (query, sort)
        assert [one.message_id for one in letters.each(criteria, SORTS[sort], chunk=limit)] == expected, (query, sort)
        first, total = letters.listed(criteria, PageRequest(sort=SORTS[sort], limit=3))
        assert [letter.message_id for letter in first.letters] == expected[:3], (query, sort)
        assert (total.count, total.is_capped) == (len(expected), False), query
        assert letters.count(criteria, within_s=60).count == letters.exact_count(criteria) == len(expected), query
        matched += bool(expected)
    assert matched > 30


def test_a_count_that_must_read_letters_stops_and_says_so(
    letters: Letters, store: Database[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.counting.CHECK_S", 0)
    monkeypatch.setattr("dlq_app.store.counting._CHECKED", 10)
    monkeypatch.setattr("dlq_app.store.counting._ALWAYS_CHECKED", 10)
    held = some_letters(600)
    put(store, held)
    criteria = LetterCriteria.parse({"search": "answer", "status": "dlq_failed"})
    expected = len(plainly(held, criteria, "-lastFailedAt"))

    total = letters.count(criteria)
    page, listed = letters.listed(criteria, PageRequest(limit=15, page=2))

    assert total.is_capped
    assert listed.is_capped
    assert 0 < total.count < expected
    assert len(page.letters) == 15
    assert 31 <= listed.count <= expected
    assert letters.exact_count(criteria) == expected


def test_the_number_of_few_letters_is_exact_however_slow_the_store_is(
    letters: Letters, store: Database[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.counting.CHECK_S", 0)
    monkeypatch.setattr("dlq_app.store.counting._CHECKED", 10)
    held = some_letters(600)
    put(store, held)
    criteria = LetterCriteria.parse({"search": "answer", "status": "dlq_failed"})

    total = letters.count(criteria)

    assert not total.is_capped
    assert total.count == len(plainly(held, criteria, "-lastFailedAt"))


def test_a_move_of_what_a_search_finds_moves_all_of_it(letters: Letters, store: Database[Document]) -> None:
    held = some_letters(400)
    put(store, held)
    criteria = LetterCriteria.parse({"search": "order answer"})
    open_ = ("dlq_pending", "dlq_failed")
    expected = {m for m in plainly(held, criteria, "messageId") if next(
        one["status"] in open_ for one in held if one["messageId"] == m)}  # fmt: skip
    which = Selection(criteria=criteria, as_of=NOON + timedelta(hours=1))

    assert letters.movable(which, Verb.SET_ASIDE, limit=10_000) == len(expected) > 0
    moved = sum(letters.move_many(which, Verb.SET_ASIDE, limit=10_000, who="olga", why="", now=NOON))

    assert moved == len(expected)
    assert {one["messageId"] for one in store[LETTERS].find({"history.who": "olga"})} == expected


# --- how much is read ---


def work_of(letters: Letters, store: Database[Document], url: str, query: Document) -> Work:
    """What MongoDB does for the first page and the number of matches."""
    criteria = LetterCriteria.parse(query)
    with counted(store, url) as work:
        letters.listed(criteria, PageRequest())
    return work


@pytest.mark.parametrize(
    ("query", "documents"),
    [
        ({}, 21),
        ({"search": "bounced"}, 21),
        ({"search": "nothing"}, 0),
        ({"search": "gateway nothing"}, 0),
        # No group has both.
        ({"search": "gateway bounced"}, 0),
        ({"status": "dlq_failed"}, 21),
        ({"type": "mail.send", "status": "dlq_failed"}, 20),
        ({"errorType": "TIMEOUT_ERROR", "source": "none"}, 0),
        ({"search": "gateway", "status": "dlq_resolved", "type": "none"}, 0),
    ],
)
def test_a_page_reads_the_letters_it_shows_and_no_other(
    letters: Letters, store: Database[Document], mongodb_url: str, query: Document, documents: int
) -> None:
    held = some_letters(2000)
    apart = ["gateway"], ["bounced"]
    for letter in held:
        letter["searchWords"] = apart[int(letter["fingerprint"], 16) % 2]
    put(store, held)

    work = work_of(letters, store, mongodb_url, query)

    assert work.documents <= documents, work.operations
    assert {"COLLSCAN"}.isdisjoint(" ".join(one.get("planSummary", "") for one in work.operations).split())


def test_two_common_words_of_different_groups_cost_the_same_for_many_letters(
    letters: Letters, store: Database[Document], mongodb_url: str
) -> None:
    keys = []
    for count in (500, 2500):
        store[LETTERS].delete_many({})
        held = some_letters(count)
        for letter in held:
            letter["searchWords"] = ["gateway" if int(letter["fingerprint"], 16) % 2 else "bounced"]
        put(store, held)
        keys.append(work_of(letters, store, mongodb_url, {"search": "gateway bounced"}).keys)

    assert max(keys) <= 4 * GROUPS


def test_a_word_with_other_filters_reads_few_letters_that_do_not_match(
    letters: Letters, store: Database[Document], mongodb_url: str
) -> None:
    put(store, some_letters(2000))

    criteria = LetterCriteria.parse({"search": "answer", "status": "dlq_manual", "type": "mail.send"})
    with counted(store, mongodb_url) as work:
        page = letters.page(criteria, PageRequest())

    assert len(page.letters) == 20
    # Thirty are checked at first, and then those of the page are read.
    assert work.documents <= 30 + 60 + 20


def test_without_the_index_of_words_a_search_is_slower_and_the_same(
    letters: Letters, store: Database[Document]
) -> None:
    """New processes may start before the index is built, and old ones have one of their own."""
    held = some_letters(200)
    put(store, held)
    store[LETTERS].drop_index(indexes.WORDS)
    try:
        for query in ({"search": "answer"}, {"search": "order answer"}, {"search": "answer", "status": "dlq_failed"}):
            criteria = LetterCriteria.parse(query)
            expected = plainly(held, criteria, "-lastFailedAt")
            assert list(walk(letters, criteria, "-lastFailedAt", 9)) == expected
            assert letters.count(criteria).count == len(expected)
    finally:
        indexes.ensure(store, keep_resolved_days=90)


@pytest.mark.parametrize("odd", [None, 17, ["x"], {"$gt": ""}])
def test_letters_of_odd_groups_are_found(letters: Letters, store: Database[Document], odd: object) -> None:
    """Another program wrote them: what is stored never becomes an operator."""
    held = some_letters(40)
    held[3]["fingerprint"] = odd
    if isinstance(odd, list):
        held[3]["searchWords"] = "gateway"  # an index takes one list of a document
    else:
        held[3]["searchWords"] = ["gateway"]
    put(store, held)
    criteria = LetterCriteria.parse({"search": "gateway"})

    assert letters.exact_count(criteria) == letters.count(criteria).count
    assert held[3]["_id"] in {one["_id"] for one in store[LETTERS].find({"searchWords": "gateway"})}
    assert held[3]["messageId"] in list(walk(letters, criteria, "-lastFailedAt", 5))
