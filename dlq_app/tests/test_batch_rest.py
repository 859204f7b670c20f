"""Replay batches over REST."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from pymongo.database import Database
from pytest_django import Settings

from dlq_app.domain.letter import Settled
from dlq_app.domain.ports import ForwardOrder
from dlq_app.services import batches, dead_letters, outcome_file
from dlq_app.services.batch_run import BatchRun
from dlq_app.store.repository import Letters, StoredBatch
from dlq_app.testing import MemoryIntake, a_death
from dlqsite.tests.people import audited, staff, with_key

pytestmark = [
    pytest.mark.mongo,
    pytest.mark.redis,
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client", "letters", "intake"),
]
START, LIST = "/api/dlq/replay-batch", "/api/dlq/replay-batches"
TIMEOUTS = {"filter": {"errorType": "TIMEOUT_ERROR"}}


def post(client: Client, path: str, body: object = None, **headers: str) -> Any:
    text = json.dumps(body if body is not None else {})
    return client.post(path, text, content_type="application/json", headers=headers)


def die(*ids: str, **changes: Any) -> None:
    dead_letters.record_outcomes([a_death(message_id, **changes) for message_id in ids], [])


def started(client: Client, body: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    answer = post(client, START, body or TIMEOUTS, **headers)
    assert answer.status_code == 202, answer.json()
    found: dict[str, Any] = answer.json()["data"]
    return found


def work(
    port: MemoryIntake, batch_id: str, *, until: str = "finished", well: Callable[[ForwardOrder], bool] = lambda _: True
) -> None:
    """Be the DLQ worker, and intake's workers, until the batch is in the stage."""
    ended, executor = 0, batches.executor()
    for _ in range(2000):
        executor.tick()
        orders, ended = port.forwarded[ended:], len(port.forwarded)
        outcomes = [port.end(order.message_id, done=well(order)) for order in orders]
        settles = [one for one in outcomes if isinstance(one, Settled)]
        dead_letters.record_outcomes([one for one in outcomes if not isinstance(one, Settled)], settles)
        batch = batches.get(batch_id)
        if batch.stage == until and not (batch.is_final and batch.counts.remaining):
            executor.stop()
            return
    raise AssertionError(batches.get(batch_id))


def kept(store: Database[dict[str, Any]]) -> int:
    return store["replay_batches"].count_documents({}) + store["replay_items"].count_documents({})


# --- trying out ---


def test_a_dry_run_reports_the_plan_and_writes_nothing(olga: Client, store: Database[dict[str, Any]]) -> None:
    die(*(f"m-{n}" for n in range(12)))
    die("n-1", "n-2", error_type="NETWORK_ERROR", type="demo")
    dead_letters.resolve_by_hand("m-0", actor="key:olga")

    answer = post(olga, START, {"filter": {"errorType": ["TIMEOUT_ERROR", "NETWORK_ERROR"]}, "dryRun": True})

    assert answer.status_code == 200
    found = answer.json()["data"]
    assert set(found) == {"count", "sample", "byErrorType", "byType", "breakers", "leftOut", "failuresAtMost"}
    assert found["count"] == 13
    assert found["byErrorType"] == {"TIMEOUT_ERROR": 11, "NETWORK_ERROR": 2}
    assert found["byType"] == {"payment.capture": 11, "demo": 2}
    assert found["leftOut"] == [{"why": "resolved", "count": 1}]
    assert len(found["sample"]) == 10
    assert {"messageId", "errorReason", "lastFailedAt"} <= set(found["sample"][0])
    assert kept(store) == 0


def test_an_id_is_not_found_only_if_no_letter_has_it(olga: Client, letters: Letters) -> None:
    die("m-1", "m-2")
    letter = letters.find("m-1")
    assert letter is not None

    answer = post(olga, START, {"ids": [letter.id, "m-1", "m-1", "m-2", "elsewhere"], "dryRun": True})

    found = answer.json()["data"]
    assert (found["count"], found["leftOut"]) == (2, [{"why": "not_found", "count": 1}])


def test_the_sample_hides_secrets(olga: Client) -> None:
    die("m-1", error_reason="bad password=hunter2")

    assert "hunter2" not in post(olga, START, {**TIMEOUTS, "dryRun": True}).content.decode()


# --- starting ---


def test_a_start_returns_the_batch(olga: Client) -> None:
    die("m-1", "m-2")
    order = {
        **TIMEOUTS,
        "name": "bank is back",
        "reason": "INC-7",
        "ratePerSecond": 20,
        "canary": {"size": 1},
        "maxFailures": 3,
        "maxFailureRate": 0.5,
        "limit": 100,
        "scheduledAt": "2026-11-24T12:00:00Z",
        "dryRun": False,
    }

    answer = post(olga, START, order)

    assert answer.status_code == 202
    batch = answer.json()["data"]
    assert answer["Location"] == batch["links"]["self"] == f"{LIST}/{batch['batchId']}"
    assert (batch["stage"], batch["total"], batch["lateArrivals"]) == ("planned", 2, 0)
    assert (batch["name"], batch["reason"], batch["requestedBy"]) == ("bank is back", "INC-7", "key:olga")
    assert batch["counts"] == {"sent": 0, "succeeded": 0, "failed": 0, "skipped": 0, "remaining": 2}
    assert (batch["ratePerSecond"], batch["canary"]) == (20, {"size": 1, "minSuccess": 1})
    assert (batch["maxFailures"], batch["maxFailureRate"], batch["limit"]) == (3, 0.5, 100)
    assert batch["filter"] == {"errorType": ["TIMEOUT_ERROR"]}
    assert batch["scheduledAt"] == "2026-11-24T12:00:00.000Z"
    assert batch["startedAt"] is batch["finishedAt"] is batch["stopReason"] is batch["pausedBy"] is None
    assert batch["stopErrors"] == []
    assert olga.get(batch["links"]["self"]).json()["data"]["batchId"] == batch["batchId"]


@pytest.mark.parametrize(("share", "count"), [(0.95, 19), (1.0, 20), (0.0, 0), (0.5, 10), (0.951, 20), (7, 7)])
def test_the_canary_takes_a_count_or_a_share(olga: Client, share: float, count: int) -> None:
    die("m-1")

    batch = started(olga, {**TIMEOUTS, "canary": {"size": 20, "minSuccess": share}})

    assert batch["canary"] == {"size": 20, "minSuccess": count}


def test_letters_are_selected_by_either_id(olga: Client) -> None:
    die("m-1", "m-2", "m-3")
    by_id = olga.get("/api/dlq/m-2").json()["data"]["_id"]

    batch = started(olga, {"ids": ["m-1", by_id]})

    items = olga.get(batch["links"]["items"]).json()["data"]
    assert {item["messageId"] for item in items} == {"m-1", "m-2"}
    assert batch["filter"] is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"filter": {"status": {"$ne": None}}}, "filter.status"),
        ({"filter": {"status": [{"$ne": None}]}}, "filter.status"),
        ({"filter": {"status": "lost"}}, "filter.status"),
        ({"filter": {"$where": "1"}}, "filter.$where"),
        ({"filter": {"errorType": "TIMEOUT_ERROR", "from": "yesterday"}}, "filter.from"),
        ({"filter": {"errorType": "TIMEOUT_ERROR", "type": ""}}, "filter.type"),
        ({"filter": {"errorType": "TIMEOUT_ERROR", "tag": ["eu", ""]}}, "filter.tag"),
        ({"filter": {"errorType": "TIMEOUT_ERROR", "tag": []}}, "filter.tag"),
        ({"filter": []}, "filter"),
        ({"filter": {}}, "filter"),
        ({}, "filter"),
        ({"all": False}, "filter"),
        ({"all": "yes"}, "all"),
        ({"ids": []}, "ids"),
        ({"ids": [{"$ne": ""}]}, "ids"),
        ({"ids": ["m-1"], "filter": {"type": "demo"}}, "ids"),
        ({**TIMEOUTS, "ratePerSecond": 0}, "ratePerSecond"),
        ({**TIMEOUTS, "ratePerSecond": "20"}, "ratePerSecond"),
        ({**TIMEOUTS, "canary": {"size": 5, "minSuccess": 6}}, "canary.minSuccess"),
        ({**TIMEOUTS, "canary": {"size": 5, "minSuccess": 1.5}}, "canary.minSuccess"),
        ({**TIMEOUTS, "canary": 5}, "canary"),
        ({**TIMEOUTS, "maxFailures": -1}, "maxFailures"),
        ({**TIMEOUTS, "maxFailureRate": 1.5}, "maxFailureRate"),
        ({**TIMEOUTS, "limit": 0}, "limit"),
        ({**TIMEOUTS, "scheduledAt": "tomorrow"}, "scheduledAt"),
        ({**TIMEOUTS, "reason": "x" * 2001}, "reason"),
        ({**TIMEOUTS, "dryRun": "yes"}, "dryRun"),
        ({**TIMEOUTS, "olderThan": "30d"}, "olderThan"),
        ([], ""),
        (None, ""),
    ],
)
def test_an_invalid_order_is_rejected_with_its_fields_and_starts_nothing(
    olga: Client, store: Database[dict[str, Any]], body: object, field: str
) -> None:
    die("m-1")

    answer = olga.post(START, json.dumps(body), content_type="application/json")

    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_request"
    assert field in {error["field"] for error in answer.json()["errors"]}
    assert kept(store) == 0


def test_all_letters_require_all_to_be_true(olga: Client) -> None:
    die("m-1", "m-2")

    assert started(olga, {"all": True})["total"] == 2


@pytest.mark.parametrize("query", ["?dryRun=true", "?errorType=TIMEOUT_ERROR"])
def test_an_order_in_the_address_is_refused_rather_than_ignored(olga: Client, query: str) -> None:
    assert post(olga, START + query, TIMEOUTS).status_code == 400


# --- approval ---


def test_more_letters_than_the_approval_size_need_an_administrator(
    settings: Settings, olga: Client, ada: Client, store: Database[dict[str, Any]]
) -> None:
    settings.DLQ_APPROVAL_SIZE = 2
    die("m-1", "m-2", "m-3")

    refused = post(olga, START, TIMEOUTS)
    refused_ids = post(olga, START, {"ids": ["m-1", "m-2", "m-3"]})

    assert refused.status_code == refused_ids.status_code == 403
    assert refused.json()["code"] == "approval_needed"
    assert "3 letters" in refused.json()["detail"]
    assert kept(store) == 0
    assert post(olga, START, {**TIMEOUTS, "dryRun": True}).json()["data"]["count"] == 3
    assert started(olga, {**TIMEOUTS, "limit": 2})["total"] == 2
    assert started(ada)["total"] == 1, "the other two are in an unfinished batch"


@pytest.mark.parametrize(("permission", "status"), [("replay", 403), ("admin", 202)])
def test_for_users_the_permission_decides(settings: Settings, permission: str, status: int) -> None:
    settings.DLQ_APPROVAL_SIZE = 0
    die("m-1")

    assert post(staff("sam", permission), START, TIMEOUTS).status_code == status


def test_letters_that_arrive_after_counting_do_not_outgrow_the_approval(
    settings: Settings, olga: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DLQ_APPROVAL_SIZE = 2
    die("m-1", "m-2")
    counting = batches.dry_run

    def count_and_die(order: Any) -> Any:
        found = counting(order)
        die("m-3", "m-4")
        return found

    monkeypatch.setattr(batches, "dry_run", count_and_die)

    assert started(olga)["total"] == 2


# --- sending a start again ---


def test_the_same_key_starts_one_batch(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1")
    order = {**TIMEOUTS, "scheduledAt": "2026-11-24T12:00:00.123456Z", "reason": " INC-7 "}
    first = started(olga, order, **{"Idempotency-Key": "k-1"})
    die("m-2")

    again = post(olga, START, order, **{"Idempotency-Key": "k-1"})

    assert again.status_code == 200
    assert again.json()["data"]["batchId"] == first["batchId"]
    assert again.json()["data"]["total"] == 1
    assert store["replay_batches"].count_documents({}) == 1


def test_the_same_key_with_another_order_is_refused(olga: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1")
    started(olga, TIMEOUTS, **{"Idempotency-Key": "k-1"})

    for other in ({**TIMEOUTS, "ratePerSecond": 5}, {"filter": {"type": "demo"}}, {"ids": ["m-1"]}):
        answer = post(olga, START, other, **{"Idempotency-Key": "k-1"})
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")
    assert store["replay_batches"].count_documents({}) == 1


def test_an_idempotency_key_belongs_to_its_sender(olga: Client, ada: Client) -> None:
    die("m-1")

    first = started(olga, TIMEOUTS, **{"Idempotency-Key": "k-1"})

    assert started(ada, TIMEOUTS, **{"Idempotency-Key": "k-1"})["batchId"] != first["batchId"]


def test_a_repetition_needs_no_approval_again(settings: Settings, olga: Client) -> None:
    settings.DLQ_APPROVAL_SIZE = 2
    die("m-1", "m-2")
    started(olga, TIMEOUTS, **{"Idempotency-Key": "k-1"})
    die("m-3")

    assert post(olga, START, TIMEOUTS, **{"Idempotency-Key": "k-1"}).status_code == 200


@pytest.mark.parametrize("key", ["", "two words", "x" * 129, "tab\t"])
def test_an_invalid_idempotency_key_is_rejected(olga: Client, key: str) -> None:
    answer = post(olga, START, TIMEOUTS, **{"Idempotency-Key": key})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


# --- following ---


def test_it_lists_batches_newest_first_page_by_page(olga: Client, vic: Client) -> None:
    die("m-1")
    made = [started(olga, {**TIMEOUTS, "name": f"b{n}"})["batchId"] for n in range(5)]

    seen: list[str] = []
    cursor = ""
    while True:
        answer = vic.get(f"{LIST}?limit=2{cursor}").json()
        seen += [batch["batchId"] for batch in answer["data"]]
        if not answer["pagination"]["nextCursor"]:
            break
        cursor = f"&cursor={answer['pagination']['nextCursor']}"

    assert seen == made[::-1]
    assert answer["pagination"]["limit"] == 2


def test_it_lists_the_requested_stages(olga: Client, vic: Client) -> None:
    die("m-1")
    waits, over = started(olga)["batchId"], started(olga)["batchId"]
    post(olga, f"{LIST}/{over}/cancel")

    def listed(query: str) -> list[str]:
        return [batch["batchId"] for batch in vic.get(LIST + query).json()["data"]]

    assert listed("?stage=cancelled") == [over]
    assert listed("?stage=planned&stage=running") == [waits]
    assert listed("?stage=cancelled&stage=planned") == listed("") == [over, waits]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?stage=planning", "stage"),
        ("?stage=$ne", "stage"),
        ("?stage[$ne]=x", "stage[$ne]"),
        ("?limit=0", "limit"),
        ("?limit=101", "limit"),
        ("?limit=ten", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?cursor=!", "cursor"),
        ("?cursor=garbage", "cursor"),
        ("?page=2", "page"),
        ("/b-none/items?outcome=lost", "outcome"),
        ("/b-none/items?limit=1001", "limit"),
        ("/b-none/items?cursor=-1", "cursor"),
        ("/b-none/items?outcome=failed&outcome=open", "outcome"),
        ("/b-none?outcome=failed", "outcome"),
        ("/b-none/report?limit=1", "limit"),
    ],
)
def test_an_invalid_query_is_rejected_with_its_fields(vic: Client, query: str, field: str) -> None:
    answer = vic.get(LIST + query)

    assert answer.status_code == 400
    assert field in {error["field"] for error in answer.json()["errors"]}


def test_an_unknown_batch_is_not_found(vic: Client, olga: Client) -> None:
    answers = [vic.get(f"{LIST}/none{rest}") for rest in ("", "/items", "/report")]
    answers += [post(olga, f"{LIST}/none/{verb}") for verb in ("pause", "resume", "cancel")]

    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(404, "replay_batch_not_found")}


def test_it_lists_the_outcome_of_every_letter(olga: Client, vic: Client, intake: MemoryIntake) -> None:
    die("m-1", "m-2", "m-3", "m-4")
    batch = started(olga, {**TIMEOUTS, "reason": "the bank is back"})
    dead_letters.resolve_by_hand("m-4", actor="key:olga")

    work(intake, batch["batchId"], well=lambda order: order.message_id != "m-2")

    found = vic.get(batch["links"]["self"]).json()["data"]
    assert found["counts"] == {"sent": 3, "succeeded": 2, "failed": 1, "skipped": 1, "remaining": 0}
    assert found["stage"] == "finished"
    assert found["finishedAt"] >= found["startedAt"]
    items = {item["messageId"]: item for item in vic.get(batch["links"]["items"]).json()["data"]}
    letter = vic.get("/api/dlq/m-2").json()["data"]
    assert items["m-1"]["outcome"] == items["m-3"]["outcome"] == "succeeded"
    assert items["m-4"]["outcome"] == "skipped:resolved"
    assert items["m-2"] == {
        "messageId": "m-2",
        "deadLetterId": letter["_id"],
        "outcome": "failed_same",
        "errorType": "TIMEOUT_ERROR",
    }
    assert letter["replayAttempts"][-1]["batchId"] == batch["batchId"]
    assert letter["replayAttempts"][-1]["by"] == "key:olga"
    rows = vic.get(f"{batch['links']['self']}/report").json()["data"]
    assert {"outcome": "failed_same", "errorType": "TIMEOUT_ERROR", "count": 1} in rows
    assert sum(row["count"] for row in rows) == 4


def test_it_lists_letters_by_outcome_page_by_page(olga: Client, vic: Client, intake: MemoryIntake) -> None:
    die(*(f"m-{n}" for n in range(5)))
    batch = started(olga)
    address = batch["links"]["items"]
    open_before = vic.get(f"{address}?outcome=open").json()["data"]
    work(intake, batch["batchId"], well=lambda order: order.message_id in ("m-0", "m-1", "m-2"))

    first = vic.get(f"{address}?outcome=succeeded&limit=2").json()
    second = vic.get(f"{address}?outcome=succeeded&limit=2&cursor={first['pagination']['nextCursor']}").json()

    assert [item["outcome"] for item in open_before] == [None] * 5
    assert {i["messageId"] for i in first["data"] + second["data"]} == {"m-0", "m-1", "m-2"}
    assert second["pagination"] == {"limit": 2, "nextCursor": None}
    assert {i["messageId"] for i in vic.get(f"{address}?outcome=failed").json()["data"]} == {"m-3", "m-4"}


# --- steering ---


def test_a_batch_that_triggers_a_bug_does_not_block_the_others(
    olga: Client, vic: Client, intake: MemoryIntake, monkeypatch: pytest.MonkeyPatch
) -> None:
    die("m-1", "m-2")
    broken, fine = started(olga, {"ids": ["m-1"]}), started(olga, {"ids": ["m-2"]})
    turn = BatchRun.turn

    def has_a_bug(self: BatchRun, stored: StoredBatch, *, alone: bool) -> float:
        if stored.id == broken["batchId"]:
            raise TypeError("missing 1 required positional argument")
        return turn(self, stored, alone=alone)

    monkeypatch.setattr(BatchRun, "turn", has_a_bug)

    work(intake, fine["batchId"])

    waits = vic.get(broken["links"]["self"]).json()["data"]
    assert (waits["stage"], waits["counts"]["remaining"]) == ("planned", 1)
    assert "Internal error" in waits["waiting"]
    assert "argument" not in waits["waiting"]


def test_operators_pause_resume_and_cancel(olga: Client, intake: MemoryIntake) -> None:
    die("m-1", "m-2")
    batch = started(olga, {**TIMEOUTS, "ratePerSecond": 0.01})
    address = batch["links"]["self"]
    work(intake, batch["batchId"], until="running")

    paused = post(olga, f"{address}/pause", {"reason": "lunch"}).json()["data"]
    resumed = post(olga, f"{address}/resume").json()["data"]
    cancelled = post(olga, f"{address}/cancel", {"reason": "wrong filter"}).json()["data"]
    refused = post(olga, f"{address}/resume")

    assert (paused["stage"], paused["pausedBy"]) == ("paused", "operator")
    assert (resumed["stage"], resumed["pausedBy"]) == ("running", None)
    assert (cancelled["stage"], cancelled["stopReason"]) == ("cancelled", "wrong filter")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_state")
    assert "cancelled" in refused.json()["detail"]


@pytest.mark.parametrize(("body", "field"), [({"why": "x"}, "why"), ({"reason": 1}, "reason"), ([], "")])
def test_an_invalid_change_is_rejected_with_its_fields(olga: Client, body: object, field: str) -> None:
    die("m-1")
    batch = started(olga)

    answer = olga.post(f"{batch['links']['self']}/cancel", json.dumps(body), content_type="application/json")

    assert answer.status_code == 400
    assert field in {error["field"] for error in answer.json()["errors"]}
    assert olga.get(batch["links"]["self"]).json()["data"]["stage"] == "planned"


def test_viewers_can_read_and_not_change(olga: Client, vic: Client, store: Database[dict[str, Any]]) -> None:
    die("m-1")
    address = started(olga)["links"]["self"]

    for path in (START, f"{address}/pause", f"{address}/resume", f"{address}/cancel"):
        assert post(vic, path, TIMEOUTS if path == START else {}).status_code == 403
    assert post(vic, START, {**TIMEOUTS, "dryRun": True}).status_code == 403
    assert store["replay_batches"].count_documents({"stage": "planned"}) == 1


# --- audit ---


def test_actions_of_staff_are_in_the_audit_log_once(settings: Settings) -> None:
    die("m-1", "m-2")
    sam = staff("sam", "replay")
    batch = started(sam, {**TIMEOUTS, "name": "bank", "reason": "INC-7"}, **{"Idempotency-Key": "k-1"})
    post(sam, START, {**TIMEOUTS, "name": "bank", "reason": "INC-7"}, **{"Idempotency-Key": "k-1"})
    post(sam, f"{batch['links']['self']}/cancel", {"reason": "oops"})

    lines = list(audited().order_by("pk"))

    assert [(line.name, line.said) for line in lines] == [
        ("bank", "replay of 2 letters started: INC-7"),
        ("bank", "cancel: oops"),
    ]
    assert {line.object_id for line in lines} == {batch["batchId"]}
    assert {(line.kind, line.who) for line in lines} == {("replaybatch", "user:sam")}
    assert lines[0].count == 2


def test_actions_of_keys_are_in_the_audit_log_too(olga: Client) -> None:
    die("m-1")

    assert started(olga)["requestedBy"] == "key:olga"
    line = audited().get()
    assert (line.who, line.count) == ("key:olga", 1)


# --- outcomes as a file ---


def export(client: Client, batch_id: str, query: str = "") -> bytes:
    answer = client.get(f"{LIST}/{batch_id}/export{query}")
    assert answer.status_code == 200, answer.content
    return answer.getvalue()


def test_the_outcomes_of_a_batch_are_exported(olga: Client, vic: Client, intake: MemoryIntake) -> None:
    die("m-1", "m-2", "m-3")
    batch = started(olga)
    work(intake, batch["batchId"], well=lambda order: order.message_id != "m-2")

    *rows, end = map(json.loads, export(vic, batch["batchId"]).decode().splitlines())
    table = list(
        csv.reader(io.StringIO(export(vic, batch["batchId"], "?format=csv&outcome=failed").decode("utf-8-sig")))
    )

    assert [(row["seq"], row["messageId"], row["outcome"], row["errorType"]) for row in rows] == [
        (0, "m-1", "succeeded", None),
        (1, "m-2", "failed_same", "TIMEOUT_ERROR"),
        (2, "m-3", "succeeded", None),
    ]
    assert end == {"end": {"count": 3, "complete": True}}
    assert table[0] == ["seq", "messageId", "deadLetterId", "sent", "outcome", "errorType"]
    assert [row[1:2] + row[3:] for row in table[1:]] == [["m-2", "true", "failed_same", "TIMEOUT_ERROR"]]


def test_an_export_of_outcomes_reads_page_by_page(olga: Client, vic: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    die(*(f"m-{n}" for n in range(5)))
    batch = started(olga)
    monkeypatch.setattr(outcome_file, "_PAGE", 2)

    lines = export(vic, batch["batchId"]).decode().splitlines()

    assert [json.loads(line)["messageId"] for line in lines[:-1]] == [f"m-{n}" for n in range(5)]
    assert {json.loads(line)["outcome"] for line in lines[:-1]} == {None}


def test_an_export_that_cannot_be_made_says_why(olga: Client, vic: Client) -> None:
    die("m-1")
    batch = started(olga)

    wrong = vic.get(f"{LIST}/{batch['batchId']}/export?format=xls&outcome=lost&page=2")

    assert vic.get(f"{LIST}/b-{'0' * 32}/export").json()["code"] == "replay_batch_not_found"
    assert wrong.status_code == 400
    assert {one["field"] for one in wrong.json()["errors"]} == {"format", "outcome", "page"}
    assert with_key("submit").get(f"{LIST}/{batch['batchId']}/export").status_code == 403
