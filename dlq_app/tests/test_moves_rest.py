"""Moves of many letters over REST: a dry run, then exactly the letters that it counted."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database
from pytest_django import Settings

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.rest import moves
from dlq_app.services import dead_letters
from dlq_app.store.repository import Letters
from dlq_app.testing import a_death, a_document
from dlqsite.tests.people import audited, with_key

pytestmark = [
    pytest.mark.mongo,
    pytest.mark.redis,
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client", "letters", "intake"),
]
URL = "/api/dlq/moves"
TIMEOUTS = {"filter": {"errorType": "TIMEOUT_ERROR"}}


@pytest.fixture
def olga() -> Client:
    return with_key("replay", name="olga")


def post(client: Client, body: object, path: str = URL) -> Any:
    return client.post(path, json.dumps(body), content_type="application/json")


def die(*ids: str, **changes: Any) -> None:
    dead_letters.record_outcomes([a_death(message_id, **changes) for message_id in ids], [])


def counted(client: Client, move: str, **which: Any) -> dict[str, Any]:
    answer = post(client, {"move": move, "dryRun": True, **(which or TIMEOUTS)})
    assert answer.status_code == 200, answer.json()
    found: dict[str, Any] = answer.json()["data"]
    return found


def moved(client: Client, move: str, token: str, **which: Any) -> Any:
    return post(client, {"move": move, "token": token, "reason": "the bank is back", **(which or TIMEOUTS)})


def statuses(store: Database[dict[str, Any]]) -> dict[str, str]:
    return {row["messageId"]: row["status"] for row in store.dead_letters.find()}


def test_a_dry_run_counts_and_changes_nothing(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1", "m-2")
    die("other", error_type="DATABASE_ERROR")

    shown = counted(olga, "discard")

    assert (shown["count"], shown["isTooMany"], shown["leftOut"]) == (2, False, 0)
    assert {one["messageId"] for one in shown["sample"]} == {"m-1", "m-2"}
    assert set(statuses(store).values()) == {"dlq_pending"}
    assert not audited().exists()


def test_exactly_the_counted_letters_are_moved(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1", "m-2", "m-3")
    shown = counted(olga, "discard")
    later = datetime.now(UTC) + timedelta(minutes=1)
    dead_letters.add_note("m-2", actor="user:mira", text="wait for me")
    store.dead_letters.update_one({"messageId": "m-2"}, {"$set": {"updatedAt": later}})
    store.dead_letters.insert_one(a_document("late", updatedAt=later))

    answer = moved(olga, "discard", shown["token"])

    assert answer.json()["data"] == {"move": "discard", "count": 2, "asked": 3, "skipped": 1}
    assert statuses(store) == {
        "m-1": "dlq_resolved",
        "m-2": "dlq_pending",
        "m-3": "dlq_resolved",
        "late": "dlq_pending",
    }
    line = audited().get()
    assert (line.who, line.count, line.why) == ("key:olga", 2, "the bank is back")
    assert line.name == "3 dead letters: errorType=TIMEOUT_ERROR"
    assert line.what == "discarded 2 of 3"


def test_the_same_request_again_moves_nothing_more(olga: Client) -> None:
    die("m-1", "m-2")
    token = counted(olga, "resolve")["token"]

    first, again = moved(olga, "resolve", token), moved(olga, "resolve", token)

    assert (first.json()["data"]["count"], again.json()["data"]["count"]) == (2, 0)


def test_a_move_that_was_interrupted_is_resumed_by_the_same_request(
    olga: Client, store: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = datetime.now(UTC) - timedelta(hours=1)
    store.dead_letters.insert_many(
        [a_document(f"m-{n:04}", updatedAt=earlier, lastFailedAt=earlier) for n in range(700)]
    )
    token = counted(olga, "discard")["token"]
    real = Letters.move_many

    def interrupted(self: Letters, *args: Any, **options: Any) -> Any:
        yield next(real(self, *args, **options))
        raise StoreUnavailable("MongoDB is not responding.")

    with monkeypatch.context() as patched:
        patched.setattr(Letters, "move_many", interrupted)
        broken = moved(olga, "discard", token)
    rest = moved(olga, "discard", token)

    assert broken.status_code == 503
    assert "500 of 700 letters were discarded; repeat the request" in broken.json()["detail"]
    assert rest.json()["data"]["count"] == 200
    assert set(statuses(store).values()) == {"dlq_resolved"}
    assert [line.count for line in audited().order_by("pk")] == [500, 200]


@pytest.mark.parametrize(
    ("move", "status"), [("resolve", "dlq_resolved"), ("discard", "dlq_resolved"), ("set-aside", "dlq_manual")]
)
def test_every_move_can_be_undone(olga: Client, store: Database[dict[str, Any]], move: str, status: str) -> None:
    die("m-1", "m-2")
    moved(olga, move, counted(olga, move)["token"])
    assert set(statuses(store).values()) == {status}

    if status == "dlq_resolved":
        moved(olga, "reopen", counted(olga, "reopen")["token"])
        assert set(statuses(store).values()) == {"dlq_manual"}
        assert not store.dead_letters.count_documents(
            {"$or": [{"resolvedAt": {"$exists": 1}}, {"resolution": {"$exists": 1}}]}
        )
    moved(olga, "resume", counted(olga, "resume")["token"])

    assert set(statuses(store).values()) == {"dlq_pending"}
    assert all(row["nextRetryAt"] > row["updatedAt"] for row in store.dead_letters.find())


def test_letters_are_named_by_either_id(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1", "m-2", "m-3")
    by_id = str(store.dead_letters.find_one({"messageId": "m-3"})["_id"])  # type: ignore[index]
    ids = {"ids": ["m-1", by_id]}

    moved(olga, "set-aside", counted(olga, "set-aside", **ids)["token"], **ids)

    assert statuses(store) == {"m-1": "dlq_manual", "m-2": "dlq_pending", "m-3": "dlq_manual"}


def test_a_token_serves_only_the_letters_that_it_counted(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1")
    token = counted(olga, "discard")["token"]

    for move, which in (
        ("resolve", TIMEOUTS),
        ("discard", {"filter": {"status": "dlq_pending"}}),
        ("discard", {"all": True}),
    ):
        answer = moved(olga, move, token, **which)
        assert answer.status_code == 400
        assert [one["field"] for one in answer.json()["errors"]] == ["token"]
    assert moved(olga, "discard", f"{token}x").status_code == 400
    assert statuses(store) == {"m-1": "dlq_pending"}


def test_a_token_expires(olga: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1")
    token = counted(olga, "discard")["token"]
    monkeypatch.setattr(moves, "TOKEN_AGE_S", -1)

    answer = moved(olga, "discard", token)

    assert "not from a dry run of the last hour" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"move"}),
        ({"move": "bury", **TIMEOUTS}, {"move"}),
        ({"move": "discard"}, {"filter"}),
        ({"move": "discard", "filter": {}, "dryRun": True}, {"filter"}),
        ({"move": "discard", "filter": {"errorType": ""}, "dryRun": True}, {"filter.errorType"}),
        ({"move": "discard", "ids": ["m-1"], "all": True, "dryRun": True}, {"ids"}),
        ({"move": "discard", **TIMEOUTS}, {"token", "reason"}),
        ({"move": "discard", "token": "x", **TIMEOUTS}, {"reason"}),
        ({"move": "discard", "token": "x", "reason": " ", **TIMEOUTS}, {"reason"}),
        ({"move": "discard", "dryRun": True, "extra": 1, **TIMEOUTS}, {"extra"}),
    ],
)
def test_a_bad_request_names_each_field(olga: Client, body: dict[str, Any], fields: set[str]) -> None:
    answer = post(olga, body)

    assert answer.status_code == 400
    assert {one["field"] for one in answer.json()["errors"]} == fields


def test_nothing_to_move_gives_no_token(olga: Client) -> None:
    die("m-1")

    assert counted(olga, "reopen")["token"] is None


def test_many_letters_need_approval(olga: Client, settings: Settings) -> None:
    settings.DLQ_APPROVAL_SIZE = 1
    die("m-1", "m-2")
    token = counted(olga, "discard")["token"]

    refused, allowed = moved(olga, "discard", token), moved(with_key("admin"), "discard", token)

    assert (refused.status_code, refused.json()["code"]) == (403, "approval_needed")
    assert allowed.json()["data"]["count"] == 2


def test_readers_may_not_move(olga: Client) -> None:
    assert post(with_key("read"), {"move": "discard", "dryRun": True, **TIMEOUTS}).status_code == 403


# --- one letter ---


def test_a_resolved_letter_is_reopened_with_its_reason(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1")
    post(olga, {}, "/api/dlq/m-1/resolve")

    answer = post(olga, {"reason": "wrong letter"}, "/api/dlq/m-1/reopen")

    shown = answer.json()["data"]
    assert (shown["status"], shown["resolution"], shown["resolvedAt"], shown["nextRetryAt"]) == (
        "dlq_manual",
        None,
        None,
        None,
    )
    assert (shown["history"][-1]["what"], shown["history"][-1]["why"]) == ("reopen", "wrong letter")
    assert [line.said for line in audited().order_by("pk")] == ["resolve", "reopen: wrong letter"]


def test_reopening_needs_a_reason(olga: Client) -> None:
    die("m-1")
    post(olga, {}, "/api/dlq/m-1/discard")

    assert post(olga, {}, "/api/dlq/m-1/reopen").status_code == 400
    assert post(olga, {"reason": " "}, "/api/dlq/m-1/reopen").status_code == 400


def test_an_open_or_replayed_letter_cannot_be_reopened(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1")
    store.dead_letters.insert_one(a_document("done", status="dlq_resolved", resolution="replayed"))

    opened, done = (post(olga, {"reason": "x"}, f"/api/dlq/{ref}/reopen") for ref in ("m-1", "done"))

    assert (opened.status_code, done.status_code) == (409, 409)
    assert "a replay succeeded" in done.json()["detail"]
    assert counted(olga, "reopen", all=True)["count"] == 0


def test_only_letters_with_automatic_replays_left_are_resumed(olga: Client, store: Database[dict[str, Any]]) -> None:
    manual: dict[str, Any] = {"status": "dlq_manual", "nextRetryAt": None}
    store.dead_letters.insert_many(
        [
            a_document("aside", strategy="immediate", dlqRetryCount=1, **manual),
            a_document("night", strategy="off_peak", dlqRetryCount=0, **manual),
            a_document("used", strategy="immediate", dlqRetryCount=5, **manual),
            a_document("never", strategy="manual", **manual),
            a_document("odd", strategy="immediate", dlqRetryCount=[1], **manual),
        ]
    )

    shown = counted(olga, "resume", all=True)
    answer = moved(olga, "resume", shown["token"], all=True)

    assert answer.json()["data"]["count"] == 2
    assert {name for name, status in statuses(store).items() if status == "dlq_pending"} == {"aside", "night"}
    for ref, why in (("used", "all 5 automatic replays are used"), ("never", "has no automatic replays")):
        refused = post(olga, {}, f"/api/dlq/{ref}/resume")
        assert refused.status_code == 409
        assert why in refused.json()["detail"]


def test_a_resumed_letter_is_replayed_when_it_is_due(olga: Client, letters: Letters) -> None:
    die("m-1")
    post(olga, {}, "/api/dlq/m-1/set-aside")

    shown = post(olga, {"reason": "the bank is back"}, "/api/dlq/m-1/resume").json()["data"]

    assert shown["status"] == "dlq_pending"
    due = datetime.fromisoformat(shown["nextRetryAt"])
    assert [one.message_id for one in letters.due(due, 10)] == ["m-1"]
