"""The intake core: every rule of every field, what is answered, and what is counted."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings

from breaker_app.conf import breaker_for
from breaker_app.states import State as BreakerState
from messages_app import registry
from messages_app.domain.clients import Client
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.parsing import MAX_FAULTS
from messages_app.domain.records import Record
from messages_app.envelope import Message
from messages_app.rest import intake
from messages_app.rest.intake import MAX_BODY, MAX_SKIPPED, Pending, conclude, prepare, reply_of, submit, submit_batch
from messages_app.rest.replies import Reply
from messages_app.rest.validation import uuid7
from messages_app.store.ledger import Ledger, ledger
from messages_app.work import protection

pytestmark = pytest.mark.redis

CAROL = Client(label="key:carol", rate_key="key:carol", source="carol", rate_limit_per_minute=0)
WEBHOOKS = (Path(__file__).parent / "data" / "webhooks.jsonl").read_text(encoding="utf-8").splitlines()


@pytest.fixture(autouse=True)
def _empty_redis(redis_client: Any) -> Iterator[None]:
    protection._wait_ms.forget()
    yield
    protection._wait_ms.forget()


def head(body: bytes, **more: str) -> dict[str, str]:
    return {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), **more}


def send(body: str | bytes | dict[str, Any], client: Client = CAROL, **headers: str) -> Reply:
    raw = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    return submit(head(raw, **headers), io.BytesIO(raw).read, client)


def send_batch(body: str | dict[str, Any], client: Client = CAROL) -> Reply:
    raw = json.dumps(body).encode() if isinstance(body, dict) else body.encode()
    return submit_batch(head(raw), io.BytesIO(raw).read, client)


def said(reply: Reply) -> dict[str, Any]:
    return json.loads(reply.body)  # type: ignore[no-any-return]


def kept(message_id: str) -> Record:
    record = ledger().get(message_id)
    assert record is not None
    return record


# -- accepted


def test_a_message_is_accepted_with_every_default() -> None:
    reply = send({"payload": {"a": 1}})

    data = said(reply)["data"]
    assert reply.status == 202
    assert reply.content_type == "application/json"
    assert list(data) == ["messageId", "status", "type", "queuedAt", "links"]
    assert data["status"] == "queued"
    assert data["type"] == "demo"
    assert data["links"] == {"self": f"/api/messages/{data['messageId']}"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["queuedAt"])
    record = kept(data["messageId"])
    assert (record.priority, record.source, record.client, record.tags) == ("normal", "carol", "key:carol", "[]")
    assert record.not_before_ms is None


def test_everything_that_was_said_is_kept() -> None:
    reply = send(
        {
            "payload": [1],
            "messageId": "Order_4711-a",
            "type": "demo",
            "priority": "high",
            "source": "Büro 2",
            "tags": ["a", "ö"],
        }
    )

    assert said(reply)["data"]["messageId"] == "Order_4711-a"
    record = kept("Order_4711-a")
    assert (record.priority, record.source, json.loads(record.tags)) == ("high", "Büro 2", ["a", "ö"])


@pytest.mark.parametrize("line", WEBHOOKS)
def test_a_real_payload_is_kept_byte_for_byte(line: str) -> None:
    payload = line.partition('"payload":')[2].strip()[:-1].rstrip()
    assert json.loads(payload) == json.loads(line)["payload"]

    reply = send(f'{{"messageId":"m","payload":  {payload} }}')

    assert reply.status == 202
    assert kept("m").body == payload.encode()


def test_ids_made_here_are_version_7_uuids_in_order_of_time() -> None:
    first, second = uuid7(), uuid7()

    shape = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    assert re.fullmatch(shape, first)
    assert first != second
    assert first[:13] <= second[:13]


def test_an_explicit_instant_schedules() -> None:
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)

    reply = send({"payload": 1, "messageId": "later", "notBefore": in_an_hour.isoformat()})

    assert said(reply)["data"]["status"] == "scheduled"
    assert kept("later").not_before_ms == pytest.approx(in_an_hour.timestamp() * 1000, abs=1)


@pytest.mark.parametrize("past", ["1969-07-20T20:17:40Z", "2020-01-01T00:00:00.123456+02:00", "2020-01-01t10:00z"])
def test_an_instant_in_the_past_means_now(past: str) -> None:
    assert said(send({"payload": 1, "notBefore": past}))["data"]["status"] == "queued"


# -- refused


def names(count: int) -> list[str]:
    return [f"t{n}" for n in range(count)]


@pytest.mark.parametrize(
    ("fields", "field", "code"),
    [
        ({"type": "Demo"}, "type", "invalid_message"),
        ({"type": ""}, "type", "invalid_message"),
        ({"type": "a" * 65}, "type", "invalid_message"),
        ({"type": "demo\n"}, "type", "invalid_message"),
        ({"type": 7}, "type", "invalid_message"),
        ({"type": None}, "type", "invalid_message"),
        ({"type": {"$ne": ""}}, "type", "invalid_message"),
        ({"type": "nobody.knows"}, "type", "unknown_type"),
        ({"messageId": ""}, "messageId", "invalid_message"),
        ({"messageId": "a" * 65}, "messageId", "invalid_message"),
        ({"messageId": "a b"}, "messageId", "invalid_message"),
        ({"messageId": "a\n"}, "messageId", "invalid_message"),
        ({"messageId": "ä"}, "messageId", "invalid_message"),
        ({"messageId": 4711}, "messageId", "invalid_message"),
        ({"messageId": None}, "messageId", "invalid_message"),
        ({"messageId": {"$gt": ""}}, "messageId", "invalid_message"),
        ({"priority": "urgent"}, "priority", "invalid_message"),
        ({"priority": 1}, "priority", "invalid_message"),
        ({"priority": ["high"]}, "priority", "invalid_message"),
        ({"source": "s" * 65}, "source", "invalid_message"),
        ({"source": ""}, "source", "invalid_message"),
        ({"source": "a\x00b"}, "source", "invalid_message"),
        ({"source": "a\nb"}, "source", "invalid_message"),
        ({"source": "\ud800"}, "source", "invalid_message"),
        ({"source": 1}, "source", "invalid_message"),
        ({"tags": "a"}, "tags", "invalid_message"),
        ({"tags": names(21)}, "tags", "invalid_message"),
        ({"tags": ["t" * 65]}, "tags", "invalid_message"),
        ({"tags": [1]}, "tags", "invalid_message"),
        ({"tags": ["\udfff"]}, "tags", "invalid_message"),
        ({"tags": {"$in": []}}, "tags", "invalid_message"),
        ({"tags": None}, "tags", "invalid_message"),
        ({"notBefore": "tomorrow"}, "notBefore", "invalid_message"),
        ({"notBefore": "2026-01-01"}, "notBefore", "invalid_message"),
        ({"notBefore": "2026-01-01T00:00:00"}, "notBefore", "invalid_message"),
        ({"notBefore": "2026-02-30T00:00:00Z"}, "notBefore", "invalid_message"),
        ({"notBefore": "2026-01-01T24:61:00Z"}, "notBefore", "invalid_message"),
        ({"notBefore": "9999-12-31T23:59:59Z"}, "notBefore", "invalid_message"),
        ({"notBefore": 1_700_000_000}, "notBefore", "invalid_message"),
        ({"notBefore": None}, "notBefore", "invalid_message"),
        ({"colour": "red"}, "colour", "unknown_field"),
        ({"MessageId": "x"}, "MessageId", "unknown_field"),
        ({"$where": "1"}, "$where", "unknown_field"),
    ],
)
def test_a_field_that_is_not_as_it_must_be_is_refused_by_name(fields: dict[str, Any], field: str, code: str) -> None:
    reply = send({"payload": 1} | fields)

    told = said(reply)
    assert reply.status == 400
    assert reply.content_type == "application/problem+json"
    assert told["code"] == code
    assert told["status"] == 400
    assert [error["field"] for error in told["errors"]] == [field]
    assert set(told) == {"type", "title", "status", "detail", "code", "errors"}


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "a" * 64},
        {"source": "s" * 64},
        {"tags": names(20)},
        {"tags": ["t" * 64]},
        {"tags": []},
        {"messageId": "a" * 64},
    ],
)
def test_the_longest_allowed_is_allowed(fields: dict[str, Any]) -> None:
    registry.handler("a" * 64)(_noop)
    try:
        assert send({"payload": 1} | fields).status == 202
    finally:
        registry.forget("a" * 64)


def _noop(message: Message) -> None:
    return None


def test_a_message_without_a_payload_is_refused() -> None:
    told = said(send("{}"))

    assert told["errors"] == [{"field": "payload", "message": "is required: any JSON value"}]


def test_everything_that_is_wrong_is_told_at_once_the_gravest_first() -> None:
    told = said(send({"priority": "urgent", "type": "nope", "x": 1, "y": 2}))

    assert told["code"] == "unknown_field"
    assert [error["field"] for error in told["errors"]] == ["x", "y", "type", "payload", "priority"]


def test_an_unknown_field_is_told_with_the_allowed_ones() -> None:
    message = said(send({"payload": 1, "x": 1}))["errors"][0]["message"]

    assert "payload, type, messageId, priority, source, tags, notBefore" in message


def test_an_unknown_type_is_told_with_the_known_ones() -> None:
    message = said(send({"payload": 1, "type": "nope"}))["errors"][0]["message"]

    assert "demo" in registry.types()
    assert message.endswith(f"known types: {', '.join(registry.types())}")


def test_ten_thousand_unknown_fields_make_a_short_answer() -> None:
    reply = send({"payload": 1} | {f"x{n}": n for n in range(10_000)})

    assert reply.status == 400
    assert len(reply.body) < 20_000


def test_no_answer_repeats_control_characters() -> None:
    reply = send('{"payload":1,"\\u001b[31mred\\u202e":1}')

    assert reply.status == 400
    told = json.loads(reply.body)
    assert "\\u001b[31mred\\u202e" in told["detail"]
    for text in (reply.body.decode(), told["detail"], told["errors"][0]["field"]):
        assert not re.search(r"[\x00-\x1f\u202e]", text)


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"CONTENT_TYPE": ""}, 415, "unsupported_media_type"),
        ({"CONTENT_TYPE": "text/plain"}, 415, "unsupported_media_type"),
        ({"CONTENT_TYPE": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({"CONTENT_TYPE": "application/json; charset=latin-1"}, 415, "unsupported_media_type"),
        ({"HTTP_CONTENT_ENCODING": "gzip"}, 415, "unsupported_media_type"),
        ({"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, 411, "length_required"),
        ({"CONTENT_LENGTH": "many"}, 411, "length_required"),
        ({"CONTENT_LENGTH": str(MAX_SKIPPED + 1)}, 413, "payload_too_large"),
        ({"CONTENT_LENGTH": "1" * 30}, 413, "payload_too_large"),
    ],
)
def test_what_the_headers_rule_out_is_refused_unread(headers: dict[str, str], status: int, code: str) -> None:
    def read(_: int) -> bytes:
        raise AssertionError("the body was read")

    reply = submit(head(b'{"payload":1}') | headers, read, CAROL)

    assert (reply.status, said(reply)["code"]) == (status, code)


@pytest.mark.parametrize("sent", [MAX_BODY + 1, 3 * MAX_BODY, MAX_BODY - 1])
def test_what_is_too_long_is_read_off_in_small_pieces_so_that_the_answer_arrives(sent: int) -> None:
    body = io.BytesIO(b"x" * sent)
    asked: list[int] = []

    def read(size: int) -> bytes:
        asked.append(size)
        return body.read(size)

    reply = submit(head(b"") | {"CONTENT_LENGTH": str(3 * MAX_BODY)}, read, CAROL)

    assert reply.status == 413
    assert body.tell() == sent
    assert max(asked) <= 64 * 1024


def test_a_lonely_fault_names_its_field_in_the_detail_too() -> None:
    assert said(send({"payload": 1, "priority": "urgent"}))["detail"] == "priority: must be one of high, normal, low"
    assert said(send("[]"))["detail"] == "The body must be a JSON object."


def test_an_unknown_type_is_told_the_known_ones() -> None:
    told = said(send({"payload": 1, "type": "nobody"}))

    assert told["code"] == "unknown_type"
    assert told["detail"].startswith("type: nobody has no handler; known types: ")
    assert "demo" in told["detail"]


def test_a_body_that_is_not_utf_8_is_a_fault_of_the_body() -> None:
    assert said(send(b'{"payload":"\xff"}'))["errors"] == [{"field": "", "message": "is not UTF-8: byte 12 is 0xff"}]


@pytest.mark.parametrize("content_type", ["application/json;charset=utf-8", 'Application/JSON; charset="UTF-8"'])
def test_json_may_say_its_charset(content_type: str) -> None:
    assert send('{"payload":1}', CONTENT_TYPE=content_type).status == 202


def test_the_largest_body_is_taken_and_one_byte_more_is_not() -> None:
    frame = len('{"payload":""}')
    assert send('{"payload":"' + "x" * (MAX_BODY - frame) + '"}').status == 202
    assert send('{"payload":"' + "x" * (MAX_BODY - frame + 1) + '"}').status == 413


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"payload":"\xff"}', "invalid_json"),
        (b"[1]", "invalid_message"),
        (b'{"payload":' + b"[" * 2000 + b"]" * 2000 + b"}", "payload_too_deep"),
        (b'{"payload":' + b"[" * 120_000 + b"]" * 120_000 + b"}", "payload_too_deep"),
        (b'{"type":' + b"[" * 2000 + b"]" * 2000 + b',"payload":1}', "payload_too_deep"),
        (b'{"payload":18446744073709551616}', "payload_integer_too_large"),
        (b'{"payload":' + b"9" * 200_000 + b"}", "payload_integer_too_large"),
        (b'{"payload":"\\ud800"}', "payload_contains_surrogate"),
        (b'{"payload":"\\u0000"}', "payload_contains_nul"),
        (b'{"payload":NaN}', "payload_not_finite"),
        (b'{"payload":1,"payload":1}', "duplicate_field"),
    ],
)
def test_a_hostile_body_is_a_400_that_says_why(body: bytes, code: str) -> None:
    reply = send(body)

    assert reply.status == 400
    assert said(reply)["code"] == code


# -- the idempotency key


def test_the_header_names_the_message() -> None:
    assert said(send({"payload": 1}, HTTP_IDEMPOTENCY_KEY="k-1"))["data"]["messageId"] == "k-1"
    assert said(send({"payload": 1}, HTTP_IDEMPOTENCY_KEY='"k-2"'))["data"]["messageId"] == "k-2"


def test_the_header_and_the_field_may_agree_but_not_differ() -> None:
    assert send({"payload": 1, "messageId": "k"}, HTTP_IDEMPOTENCY_KEY="k").status == 202
    told = said(send({"payload": 1, "messageId": "k"}, HTTP_IDEMPOTENCY_KEY="other"))
    assert (told["status"], told["errors"][0]["field"]) == (400, "messageId")


@pytest.mark.parametrize("key", ["", "a b", "ä", "k" * 65, '"'])
def test_a_malformed_header_is_refused_by_name(key: str) -> None:
    told = said(send({"payload": 1}, HTTP_IDEMPOTENCY_KEY=key))

    assert (told["status"], told["errors"][0]["field"]) == (400, "Idempotency-Key")


def test_the_same_message_again_is_told_its_present_state() -> None:
    first = send('{"messageId":"m","payload":{"a":1,"b":2},"tags":["x"]}')

    again = send('{"tags" : ["x"], "payload":{"b":2, "a":1},"type":"demo","priority":"normal","messageId":"m"}')

    assert first.status == 202
    assert again.status == 200
    assert said(again)["data"] == said(first)["data"] | {"duplicate": True}


@pytest.mark.parametrize(
    "changed",
    [
        {"payload": {"a": 2}},
        {"payload": {"a": 1.0}},
        {"payload": {"a": True}},
        {"tags": ["y"]},
        {"priority": "low"},
        {"source": "elsewhere"},
        {"notBefore": "2020-01-01T00:00:00Z"},
    ],
)
def test_the_same_id_with_other_content_is_a_conflict(changed: dict[str, Any]) -> None:
    send({"messageId": "m", "payload": {"a": 1}, "tags": ["x"]})

    reply = send({"messageId": "m", "payload": {"a": 1}, "tags": ["x"]} | changed)

    assert (reply.status, said(reply)["code"]) == (409, "idempotency_conflict")


def test_a_default_source_is_no_content_so_that_a_key_can_be_changed() -> None:
    send({"messageId": "m", "payload": 1})

    other_key = Client(label="key:new", rate_key="key:new", source="new", rate_limit_per_minute=0)

    assert send({"messageId": "m", "payload": 1}, other_key).status == 200


def test_fifty_at_once_with_one_id_make_one_message(redis_client: Any) -> None:
    start = threading.Barrier(50)

    def one(_: int) -> int:
        start.wait()
        return send({"messageId": "m", "payload": {"a": 1}}).status

    with ThreadPoolExecutor(50) as threads:
        statuses = list(threads.map(one, range(50)))

    assert sorted(statuses) == [200] * 49 + [202]
    assert redis_client.llen("rq:queue:normal") == 1
    assert [(row.accepted, row.open) for row in ledger().accounting(1)] == [(1, 1)]


# -- the rate limit


def test_exactly_the_allowed_number_passes_and_the_next_is_told_when(settings: Settings) -> None:
    settings.RATE_LIMIT_PER_MINUTE = 100
    dave = Client(label="key:dave", rate_key="key:dave")

    statuses = [send({"payload": n}, dave).status for n in range(100)]
    refused = send({"payload": 101}, dave)

    assert statuses == [202] * 100
    assert (refused.status, said(refused)["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["RateLimit-Policy"] == '"submit";q=100;w=60'
    assert re.fullmatch(r'"submit";r=0;t=\d+', refused.headers["RateLimit"])
    assert send({"payload": 1}, CAROL).status == 202


def test_no_two_of_many_threads_take_the_last_place(settings: Settings) -> None:
    settings.RATE_LIMIT_PER_MINUTE = 100
    dave = Client(label="key:dave", rate_key="key:dave")

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(lambda n: send({"payload": n}, dave).status, range(160)))

    assert statuses.count(202) == 100
    assert statuses.count(429) == 60


@pytest.mark.parametrize("put", [submit, submit_batch])
def test_who_is_past_the_limit_is_refused_before_the_body_is_parsed(put: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    eve = Client(label="key:eve", rate_key="key:eve", rate_limit_per_minute=1)
    item = {"payload": "x" * 20_000}
    body = json.dumps(item if put is submit else {"messages": [item]}).encode()
    assert put(head(body), io.BytesIO(body).read, eve).headers["RateLimit"].startswith('"submit";r=0;')

    monkeypatch.setattr(intake, "decode", lambda _: pytest.fail("parsed"))
    refused = put(head(body), io.BytesIO(body).read, eve)

    assert (refused.status, said(refused)["code"]) == (429, "rate_limited")
    assert int(refused.headers["Retry-After"]) >= 1


def test_a_large_message_counts_once() -> None:
    eve = Client(label="key:eve", rate_key="key:eve", rate_limit_per_minute=3)

    answers = [send({"payload": payload}, eve) for payload in ("x" * 20_000, "x", "x" * 20_000, "x")]

    assert [answer.status for answer in answers] == [202, 202, 202, 429]
    assert [answer.headers["RateLimit"][:12] for answer in answers[:3]] == [f'"submit";r={n}' for n in (2, 1, 0)]


def test_an_answer_names_so_many_faults_and_no_more() -> None:
    answer = send({"payload": 1} | {f"x{n}": n for n in range(1000)})

    errors = said(answer)["errors"]
    assert len(errors) == MAX_FAULTS + 1
    assert errors[-1] == {"field": "", "message": "and at least 81 more faults"}


def test_a_passed_request_tells_what_is_left(settings: Settings) -> None:
    eve = Client(label="key:eve", rate_key="key:eve", rate_limit_per_minute=3)

    assert send({"payload": 1}, eve).headers["RateLimit"].startswith('"submit";r=2;')


def test_requests_that_are_refused_count_too() -> None:
    eve = Client(label="key:eve", rate_key="key:eve", rate_limit_per_minute=3)

    statuses = [
        send("{", eve).status,
        send(b"", eve).status,
        send({"x": 1}, eve).status,
        send({"payload": 1}, eve).status,
    ]

    assert statuses == [400, 400, 400, 429]
    assert send("{", eve).status == 429


def test_a_limit_of_zero_is_none_and_a_key_has_its_own(settings: Settings) -> None:
    settings.RATE_LIMIT_PER_MINUTE = 1
    assert {send({"payload": n}, CAROL).status for n in range(5)} == {202}
    settings.RATE_LIMIT_PER_MINUTE = 0
    assert {send({"payload": n}, Client(label="x", rate_key="x")).status for n in range(5)} == {202}


# -- the circuit breaker


@pytest.fixture
def guarded() -> Iterator[str]:
    registry.handler("guarded", breaker="orders-db")(_noop)
    yield "guarded"
    registry.forget("guarded")


def test_while_the_breaker_is_open_its_type_is_refused_and_others_are_not(guarded: str) -> None:
    assert send({"payload": 1, "type": guarded}).status == 202
    breaker_for("orders-db").force(BreakerState.FORCED_OPEN, actor="user:olga", reason="maintenance")
    protection._wait_ms.forget()

    refused = send({"payload": 1, "type": guarded})

    assert (refused.status, said(refused)["code"]) == (503, "circuit_open")
    assert int(refused.headers["Retry-After"]) >= 1
    assert send({"payload": 1}).status == 202
    result = said(send_batch({"messages": [{"payload": 1, "type": guarded}, {"payload": 1}]}))["data"]["results"]
    assert result[0]["problem"]["code"] == "circuit_open"


# -- in company


def together(*requests: tuple[str, Client]) -> list[Pending]:
    return [prepare(head(body.encode()), body.encode(), client) for body, client in requests]


def test_each_of_a_group_gets_the_reply_that_it_gets_alone(guarded: str, redis_client: Any) -> None:
    dave = Client(label="key:dave", rate_key="key:dave", source="dave", rate_limit_per_minute=3, may_read=False)
    erin = Client(label="key:erin", rate_key="key:erin", source="erin", rate_limit_per_minute=0)
    breaker_for("orders-db").force(BreakerState.FORCED_OPEN, actor="user:olga", reason="maintenance")
    requests = [
        ('{"messageId":"a","payload":1}', CAROL),
        ('{"messageId":"a","payload":1}', CAROL),
        ('{"messageId":"a","payload":1}', erin),
        ('{"messageId":"a","payload":1}', dave),
        ('{"messageId":"a","payload":2}', CAROL),
        ("{", CAROL),
        ('{"messageId":"spoilt","payload":3}', CAROL),
        ('{"messageId":"b","payload":3}', dave),
        ('{"type":"guarded","messageId":"g","payload":1}', CAROL),
        ('{"messageId":"c","payload":3}', dave),
        ('{"messageId":"d","payload":3}', dave),
        ("{", dave),
        ('{"messageId":"e","payload":3}', CAROL),
    ]
    alone = [send(body, client) for body, client in requests]
    redis_client.flushall()
    breaker_for("orders-db").force(BreakerState.FORCED_OPEN, actor="user:olga", reason="maintenance")

    group = together(*requests)
    assert conclude(group) is None

    def told(replies: list[Reply]) -> list[tuple[int, bytes, dict[str, str]]]:
        return [
            (reply.status, re.sub(rb'"queuedAt":"[^"]+"', b"", reply.body), dict(reply.headers)) for reply in replies
        ]

    assert told([reply_of(pending) for pending in group]) == told(alone)
    assert [reply.status for reply in alone] == [202, 200, 200, 200, 409, 400, 202, 202, 503, 202, 429, 429, 202]


def test_a_group_without_redis_is_refused_without_asking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    away = Ledger(redis.Redis(port=9))
    monkeypatch.setattr(intake, "ledger", lambda: away)
    group = together(('{"payload":1}', CAROL), ("{", Client(label="key:d", rate_key="key:d", rate_limit_per_minute=3)))

    assert isinstance(conclude(group), StoreUnavailable)
    assert [reply_of(pending).status for pending in group] == [503, 400]
    assert "RateLimit" not in reply_of(group[1]).headers  # the limiter was not asked


# -- batches


def test_a_batch_has_one_result_per_message_in_order() -> None:
    send({"messageId": "old", "payload": 1})
    batch = {
        "messages": [
            {"messageId": "a", "payload": {"n": 1}},
            {"messageId": "old", "payload": 1},
            {"messageId": "old", "payload": 2},
            {"payload": 1, "colour": "red"},
            7,
            {"messageId": "a", "payload": {"n": 1}},
            {"messageId": "a", "payload": {"n": 2}},
            {"payload": None},
        ]
    }

    reply = send_batch(batch)

    data = said(reply)["data"]
    results = data["results"]
    assert reply.status == 202
    assert [r["index"] for r in results] == list(range(8))
    assert [r["status"] for r in results] == [
        "accepted", "duplicate", "rejected", "rejected", "rejected", "duplicate", "rejected", "accepted",
    ]  # fmt: skip
    assert [r["problem"]["code"] for r in results if r["status"] == "rejected"] == [
        "idempotency_conflict", "unknown_field", "invalid_message", "idempotency_conflict",
    ]  # fmt: skip
    assert data["counts"] == {"accepted": 2, "duplicate": 2, "rejected": 4}
    assert results[0] == {"index": 0, "status": "accepted", "messageId": "a", "state": "queued"}


def test_each_payload_of_a_batch_is_kept_byte_for_byte() -> None:
    payloads = [line.partition('"payload":')[2].strip()[:-1].rstrip() for line in WEBHOOKS]
    items = ", ".join(f'{{ "messageId":"w{n}" ,"payload" : {payload}}}' for n, payload in enumerate(payloads))

    assert said(send_batch(f' {{"messages" : [ {items} ] }} '))["data"]["counts"]["accepted"] == len(payloads)

    for n, payload in enumerate(payloads):
        assert kept(f"w{n}").body == payload.encode()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ('{"payload":' + "[" * 3000 + "]" * 3000 + "}", "payload_too_deep"),
        ('{"payload":' + "[" * 3000 + '"]\\"]"' + "]" * 3000 + "}", "payload_too_deep"),
        ('{"payload":' + "9" * 5000 + "}", "payload_integer_too_large"),
        ('{"payload":[' + "9" * 5000 + "]}", "payload_integer_too_large"),
        ('{"payload":"\\ud800"}', "payload_contains_surrogate"),
        ('{"payload":"' + "x" * MAX_BODY + '"}', "payload_too_large"),
        ('{"payload":"' + "ä" * (MAX_BODY // 2) + '"}', "payload_too_large"),
        ('{"messageId":{"$gt":""},"payload":1}', "invalid_message"),
        ("[" * 3000 + "]" * 3000, "invalid_message"),
    ],
)
def test_one_bad_message_spoils_none_of_the_others(bad: str, code: str) -> None:
    reply = send_batch(f'{{"messages":[{{"payload":1}},{bad},{{"payload":2}}]}}')

    results = said(reply)["data"]["results"]
    assert [r["status"] for r in results] == ["accepted", "rejected", "accepted"]
    assert results[1]["problem"]["code"] == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("[]", "invalid_message"),
        ("{}", "invalid_message"),
        ('{"messages":[]}', "invalid_message"),
        ('{"messages":{}}', "invalid_message"),
        ('{"messages":null}', "invalid_message"),
        ('{"messages":[{"payload":1}],"x":1}', "unknown_field"),
        ('{"messages":[{"payload":1}],"messages":[]}', "duplicate_field"),
        ('{"messages":[{"payload":1},]}', "invalid_json"),
        ('{"messages":[{"payload":1}],}', "invalid_json"),
        ('{"messages":[{"payload":1}]', "invalid_json"),
        ('{"messages":[{"payload":1}]}}', "invalid_json"),
        ('{"messages":[' + "[" * 3000, "invalid_json"),
        ('{"messages":[' + ",".join(['{"payload":1}'] * 1001) + "]}", "invalid_message"),
    ],
)
def test_a_batch_that_is_wrong_as_a_whole_is_refused_whole(body: str, code: str, redis_client: Any) -> None:
    reply = send_batch(body)

    assert (reply.status, said(reply)["code"]) == (400, code)
    assert redis_client.llen("rq:queue:normal") == 0


def test_a_thousand_messages_are_one_request(settings: Settings) -> None:
    eve = Client(label="key:eve", rate_key="key:eve", rate_limit_per_minute=1)

    first = send_batch({"messages": [{"payload": n} for n in range(1000)]}, eve)
    second = send_batch({"messages": [{"payload": 1}]}, eve)

    assert said(first)["data"]["counts"] == {"accepted": 1000, "duplicate": 0, "rejected": 0}
    assert second.status == 429


def test_a_batch_far_over_eight_mebibytes_is_refused_unread() -> None:
    def read(_: int) -> bytes:
        raise AssertionError("the body was read")

    reply = submit_batch(head(b"") | {"CONTENT_LENGTH": str(MAX_SKIPPED + 1)}, read, CAROL)

    assert (reply.status, said(reply)["code"]) == (413, "payload_too_large")
