"""Lists, pages, counts and the indexes they stand on."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.monitoring import CommandListener

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import IndexesMissing, QueryTooSlow, StoreUnavailable
from dlq_app.domain.paging import MAX_COUNTED, SORTS, Cursor, PageRequest
from dlq_app.domain.states import Status
from dlq_app.services import dead_letters
from dlq_app.store import indexes, queries
from dlq_app.store.figures import Figures
from dlq_app.store.mongo import LETTERS, connect, translated
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON, a_death, a_document

pytestmark = pytest.mark.mongo

ALL = LetterCriteria()


def fill(store: Database[dict[str, Any]], count: int) -> None:
    """Letters with many equal sort keys, in no order."""
    dice = random.Random(7)
    documents = []
    for n in range(count):
        document = a_document(
            f"m-{n:04}",
            death=a_death(
                f"m-{n:04}",
                died_at=NOON + timedelta(minutes=dice.randrange(10)),
                error_type=dice.choice(["TIMEOUT_ERROR", "NETWORK_ERROR", "DATABASE_ERROR"]),
                error_reason=f"payments-api did not answer order {n}",
                type=dice.choice(["order.created", "mail.send"]),
                source=dice.choice(["shop", "app"]),
                tags=(dice.choice(["eu", "us"]),),
            ),
            status=dice.choice(list(Status)).value,
        )
        documents.append({**document, "createdAt": NOON + timedelta(minutes=dice.randrange(5))})
    store[LETTERS].insert_many(documents)


def walk(letters: Letters, criteria: LetterCriteria, sort: str, limit: int, between: Any = None) -> list[str]:
    request = PageRequest(sort=SORTS[sort], limit=limit)
    seen: list[str] = []
    while True:
        page = letters.page(criteria, request)
        seen += [letter.message_id for letter in page.letters]
        if page.next_cursor is None:
            return seen
        if between:
            between()
        cursor = Cursor.decode(page.next_cursor.encode())
        request = PageRequest(sort=cursor.sort, limit=limit, cursor=cursor)


@pytest.mark.parametrize("sort", list(SORTS))
def test_a_walk_by_cursor_sees_each_letter_once_in_order(
    letters: Letters, store: Database[dict[str, Any]], sort: str
) -> None:
    fill(store, 120)

    seen = walk(letters, ALL, sort, 7)

    order = [(key.field, key.direction) for key in SORTS[sort].keys]
    assert seen == [document["messageId"] for document in store[LETTERS].find().sort(order)]
    assert len(set(seen)) == 120


@pytest.mark.parametrize("sort", ["-lastFailedAt", "messageId", "errorType"])
def test_a_walk_sees_each_letter_once_while_others_change(
    letters: Letters, store: Database[dict[str, Any]], sort: str
) -> None:
    fill(store, 100)
    new = iter(range(1000))

    def change() -> None:
        dead_letters.record_outcomes([a_death(f"new-{next(new)}", died_at=NOON + timedelta(hours=1))], [])
        store[LETTERS].delete_one({"messageId": f"new-{next(new) - 1}"})
        for letter in letters.page(ALL, PageRequest(limit=2)).letters:
            letters.add_note(letter.id, who="olga", note="seen", now=NOON)

    seen = walk(letters, ALL, sort, 9, change)

    assert sorted(m for m in seen if m.startswith("m-")) == [f"m-{n:04}" for n in range(100)]
    assert len(seen) == len(set(seen))


def test_a_cursor_of_version_0_1_0_is_still_read() -> None:
    text = "WyItbGFzdEZhaWxlZEF0IiwxNzY0NDk2ODAwMTIzLCI2OTJjMGEwYjFjMmQzZTRmNTA2MTcyODMiXQ"

    cursor = Cursor.decode(text)

    at = datetime(2025, 11, 30, 10, 0, 0, 123_000, UTC)
    assert cursor == Cursor(SORTS["-lastFailedAt"], (at, "692c0a0b1c2d3e4f50617283"))
    assert cursor.encode() == text


def test_pages_by_number_and_by_cursor_agree(letters: Letters, store: Database[dict[str, Any]]) -> None:
    fill(store, 30)
    criteria = LetterCriteria(types=("mail.send",))

    by_number = [
        letter.message_id
        for n in (1, 2, 3, 4, 5)
        for letter in letters.page(criteria, PageRequest(page=n, limit=5)).letters
    ]

    assert by_number == walk(letters, criteria, "-lastFailedAt", 5)[: len(by_number)]
    assert letters.count(criteria).count == letters.exact_count(criteria) == len(walk(letters, criteria, "type", 5))


def test_each_reads_all_that_fit_in_chunks(letters: Letters, store: Database[dict[str, Any]]) -> None:
    fill(store, 25)

    found = [letter.message_id for letter in letters.each(ALL, SORTS["messageId"], chunk=4)]

    assert found == [f"m-{n:04}" for n in range(25)]


def test_a_count_is_exact_up_to_ten_thousand_and_then_says_so(
    letters: Letters, store: Database[dict[str, Any]]
) -> None:
    bare = [{"messageId": f"m-{n}", "status": "dlq_failed"} for n in range(MAX_COUNTED + 5)]
    for begin in range(0, MAX_COUNTED, 1000):
        store[LETTERS].insert_many(bare[begin : min(begin + 1000, MAX_COUNTED)])
    assert (letters.count(ALL).count, letters.count(ALL).is_capped) == (MAX_COUNTED, False)

    store[LETTERS].insert_many(bare[MAX_COUNTED:])
    assert (letters.count(ALL).count, letters.count(ALL).is_capped) == (MAX_COUNTED, True)
    assert letters.exact_count(ALL) == MAX_COUNTED + 5


@pytest.mark.parametrize(
    "query",
    [
        {"status": "dlq_failed"},
        {"status": ["dlq_failed", "dlq_manual"]},
        {"search": "order 17"},
        {"search": "m-001"},
        {"tag": "eu", "source": "shop", "errorType": ["TIMEOUT_ERROR", "NETWORK_ERROR"]},
        {"from": "2026-11-24T12:03:00Z", "to": "2026-11-24T12:07:00Z"},
    ],
)
def test_the_number_shown_is_the_number_acted_on(
    letters: Letters, store: Database[dict[str, Any]], query: dict[str, object]
) -> None:
    fill(store, 60)
    criteria = LetterCriteria.parse(query)

    listed = walk(letters, criteria, "-lastFailedAt", 7)
    acted_on = [letter.message_id for letter in letters.each(criteria, SORTS["-lastFailedAt"])]

    assert listed == acted_on
    assert len(listed) == letters.count(criteria).count == letters.exact_count(criteria) > 0


# --- indexes ---


def stages(plan: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [plan["inputStage"]] if "inputStage" in plan else plan.get("inputStages", [])
    return [plan, *(stage for one in inner for stage in stages(one))]


def plan_of(
    store: Database[dict[str, Any]], where: dict[str, Any], sort: list[tuple[str, int]], index: str | None = None
) -> list[dict[str, Any]]:
    found = store[LETTERS].find(where)
    if index:
        found = found.hint(index)
    return stages((found.sort(sort) if sort else found).explain()["queryPlanner"]["winningPlan"])


@pytest.mark.parametrize(
    ("query", "sort", "index"),
    [
        ({}, "-lastFailedAt", "last_failed"),
        ({}, "lastFailedAt", "last_failed"),
        ({}, "createdAt", "created_fingerprint"),
        ({}, "-createdAt", "created_fingerprint"),
        ({}, "messageId", "message_id"),
        ({}, "-messageId", "message_id"),
        ({}, "status", "status_last_failed"),
        ({}, "-errorType", "error_type_last_failed"),
        ({}, "type", "type_last_failed"),
        ({"status": "dlq_failed"}, "-lastFailedAt", "status_last_failed"),
        ({"status": ["dlq_failed", "dlq_manual"]}, "-lastFailedAt", "status_last_failed"),
        ({"errorType": "NETWORK_ERROR"}, "-lastFailedAt", "error_type_last_failed"),
        ({"type": "mail.send"}, "-lastFailedAt", "type_last_failed"),
        ({"source": "app"}, "-lastFailedAt", "source_last_failed"),
        ({"tag": "eu"}, "-lastFailedAt", "tag_last_failed"),
        ({"fingerprint": "0123456789abcdef"}, "-lastFailedAt", "fingerprint_last_failed"),
        ({"search": "order 17"}, "-lastFailedAt", "word_group_last_failed"),
        ({"search": "answer"}, "-lastFailedAt", "word_group_last_failed"),
        ({"from": "2026-11-24T12:08:00Z"}, "-lastFailedAt", "last_failed"),
    ],
)
@pytest.mark.parametrize("continued", [False, True], ids=["first page", "after a cursor"])
def test_every_list_is_read_in_order_from_its_index(
    letters: Letters, store: Database[dict[str, Any]], query: dict[str, object], sort: str, index: str, continued: bool
) -> None:
    """Neither a scan of the collection nor a sort in memory, on the first page and on those after a cursor."""
    fill(store, 400)
    keys = SORTS[sort].keys
    (way,) = letters._ways(letters._branches(LetterCriteria.parse(query), SORTS[sort]), SORTS[sort])
    assert way.check is None
    where = way.where
    if continued:
        middle = store[LETTERS].find().sort([(k.field, k.direction) for k in keys]).skip(200).limit(1)[0]
        cursor = Cursor(SORTS[sort], tuple(middle[key.field] for key in keys))
        where = {"$and": [where, queries.after(cursor)]}

    plan = plan_of(store, where, [(key.field, key.direction) for key in keys], way.index)

    names = {stage["stage"] for stage in plan}
    assert not names & {"COLLSCAN", "SORT"}
    assert {stage["indexName"] for stage in plan if "indexName" in stage} == {index}


COMBINED: list[dict[str, object]] = [
    {"errorType": "TIMEOUT_ERROR", "source": "shop"},
    {"errorKind": "transient"},
    {"priority": "normal"},
    {"priority": "high"},
    {"status": ["dlq_failed", "dlq_manual"], "type": ["mail.send", "other"]},
    {"type": "mail.send", "source": "app", "status": "dlq_pending", "errorType": "NETWORK_ERROR"},
    {"errorKind": "permanent", "errorType": "TIMEOUT_ERROR"},
    {"source": ["app", "shop"], "from": "2026-11-24T12:03:00Z", "to": "2026-11-24T12:07:00Z", "errorKind": "transient"},
    {"fingerprint": "0123456789abcdef", "status": "dlq_failed"},
]


@pytest.mark.parametrize("few", [5000, 20, 0], ids=["by keys", "some by keys", "in order"])
def test_combined_filters_find_the_same_letters_by_keys_and_in_order(
    letters: Letters, store: Database[dict[str, Any]], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.selecting.FEW", few)
    fill(store, 100)
    found = 0
    for query in COMBINED:
        criteria = LetterCriteria.parse(query)
        for sort in ("-lastFailedAt", "lastFailedAt", "createdAt", "messageId", "-type"):
            order = [(key.field, key.direction) for key in SORTS[sort].keys]
            expected = [
                document["messageId"] for document in store[LETTERS].find(queries.matching(criteria)).sort(order)
            ]

            assert walk(letters, criteria, sort, 12) == expected
            assert [letter.message_id for letter in letters.each(criteria, SORTS[sort], chunk=12)] == expected
            by_number = letters.page(criteria, PageRequest(sort=SORTS[sort], page=2, limit=5)).letters
            assert [letter.message_id for letter in by_number] == expected[5:10]
            found += len(expected)
        assert letters.count(criteria).count == letters.exact_count(criteria) == len(expected)
    assert found > 500


def test_combined_filters_are_counted_and_sorted_from_keys(letters: Letters, store: Database[dict[str, Any]]) -> None:
    """Neither reads a letter that does not fit; the few that are shown are read afterwards."""
    fill(store, 200)
    for query in COMBINED:
        keys = queries.of_keys(LetterCriteria.parse(query))
        count = {"count": LETTERS, "query": keys, "hint": indexes.FIGURES}
        listing = {
            "find": LETTERS,
            "filter": keys,
            "projection": {"_id": 1, "lastFailedAt": 1},
            "sort": {"lastFailedAt": -1, "_id": -1},
            "hint": indexes.FIGURES,
        }
        for command in (count, listing):
            explained = store.command("explain", command, verbosity="executionStats")
            assert explained["executionStats"]["totalDocsExamined"] == 0, query


def test_letters_that_fit_but_are_far_away_are_found_by_their_keys(
    letters: Letters, store: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.selecting.FEW", 0)
    fill(store, 60)
    criteria = LetterCriteria.parse(COMBINED[0])
    expected = [letter.message_id for letter in letters.page(criteria, PageRequest()).letters]

    def too_far(self: Letters, *args: object) -> None:
        raise QueryTooSlow

    monkeypatch.setattr(Letters, "_page_in_order", too_far)

    assert [letter.message_id for letter in letters.page(criteria, PageRequest()).letters] == expected


@pytest.mark.parametrize(
    ("search", "advice"), [("gateway refused", "a rarer one"), ("gateway", "Narrow the filter"), ("m-1", "Narrow")]
)
def test_a_search_that_takes_too_long_says_what_would_be_quicker(
    letters: Letters, monkeypatch: pytest.MonkeyPatch, search: str, advice: str
) -> None:
    def too_many(self: Letters, *args: object) -> None:
        raise QueryTooSlow

    monkeypatch.setattr(Letters, "_branches", too_many)

    with pytest.raises(QueryTooSlow, match=advice):
        letters.page(LetterCriteria.parse({"search": search}), PageRequest())


def test_a_list_does_not_wait_for_a_count_that_takes_long(
    letters: Letters, store: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 120)

    def too_many(self: Letters, *args: object) -> int:
        raise QueryTooSlow

    monkeypatch.setattr(Letters, "_count", too_many)
    monkeypatch.setattr(Letters, "_count_some", too_many)

    total = letters.count(ALL)

    assert (total.count, total.is_capped) == (100, True)
    with pytest.raises(QueryTooSlow):
        letters.count(ALL, within_s=1)
    with pytest.raises(QueryTooSlow):
        letters.exact_count(ALL)


def test_without_its_index_combined_filters_are_slower_and_the_same(
    letters: Letters, store: Database[dict[str, Any]]
) -> None:
    fill(store, 60)
    criteria = LetterCriteria.parse(COMBINED[0])
    expected = walk(letters, criteria, "-lastFailedAt", 7)
    store[LETTERS].drop_index(indexes.FIGURES)
    try:
        assert walk(letters, criteria, "-lastFailedAt", 7) == expected
        assert letters.count(criteria).count == len(expected)
    finally:
        indexes.ensure(store, keep_resolved_days=90)


def test_indexes_of_the_last_version_stay_until_the_run_after_the_update(store: Database[dict[str, Any]]) -> None:
    """Its processes still run, and begin again, while the new ones start."""
    keys = [("searchWords", 1), ("lastFailedAt", -1), ("_id", -1)]
    store[LETTERS].create_index(keys, name="word_last_failed")
    store[LETTERS].drop_index(indexes.WORDS)

    indexes.ensure(store, keep_resolved_days=90)
    assert indexes.retired(store) == ["word_last_failed"]
    assert indexes.missing(store) == []

    indexes.ensure(store, keep_resolved_days=90)
    assert indexes.retired(store) == []


def test_polls_and_sweeps_read_their_own_small_indexes(letters: Letters, store: Database[dict[str, Any]]) -> None:
    fill(store, 400)

    due = plan_of(store, {"status": "dlq_pending", "nextRetryAt": {"$lte": NOON}}, [("nextRetryAt", 1), ("_id", 1)])
    stale = plan_of(
        store,
        {"status": "dlq_processing", "$or": [{"replay.lockedAt": {"$lt": NOON}}, {"replay.lockedAt": None}]},
        [],
    )

    assert {stage["indexName"] for stage in due if "indexName" in stage} == {"due"}
    assert "SORT" not in {stage["stage"] for stage in due}
    assert "COLLSCAN" not in {stage["stage"] for stage in stale}


def test_missing_indexes_are_named(store: Database[dict[str, Any]]) -> None:
    assert indexes.missing(store) == []
    store[LETTERS].drop_index("message_id")
    store[LETTERS].drop_index("due")

    assert indexes.missing(store) == ["message_id", "due"]
    with pytest.raises(IndexesMissing, match="message_id, due"):
        indexes.require(store)

    indexes.ensure(store, keep_resolved_days=90)
    assert indexes.missing(store) == []


def test_an_index_that_is_not_unique_is_missing(store: Database[dict[str, Any]]) -> None:
    store[LETTERS].drop_index("message_id")
    store[LETTERS].create_index("messageId", name="message_id")

    assert indexes.missing(store) == ["message_id"]

    store[LETTERS].drop_index("message_id")
    indexes.ensure(store, keep_resolved_days=90)


def test_retention_follows_the_policy(store: Database[dict[str, Any]]) -> None:
    def seconds() -> object:
        return store[LETTERS].index_information().get(indexes.TTL, {}).get("expireAfterSeconds")

    indexes.ensure(store, keep_resolved_days=90)
    assert seconds() == 90 * 86_400
    indexes.ensure(store, keep_resolved_days=1)
    assert seconds() == 86_400
    indexes.ensure(store, keep_resolved_days=0)
    assert seconds() is None
    indexes.ensure(store, keep_resolved_days=90)
    found = store[LETTERS].index_information()[indexes.TTL]
    assert found["partialFilterExpression"] == {"status": "dlq_resolved"}, "an open letter never expires"


# --- a store that is away ---


def test_a_store_that_is_away_is_said_in_seconds() -> None:
    away = Letters(connect("mongodb://127.0.0.1:1/?directConnection=true")["dlq"][LETTERS])

    with pytest.raises(StoreUnavailable) as caught:
        away.page(ALL, PageRequest())

    assert caught.value.retry_after
    assert caught.value.status == 503


def test_a_question_that_takes_too_long_is_told_apart(
    store: Database[dict[str, Any]], mongo_db: Database[dict[str, Any]]
) -> None:
    numbers = mongo_db["numbers"]
    numbers.insert_many([{"n": n} for n in range(3000)])
    # Every number is compared with every other, nine million times: far more than ten milliseconds on any machine.
    smaller = [{"$match": {"$expr": {"$lt": ["$n", "$$mine"]}}}, {"$count": "n"}]
    slow = [{"$lookup": {"from": "numbers", "let": {"mine": "$n"}, "pipeline": smaller, "as": "smaller"}}]

    with pytest.raises(QueryTooSlow), translated():
        list(numbers.aggregate(slow, maxTimeMS=10))


def test_every_command_carries_a_bound_on_its_time(store: Database[dict[str, Any]], mongodb_url: str) -> None:
    seen: list[tuple[str, bool]] = []

    class Listener(CommandListener):
        def started(self, event: Any) -> None:
            seen.append((event.command_name, "maxTimeMS" in event.command))

        def succeeded(self, event: Any) -> None: ...

        def failed(self, event: Any) -> None: ...

    client: MongoClient[dict[str, Any]] = MongoClient(
        mongodb_url, timeoutMS=3000, event_listeners=[Listener()], tz_aware=True
    )
    letters = Letters(client["dlq_test"][LETTERS])
    store[LETTERS].insert_one(a_document())
    letter = letters.find("m-1")
    assert letter is not None
    letters.page(ALL, PageRequest())
    letters.count(ALL)
    letters.count(LetterCriteria.parse({"errorType": "TIMEOUT_ERROR", "source": "shop"}))
    letters.page(LetterCriteria.parse({"errorType": "TIMEOUT_ERROR", "source": "shop"}), PageRequest())
    Figures(letters, client["dlq_test"][LETTERS], client["dlq_test"]["dlq_figures"]).count(5)
    letters.due(NOON, 10)
    letters.stale(NOON, 10)
    letters.get(str(ObjectId()))
    letters.set_aside(letter.id, who="olga", why="", now=NOON)

    assert {name for name, _ in seen} >= {"find", "aggregate", "findAndModify"}
    assert [name for name, bounded in seen if not bounded] == []
    client.close()
