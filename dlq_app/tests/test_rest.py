"""Dead letters over REST."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database

from dlq_app import conf
from dlq_app.domain.masking import MASK
from dlq_app.domain.versions import ONLY_HIDDEN
from dlq_app.services import dead_letters
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake, a_death, a_document
from dlqsite.tests.people import audited, staff, with_key

pytestmark = [pytest.mark.mongo, pytest.mark.redis, pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]


def post(client: Client, path: str, body: object = None) -> Any:
    return client.post(path, json.dumps(body if body is not None else {}), content_type="application/json")


def test_it_lists_letters_newest_failure_first(letters: Letters, vic: Client) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}", died_at=a_death().died_at.replace(minute=n)) for n in range(3)], [])

    answer = vic.get("/api/dlq")

    assert answer.status_code == 200
    assert [item["messageId"] for item in answer.json()["data"]] == ["m-2", "m-1", "m-0"]
    assert answer.json()["pagination"] == {
        "page": 1,
        "limit": 20,
        "total": 3,
        "totalIsCapped": False,
        "pages": 1,
        "nextCursor": None,
    }


def test_a_list_leaves_out_what_is_heavy(letters: Letters, vic: Client) -> None:
    dead_letters.record_outcomes([a_death(error_reason="x" * 5000)], [])

    (item,) = vic.get("/api/dlq").json()["data"]

    assert len(item["errorReason"]) == 300
    assert not {"errorStack", "originalMessage", "payload", "attempts", "history"} & set(item)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("status=dlq_manual", {"m-2"}),
        ("status=dlq_manual&status=dlq_pending", {"m-1", "m-2"}),
        ("errorType=VALIDATION_ERROR", {"m-2"}),
        ("errorKind=transient", {"m-1"}),
        ("type=payment.refund", {"m-2"}),
        ("source=shop", {"m-1"}),
        ("priority=high", {"m-2"}),
        ("tag=eu", {"m-1"}),
        ("from=2026-11-24T12:30:00Z", {"m-2"}),
        ("to=2026-11-24T12:30:00%2B00:00", {"m-1"}),
        ("search=gateway", {"m-2"}),
        ("search=GATEWAY%20refused", {"m-2"}),
        ("search=gateway%20elsewhere", set()),
        ("search=m-", {"m-1", "m-2"}),
        ("search=m-1", {"m-1"}),
        ("search=validation_error", {"m-2"}),
        ("search=.*", None),
        ("limit=1&sort=messageId", {"m-1"}),
    ],
)
def test_it_filters(letters: Letters, vic: Client, query: str, found: set[str] | None) -> None:
    dead_letters.record_outcomes(
        [
            a_death("m-1"),
            a_death(
                "m-2",
                error_type="VALIDATION_ERROR",
                error_kind="permanent",
                error_reason="the gateway refused the amount",
                type="payment.refund",
                source="app",
                priority="high",
                tags=(),
                died_at=a_death().died_at.replace(hour=13),
            ),
        ],
        [],
    )

    answer = vic.get(f"/api/dlq?{query}")

    if found is None:
        assert answer.status_code == 400
    else:
        assert {item["messageId"] for item in answer.json()["data"]} == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status[$ne]=x", "status[$ne]"),
        ("status=$ne", "status"),
        ("$where=1", "$where"),
        ("metadata.source=shop", "metadata.source"),
        ("from=yesterday", "from"),
        ("from=2026-11-24T12:00:00", "from"),
        ("from=2026-11-24T12:00:00Z&to=2026-11-24T11:00:00Z", "to"),
        ("from=9999-12-31T23:59:59-23:59", "from"),
        ("limit=101", "limit"),
        ("limit=0", "limit"),
        ("limit=1e1", "limit"),
        ("page=0", "page"),
        ("page=501", "page"),
        ("sort=$natural", "sort"),
        ("sort=errorStack", "sort"),
        ("cursor=garbage", "cursor"),
        ("cursor=WyJtZXNzYWdlSWQiLCJ4Il0!", "cursor"),
        ("cursor=eyIkZ3QiOjF9", "cursor"),
        ("cursor=WyItbGFzdEZhaWxlZEF0Iix7IiRndCI6MX0sIjAiXQ", "cursor"),
        ("search=%00", "search"),
        ("fingerprint=xyz", "fingerprint"),
        ("errorType=%00", "errorType"),
        ("tag=%00", "tag"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_nothing_from_outside_becomes_an_operator(vic: Client, query: str, field: str) -> None:
    answer = vic.get(f"/api/dlq?{query}")

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_filter"
    assert field in {error["field"] for error in answer.json()["errors"]}


def test_it_shows_a_letter_by_either_id(letters: Letters, vic: Client) -> None:
    dead_letters.record_outcomes([a_death()], [])

    by_message = vic.get("/api/dlq/m-1").json()["data"]

    assert vic.get(f"/api/dlq/{by_message['_id']}").json()["data"] == by_message
    assert by_message["payload"] == {"orderId": 5511870, "amount": "129.00"}
    assert by_message["originalMessage"] == a_death().body.decode()
    assert by_message["attempts"][0]["startedAt"] == "2026-11-24T11:59:50.000Z"
    assert by_message["explanation"].startswith(
        "TIMEOUT_ERROR is transient; 4 of 4 attempts failed over 7.3 s; next automatic replay at 12:01"
    )
    assert by_message["explanation"].endswith("(1 of 5)")


@pytest.mark.parametrize("word", ["stats", "export", "replay-batches", "by-message"])
def test_a_message_that_is_called_like_an_address_is_found_by_message(
    letters: Letters, vic: Client, olga: Client, word: str
) -> None:
    dead_letters.record_outcomes([a_death(word)], [])

    shown = vic.get(f"/api/dlq/by-message/{word}").json()["data"]

    assert shown["messageId"] == word
    assert vic.get(f"/api/dlq/{shown['_id']}").json()["data"] == shown
    assert post(olga, f"{shown['links']['self']}/set-aside").status_code == 200


def test_a_message_that_is_called_like_another_letter_is_found_by_message(letters: Letters, vic: Client) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    taken = vic.get("/api/dlq/m-1").json()["data"]["_id"]
    dead_letters.record_outcomes([a_death(taken)], [])

    assert vic.get(f"/api/dlq/{taken}").json()["data"]["messageId"] == "m-1"
    assert vic.get(f"/api/dlq/by-message/{taken}").json()["data"]["messageId"] == taken
    assert vic.get("/api/dlq/by-message/nobody").json()["code"] == "dead_letter_not_found"


def test_it_hides_secrets_until_they_are_revealed(letters: Letters, vic: Client) -> None:
    dead_letters.record_outcomes(
        [a_death(body=b'{"card": {"token": "tok_123"}}', error_reason="bad password=hunter2")], []
    )

    shown = vic.get("/api/dlq/m-1").json()["data"]
    refused = post(vic, "/api/dlq/m-1/reveal")
    revealed = post(with_key("admin", name="ada"), "/api/dlq/m-1/reveal", {"reason": "fraud case 7"}).json()["data"]

    assert "tok_123" not in json.dumps(shown)
    assert "hunter2" not in json.dumps(shown)
    assert "hunter2" not in json.dumps(vic.get("/api/dlq").json())
    assert shown["masked"] is True
    assert refused.status_code == 403
    assert revealed["payload"] == {"card": {"token": "tok_123"}}
    assert revealed["history"][-1]["what"] == "reveal"
    assert revealed["history"][-1]["who"] == "key:ada"


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": " "}, {"reason": None}, {"reason": "x" * 2001}])
def test_revealing_needs_a_reason(letters: Letters, body: dict[str, Any]) -> None:
    dead_letters.record_outcomes([a_death(body=b'{"token": "tok_123"}')], [])

    answer = post(with_key("admin", name="ada"), "/api/dlq/m-1/reveal", body)

    assert answer.status_code == 400
    assert [error["field"] for error in answer.json()["errors"]] == ["reason"]
    found = letters.find("m-1")
    assert found is not None
    assert "reveal" not in [entry["what"] for entry in found.history]


def test_secrets_of_tags_source_reasons_and_batches_are_hidden(letters: Letters, vic: Client) -> None:
    death = a_death(tags=["pin=8842", "eu"], source="https://u:s3cret@shop")
    dead_letters.record_outcomes([death], [])
    dead_letters.set_aside("m-1", actor="key:ada", reason="postgres://ann:s3cret@db is down")
    dead_letters.add_note("m-1", actor="key:ada", text="the password is s3cret")

    shown = json.dumps([vic.get("/api/dlq").json(), vic.get("/api/dlq/m-1").json()])

    assert "s3cret" not in shown
    assert "8842" not in shown


def test_search_confirms_no_masked_word(letters: Letters, vic: Client, store: Database[dict[str, Any]]) -> None:
    def found(word: str) -> int:
        groups, list_ = vic.get(f"/api/dlq/groups?search={word}"), vic.get(f"/api/dlq?search={word}")
        return len(list_.json()["data"]) + len(groups.json()["data"])

    reason = "login of amqp://bob:swordfish@mq refused, password=xyzzy"
    dead_letters.record_outcomes(
        [a_death("m-1", error_reason=reason), a_death("m-2", error_reason="swordfish sold")], []
    )
    dead_letters.record_outcomes([a_death("m-2", error_reason=reason, epoch=a_death().epoch + 5)], [])
    assert found("refused")
    assert not found("swordfish") + found("xyzzy")

    store["dead_letters"].update_one({"messageId": "m-1"}, {"$set": {"searchWords": ["refused", "swordfish"]}})
    assert vic.get("/api/dlq?search=swordfish").json()["data"]

    step = letters.refresh_words("", conf.masking_policy())

    assert (step.read, step.changed, step.last) == (2, 1, "")
    assert not found("swordfish")
    assert found("refused")
    assert letters.refresh_words("", conf.masking_policy()).changed == 0
    assert letters.refresh_words("m-1", conf.masking_policy()).read == 1


def test_the_difference_of_a_version_shows_no_secret(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    body = b'{"credentials": {"value": "s3cr3t"}, "pin": 8842, "url": "amqp://u:s3cr3t@mq", "note": 1}'
    dead_letters.record_outcomes([a_death(body=body)], [])
    payload = olga.get("/api/dlq/m-1").json()["data"]["payload"] | {"note": 2, "pin": 9953}

    assert post(olga, "/api/dlq/m-1/replay", {"payload": payload}).status_code == 202

    (version,) = olga.get("/api/dlq/m-1").json()["data"]["versions"]
    assert '-  "note": 1' in version["diff"]
    for secret in ("s3cr3t", "8842", "9953"):
        assert secret not in json.dumps(version)
    found = letters.find("m-1")
    assert found is not None
    assert "s3cr3t" in str(found.versions[0]["payload"])
    revealed = post(with_key("admin", name="ada"), "/api/dlq/m-1/reveal", {"reason": "case 7"}).json()["data"]
    assert "8842" in revealed["versions"][0]["diff"]


def test_an_edit_of_a_secret_alone_says_so(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(body=b'{"pin": 8842}')], [])

    assert post(olga, "/api/dlq/m-1/replay", {"payload": {"pin": 9953}}).status_code == 202

    (version,) = olga.get("/api/dlq/m-1").json()["data"]["versions"]
    assert version["diff"] == ONLY_HIDDEN


def test_an_unknown_letter_is_not_found(store: Database[dict[str, Any]], vic: Client, olga: Client) -> None:
    for answer in (vic.get("/api/dlq/nobody"), post(olga, "/api/dlq/nobody/replay"), post(olga, "/api/dlq/0/resolve")):
        assert answer.status_code == 404
        assert answer.json()["code"] == "dead_letter_not_found"


def test_it_replays(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])

    answer = post(olga, "/api/dlq/m-1/replay", {"reason": "the bank is back"})

    assert answer.status_code == 202
    assert answer.json()["data"]["messageId"] == "m-1"
    assert answer.json()["data"]["status"] == "dlq_processing"
    shown = olga.get("/api/dlq/m-1").json()["data"]
    assert shown["replay"]["id"] == answer.json()["data"]["replayId"]
    assert shown["replayAttempts"][0]["by"] == "key:olga"
    assert shown["replayAttempts"][0]["why"] == "the bank is back"


def test_a_second_replay_is_told_that_one_is_in_flight(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])
    post(olga, "/api/dlq/m-1/replay")

    answer = post(olga, "/api/dlq/m-1/replay")

    assert answer.status_code == 409
    assert answer.json()["code"] == "replay_in_flight"


def test_a_resolved_letter_is_replayed_only_by_force(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])
    post(olga, "/api/dlq/m-1/resolve", {"reason": "done by phone"})

    refused = post(olga, "/api/dlq/m-1/replay")
    forced = post(olga, "/api/dlq/m-1/replay", {"force": True})

    assert refused.status_code == 409
    assert refused.json()["code"] == "illegal_state"
    assert "m-1 was resolved by the API key olga at" in refused.json()["detail"]
    assert forced.status_code == 202


@pytest.mark.parametrize(
    "payload", ['{"amount": 1.10, "n": 1E3, "ids": [9007199254740993, 0.30000000000000004440892]}', '"\\u00e9"', "null"]
)
def test_an_edited_payload_runs_as_it_was_written(
    letters: Letters, olga: Client, intake: MemoryIntake, payload: str
) -> None:
    dead_letters.record_outcomes([a_death()], [])

    answer = olga.post("/api/dlq/m-1/replay", f'{{"payload":{payload}}}', content_type="application/json")

    assert answer.status_code == 202
    assert intake.forwarded[-1].run_body == payload.replace("\\u00e9", "é").encode()


def test_a_secret_that_was_hidden_from_who_edits_is_put_back(
    letters: Letters, olga: Client, intake: MemoryIntake
) -> None:
    dead_letters.record_outcomes([a_death(body=b'{"token": "tok_1", "orderId": 1, "to": {"pin": 17}}')], [])
    shown = olga.get("/api/dlq/m-1").json()["data"]["payload"]

    misplaced = post(olga, "/api/dlq/m-1/replay", {"payload": {**shown, "apiKey": MASK}})
    assert (misplaced.status_code, misplaced.json()["code"]) == (400, "invalid_payload")
    assert misplaced.json()["errors"][0]["field"] == "payload.apiKey"
    assert intake.forwarded == []

    assert post(olga, "/api/dlq/m-1/replay", {"payload": {**shown, "orderId": 2}}).status_code == 202
    assert intake.forwarded[-1].run_body == b'{"token": "tok_1", "orderId": 2, "to": {"pin": 17}}'
    (version,) = olga.get("/api/dlq/m-1").json()["data"]["versions"]
    assert "tok_1" not in json.dumps(version)


def test_an_open_breaker_refuses_a_replay(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])
    intake.open_types["payment.capture"] = 12_000

    answer = post(olga, "/api/dlq/m-1/replay")

    assert answer.status_code == 503
    assert answer.json()["code"] == "circuit_open"
    assert answer["Retry-After"] == "12"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reason": 1}, "reason"),
        ({"force": "yes"}, "force"),
        ({"status": "dlq_failed"}, "status"),
        ({"$set": {}}, "$set"),
        ([], ""),
        ({"reason": "x" * 2001}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"reason": "\ud800"}, "reason"),
    ],
)
def test_it_names_what_is_wrong_with_a_replay(
    letters: Letters, olga: Client, intake: MemoryIntake, body: object, field: str
) -> None:
    dead_letters.record_outcomes([a_death()], [])

    answer = post(olga, "/api/dlq/m-1/replay", body)

    assert answer.status_code == 400
    assert field in {error["field"] for error in answer.json()["errors"]}


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"reason": "a", "reason": "b"}', "reason"),
        ('{"force": true, "payload": {"a": 1, "a": 2}, "force": false}', "force"),
        ('{"payload": 1, "payload": 2}', "payload"),
    ],
)
def test_a_field_that_is_given_twice_is_refused(
    letters: Letters, olga: Client, intake: MemoryIntake, raw: str, field: str
) -> None:
    dead_letters.record_outcomes([a_death()], [])

    answer = olga.post("/api/dlq/m-1/replay", raw, content_type="application/json")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert answer.json()["errors"] == [{"field": field, "message": "is given more than once"}]
    assert intake.forwarded == []


def test_a_filter_that_is_given_twice_is_refused(letters: Letters, olga: Client) -> None:
    dead_letters.record_outcomes([a_death()], [])
    raw = '{"dryRun": true, "filter": {"status": "dlq_failed", "type": "demo", "status": "dlq_pending"}}'

    answer = olga.post("/api/dlq/replay-batch", raw, content_type="application/json")

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "filter.status"


@pytest.mark.parametrize(
    "path", ["m-1/replay", "m-1/resolve", "m-1/notes", "import", "groups/0123456789abcdef/resolve", "replay-batch"]
)
def test_an_action_takes_no_parameters_in_its_address(letters: Letters, path: str) -> None:
    """Whoever says `?dryRun=true` must not get the real thing."""
    dead_letters.record_outcomes([a_death()], [])
    everything = with_key("read", "replay", "admin", name="ada")

    answer = everything.post(
        f"/api/dlq/{path}?dryRun=true",
        "",
        content_type="application/x-ndjson" if path == "import" else "application/json",
    )

    assert answer.status_code == 400
    assert answer.json()["errors"] == [{"field": "dryRun", "message": "unknown parameter"}]


def test_what_an_edited_payload_repeats_is_its_own(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])

    answer = olga.post("/api/dlq/m-1/replay", '{"payload": {"a": 1, "a": 2}}', content_type="application/json")

    assert answer.status_code == 202
    assert intake.forwarded[-1].run_body == b'{"a": 1, "a": 2}'


def test_an_edited_payload_is_bounded_as_at_intake(letters: Letters, olga: Client, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])

    answer = post(olga, "/api/dlq/m-1/replay", {"payload": "x" * (256 * 1024)})

    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert intake.forwarded == []


def test_a_body_that_is_no_object_is_called_so(olga: Client) -> None:
    assert post(olga, "/api/dlq/m-1/replay", []).json()["detail"] == "must be a JSON object"


@pytest.mark.parametrize("raw", ["{", "[" * 100_000, '{"payload": NaN}', "\xff"])
def test_broken_json_is_the_clients_mistake(olga: Client, raw: str) -> None:
    answer = olga.post("/api/dlq/m-1/replay", raw, content_type="application/json")

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"


def test_a_body_that_is_too_large_is_refused(olga: Client) -> None:
    answer = post(olga, "/api/dlq/m-1/replay", {"payload": "x" * 1_100_000})

    assert answer.status_code == 413
    assert answer.json()["code"] == "payload_too_large"


@pytest.mark.parametrize(
    ("verb", "status", "resolution"),
    [
        ("resolve", "dlq_resolved", "resolved_by_hand"),
        ("discard", "dlq_resolved", "discarded"),
        ("set-aside", "dlq_manual", None),
    ],
)
def test_operators_move_letters(letters: Letters, olga: Client, verb: str, status: str, resolution: str | None) -> None:
    dead_letters.record_outcomes([a_death()], [])

    moved = post(olga, f"/api/dlq/m-1/{verb}", {"reason": "as the bank says"}).json()["data"]
    again = post(olga, f"/api/dlq/m-1/{verb}")

    assert (moved["status"], moved["resolution"], moved["nextRetryAt"]) == (status, resolution, None)
    assert moved["history"][-1]["who"] == "key:olga"
    assert moved["history"][-1]["why"] == "as the bank says"
    assert again.status_code == 409
    assert "by the API key olga at" in again.json()["detail"]
    assert "it cannot be" in again.json()["detail"]


def test_it_keeps_notes(letters: Letters, olga: Client) -> None:
    dead_letters.record_outcomes([a_death()], [])

    noted = post(olga, "/api/dlq/m-1/notes", {"text": "customer was not charged"})
    empty = post(olga, "/api/dlq/m-1/notes", {"text": " "})
    missing = post(olga, "/api/dlq/m-1/notes", {})

    assert noted.status_code == 201
    assert [(note["by"], note["text"]) for note in noted.json()["data"]["notes"]] == [
        ("key:olga", "customer was not charged")
    ]
    assert empty.status_code == missing.status_code == 400


def test_what_staff_do_is_in_the_audit_log(letters: Letters) -> None:
    dead_letters.record_outcomes([a_death()], [])

    post(staff("sam", "replay"), "/api/dlq/m-1/set-aside", {"reason": "wait for the bank"})

    entry = audited().get()
    assert entry.who == "user:sam"
    assert entry.name == "m-1"
    assert entry.said == "set aside: wait for the bank"


def test_what_keys_do_is_in_the_audit_log_too(letters: Letters, olga: Client) -> None:
    dead_letters.record_outcomes([a_death()], [])

    post(olga, "/api/dlq/m-1/set-aside")

    assert audited().get().who == "key:olga"


@pytest.mark.parametrize("verb", ["replay", "resolve", "discard", "set-aside", "notes", "reveal"])
def test_readers_may_not_act(letters: Letters, vic: Client, verb: str) -> None:
    dead_letters.record_outcomes([a_death()], [])

    assert post(vic, f"/api/dlq/m-1/{verb}", {"text": "x"}).status_code == 403


def test_it_counts(letters: Letters, vic: Client) -> None:
    dead_letters.record_outcomes(
        [a_death("m-1"), a_death("m-2"), a_death("m-3", error_type="VALIDATION_ERROR", error_kind="permanent")], []
    )

    stats = vic.get("/api/dlq/stats").json()["data"]

    assert stats["total"] == stats["open"] == 3
    assert stats["byStatus"] == {
        "dlq_pending": 2,
        "dlq_processing": 0,
        "dlq_resolved": 0,
        "dlq_failed": 0,
        "dlq_manual": 1,
    }
    assert stats["topErrorTypes"][0] == {"errorType": "TIMEOUT_ERROR", "count": 2}
    assert stats["byType"] == {"payment.capture": 3}
    assert stats["bySource"] == {"shop": 3}
    assert stats["oldestOpenSeconds"] >= 0


def test_a_letter_spoilt_by_hand_spoils_no_list(letters: Letters, store: Database[dict[str, Any]], vic: Client) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    store["dead_letters"].insert_many(
        [
            a_document("bad-status", status="lost"),
            {"messageId": "bare"},
            a_document("bad-kinds", attempts="x", metadata=7, errorReason=None, retryCount="many", nextRetryAt="soon"),
        ]
    )

    answer = vic.get("/api/dlq")

    assert {item["messageId"] for item in answer.json()["data"]} == {"m-1", "bad-kinds"}
    assert vic.get("/api/dlq/bad-kinds").status_code == 200
    assert vic.get("/api/dlq/bare").status_code == 404
