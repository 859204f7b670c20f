"""Whatever MongoDB holds: no document makes a page, list, export or command fail, and what is no letter is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import bson
import pytest
from bson import Binary, Code, DatetimeMS, Decimal128, Int64, MinKey, ObjectId, Regex
from bson.codec_options import CodecOptions, DatetimeConversion
from django.core.management import call_command
from django.test import Client
from pymongo.database import Database

from console.templatetags import console
from dlq_app.admin.letters import page as letter_page
from dlq_app.admin.letters import story as letter_story
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.explanation import explain
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.paging import SORTS, Cursor
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.rest import contract
from dlq_app.services import dead_letters, exporting
from dlq_app.services.replaying import Replayed, order_of
from dlq_app.store import queries
from dlq_app.store.documents import Unreadable, letter_from
from dlq_app.store.repository import Letters
from dlq_app.testing import NOON, MemoryIntake, a_document, an_attempt
from dlq_app.tests.batch_rig import Rig
from dlqsite.tests.people import with_key
from wire.traceparent import traceparent_of

Store = Database[dict[str, Any]]

#: Zones on both sides of UTC, so that each edge of the calendar is left in one of them.
ZONES = ("America/New_York", "Asia/Tokyo")
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
BEYOND = (DatetimeMS(2**62), DatetimeMS(-(2**62)), DatetimeMS(253_402_300_800_000))
EDGES = (FIRST, LAST, datetime(1969, 12, 31, tzinfo=UTC))
ODD: tuple[Any, ...] = (
    *EDGES, BEYOND[0], None, "2026-01-01T00:00:00Z", -1, Int64(2**60), float("nan"), float("inf"), True,
    [1, [2]], {"$x": 1}, ObjectId(), Decimal128("1e99"), Binary(b"\xff"), MinKey(), Regex("a"), Code("x"),
)  # fmt: skip
NAMES = (*a_document(), "resolution", "resolvedAt", "replay", "lastReplay")
INNER: dict[str, Any] = {
    "metadata": {"source": "s", "priority": "normal", "tags": ["a"], "client": "c", "systemState": {"cpu": 1}},
    "attempts": [{**an_attempt(), "epoch": 1000, "durationMs": 5}],
    "replayAttempts": [
        {"replayId": "r", "epoch": 1, "kind": "operator", "by": "b", "why": "w", "batchId": "b", "version": 1,
         "at": NOON, "outcome": "failed_same", "endedAt": NOON, "errorType": "E", "errorReason": "r"}
    ],
    "versions": [{"version": 1, "epoch": 1, "payload": "{}", "diff": "d", "by": "b", "at": NOON, "why": "w"}],
    "formerMessages": [{"originalMessage": "{}", "lastFailedAt": NOON, "until": NOON}],
    "notes": [{"at": NOON, "by": "b", "text": "t"}],
    "history": [{"at": NOON, "who": "w", "what": "dead_letter", "why": "y", "batchId": "b"}],
    "replay": {"id": "r", "epoch": 1, "kind": "operator", "by": "b", "lockedAt": NOON, "from": "dlq_manual"},
}  # fmt: skip
_AS_READ: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    """Letters each of which has one field that is wrong or missing, with the name of it."""
    for name in NAMES:
        for value in ODD:
            yield f"{name}={value!r}", a_document(**{name: value})
        yield f"no {name}", {key: value for key, value in a_document().items() if key != name}
    for name, held in INNER.items():
        entry = held[0] if isinstance(held, list) else held
        beside = {"status": "dlq_processing"} if name == "replay" else {"versions": INNER["versions"]}
        for key in entry:
            for value in (FIRST, LAST, BEYOND[0], None, "x", -1, 1.5, [1, [2]], {"$x": 1}, Code("x")):
                odd = {**entry, key: value}
                found = a_document(**{**beside, name: [odd] if isinstance(held, list) else odd})
                yield f"{name}.{key}={value!r}", found


def shown(letter: DeadLetter) -> None:
    """Everything that is made of a letter without asking a store."""
    masking, now = MaskingPolicy(), datetime.now(UTC)
    for zone in ZONES:
        explain(letter, ReplayPolicy(time_zone=zone), now)
    for policy in (masking, None):
        json.dumps(contract.LETTER_SUMMARY.write(letter, policy))
        json.dumps(contract.LETTER.write(letter, policy))
        json.dumps(exporting.record(letter, policy), allow_nan=False)
        exporting.row(letter, ReplayPolicy(), policy, now)
    letter_story.timeline(letter, masking)
    letter_story.history(letter, masking)
    letter_story.versions(letter, masking)
    letter_story.former(letter, masking)
    letter_story.next_words(letter)
    letter_page.facts(letter, masking)
    letter_page.system(letter, masking)
    letter_page.payload(letter, masking)
    letter_page.equivalent_commands(letter, "http://here")
    for entry in (*letter.notes, *letter.history, *letter.attempts, *letter.versions):
        for moment in ("at", "startedAt", "until"):
            for write in (console.instant, console.clock, console.iso, console.ago):
                write(entry.get(moment))
    order = order_of(letter, 10**13, force=False)
    assert order.traceparent == traceparent_of(order.traceparent)
    assert 0 <= order.queued_at_ms <= 10**13


def test_a_letter_with_anything_in_it_is_shown_or_is_no_letter() -> None:
    unreadable = set()
    for name, document in documents():
        stored = bson.decode(bson.encode({"_id": ObjectId(), **document}), _AS_READ)
        try:
            letter = letter_from(stored)
        except Unreadable:
            unreadable.add(name.split("=")[0].removeprefix("no "))
            continue
        try:
            shown(letter)
        except Exception as error:
            raise AssertionError(name) from error

    assert unreadable == {"messageId", "lastFailedAt", "status"}


# --- with a store ---

pytestmark = [
    pytest.mark.django_db, pytest.mark.mongo, pytest.mark.redis, pytest.mark.usefixtures("redis_client", "intake"),
]  # fmt: skip
LIST = "/admin/dlq_app/deadletter/"


@pytest.fixture
def api(store: Store) -> Client:
    return with_key("admin")


def every_list(administrator: Client, api: Client) -> dict[str, Any]:
    """What the lists answer; none may fail."""
    found: dict[str, Any] = {}
    for sort in SORTS:
        cursor, ids = "", []
        for _ in range(50):
            answer = api.get("/api/dlq", {"sort": sort, "limit": "6", **({"cursor": cursor} if cursor else {})})
            assert answer.status_code == 200, (sort, answer.content)
            ids += [one["messageId"] for one in answer.json()["data"]]
            cursor = answer.json()["pagination"]["nextCursor"] or ""
            if not cursor:
                break
        assert len(ids) == len(set(ids)), sort
        found[sort] = ids
    for order in ("1", "-1", "6", "-6"):
        assert administrator.get(LIST, {"o": order}).status_code == 200, order
    for page in ("/admin/", "/admin/dlq_app/lettergroup/", "/admin/dlq_app/replaybatch/add/?all=1"):
        assert administrator.get(page).status_code == 200, page
    for path in ("/api/dlq/stats", "/api/dlq/groups", "/api/system/overview"):
        assert api.get(path).status_code == 200, path
    found["csv"] = b"".join(api.get("/api/dlq/export", {"format": "csv"}).streaming_content).decode()  # type: ignore[attr-defined]
    found["jsonl"] = b"".join(api.get("/api/dlq/export").streaming_content).decode()  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_times_at_the_edge_of_the_calendar_are_shown_and_replayable(
    store: Store, administrator: Client, api: Client, settings: Any, zone: str
) -> None:
    settings.TIME_ZONE = zone
    settings.REPLAY_POLICY = {"time_zone": zone}
    names = ("nextRetryAt", "queuedAt", "createdAt", "firstFailedAt", "updatedAt", "resolvedAt")
    times = (*EDGES, *BEYOND)
    # Each field has each time in one of the letters.
    put: list[dict[str, Any]] = [
        {**a_document(f"m-{n}"), **{name: times[(n + place) % 6] for place, name in enumerate(names)}} for n in range(6)
    ]
    put += [{**a_document(f"lastFailedAt-{n}"), "lastFailedAt": edge} for n, edge in enumerate(times)]
    readable = [one for one in put if one["lastFailedAt"] not in BEYOND]
    store["dead_letters"].insert_many(put)

    found = every_list(administrator, api)

    assert len(readable) == len(put) - len(BEYOND)
    for letter in readable:
        assert letter["messageId"] in found["messageId"]
        assert letter["messageId"] in found["-createdAt"]
        assert letter["messageId"] in found["jsonl"]
        assert administrator.get(f"{LIST}{letter['_id']}/change/").status_code == 200
        out = StringIO()
        call_command("show_dead_letter", "--", letter["messageId"], stdout=out)
        assert json.loads(out.getvalue())["messageId"] == letter["messageId"]
        assert isinstance(dead_letters.replay(letter["messageId"], actor="t"), Replayed)


def test_documents_that_are_no_letters_are_left_out_and_named(
    store: Store, letters: Letters, administrator: Client, api: Client
) -> None:
    good = [a_document("m-1"), a_document("m-2")]
    bad = [
        {**a_document("m-3"), "lastFailedAt": DatetimeMS(2**62)},
        {**a_document("m-4"), "lastFailedAt": "yesterday"},
        {**a_document("m-5"), "status": "lost"},
        {**a_document("m-6"), "_id": 5},
        {**a_document("m-7"), "messageId": 7},
        {"note": "<script>"},
    ]
    store["dead_letters"].insert_many([*good, *bad])
    names = {str(one["_id"]) for one in bad}

    found = every_list(administrator, api)

    assert found["messageId"] == ["m-1", "m-2"]
    assert {one["_id"] for one in api.get("/api/dlq").json()["unreadable"]} == names
    end = json.loads(found["jsonl"].splitlines()[-1])["end"]
    assert (end["count"], end["unreadable"], set(end["unreadableIds"])) == (2, len(bad), names)
    page = administrator.get(LIST).content.decode()
    assert "6 documents in MongoDB are not dead letters" in " ".join(page.split())
    assert all(f">{name}<" in page for name in names)


def test_looking_for_them_reads_no_letter(store: Store, letters: Letters) -> None:
    store["dead_letters"].insert_many([a_document(f"m-{n}") for n in range(200)])
    question = {"find": "dead_letters", "filter": {"$or": queries.UNREADABLE}, "limit": 20}
    plan = store.command("explain", question, verbosity="executionStats")

    assert letters.unreadable(20) == []
    assert plan["executionStats"]["totalDocsExamined"] == 0
    assert plan["executionStats"]["totalKeysExamined"] < 50


def test_a_batch_counts_them_and_leaves_them_out(store: Store, letters: Letters, intake: MemoryIntake) -> None:
    rig = Rig(letters, intake)
    rig.die("m-1", "m-2")
    store["dead_letters"].insert_one(a_document("m-3", lastFailedAt="yesterday"))

    dry = with_key("admin").post(
        "/api/dlq/replay-batch", {"all": True, "filter": {}, "dryRun": True}, content_type="application/json"
    )

    assert dry.json()["data"]["count"] == 2
    assert dry.json()["data"]["leftOut"] == [{"why": "unreadable", "count": 1}]
    assert rig.start().total == 2


def test_walking_them_all_still_ends(store: Store, letters: Letters) -> None:
    store["dead_letters"].insert_many([a_document("m-1"), {**a_document("m-2"), "messageId": 3}])

    met = list(letters.walk(LetterCriteria()))

    assert [isinstance(one, Unreadable) for one in met] == [False, True]


def test_a_cursor_reaches_past_dates_that_python_does_not_know() -> None:
    cursor = Cursor(SORTS["createdAt"], (2**62, "0" * 24))

    assert Cursor.decode(cursor.encode()) == cursor
    assert Cursor.decode(Cursor(SORTS["createdAt"], (LAST, "0" * 24)).encode()).values[0] == LAST
    assert timedelta(days=3_000_000) < LAST - FIRST
