"""Breakers over REST: what readers see, what administrators may do, what is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from pytest_django.fixtures import Settings
from redis import Redis

from breaker_app import conf, services
from breaker_app.states import Outcome, State
from dlqsite.models import ApiKey
from dlqsite.tests.people import audited, member, signed_in
from wire.instants import iso

pytestmark = [pytest.mark.redis, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def policy(settings: Settings, redis_client: Redis) -> Iterator[None]:
    settings.BREAKER_POLICY = {"default": {}, "names": {"orders-db": {"minimum_requests": 4, "when_open": "hold"}}}
    yield
    conf.forget()


def key(*scopes: str) -> dict[str, str]:
    _, secret = ApiKey.objects.create_key(name="-".join(("olga", *scopes)), scopes=list(scopes))
    return {"Authorization": f"Api-Key {secret}"}


@pytest.fixture
def admin() -> dict[str, str]:
    return key("read", "admin")


@pytest.fixture
def reader() -> dict[str, str]:
    return key("read")


def call(method: str, path: str, headers: dict[str, str], body: Any = None) -> tuple[int, dict[str, Any]]:
    response = Client().generic(
        method,
        path,
        data=b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode(),
        content_type="application/json",
        headers=headers,
    )
    return response.status_code, response.json()


def trip(name: str = "orders-db") -> None:
    breaker = conf.breaker_for(name)
    for _ in range(4):
        breaker.record(breaker.acquire(), Outcome.FAILURE, 12)
    assert breaker.peek().state is State.OPEN


def test_the_list_holds_names_of_the_policy_and_of_handlers(reader: dict[str, str]) -> None:
    conf.announce({"mail": 5_000})

    status, body = call("GET", "/api/breakers", reader)

    assert status == 200
    assert [one["name"] for one in body["data"]] == ["mail", "orders-db"]
    assert body["pagination"] == {"page": 1, "limit": 2, "total": 2, "pages": 1}
    assert {one["state"] for one in body["data"]} == {"CLOSED"}


def test_since_survives_probes_and_a_state_of_an_earlier_version(reader: dict[str, str], redis_client: Redis) -> None:
    trip()
    opened_at_ms = services.transitions("orders-db", 1)[0].at_ms
    breaker = conf.breaker_for("orders-db")
    for state in (State.OPEN, State.FORCED_OPEN, State.OPEN):
        breaker.force(state, actor="key:olga", reason="a drill")

    def told() -> list[str]:
        listed = call("GET", "/api/breakers", reader)[1]["data"][0]
        shown = call("GET", "/api/breakers/orders-db", reader)[1]["data"]
        return [listed["since"], shown["since"]]

    since = iso(datetime.fromtimestamp(opened_at_ms / 1000, UTC))
    assert told() == [since, since]
    redis_client.hdel("cb:{orders-db}:s", "left")
    assert told() == [since, since]
    breaker.force(State.CLOSED, actor="key:olga", reason="over")
    assert told() == [None, None]


def test_a_store_that_was_emptied_is_told_the_names_again(reader: dict[str, str], redis_client: Redis) -> None:
    conf.announce({"mail": 5_000})
    redis_client.flushdb()

    conf.announce_again()
    conf.forget()  # as another process, which was told nothing

    assert [one["name"] for one in call("GET", "/api/breakers", reader)[1]["data"]] == ["mail", "orders-db"]


def test_looking_makes_no_breaker(reader: dict[str, str], redis_client: Redis) -> None:
    call("GET", "/api/breakers", reader)
    call("GET", "/api/breakers/orders-db", reader)
    assert redis_client.keys("cb:*") == []


def test_one_breaker_is_shown_with_its_numbers_and_its_story(reader: dict[str, str]) -> None:
    trip()

    status, body = call("GET", "/api/breakers/orders-db", reader)

    shown = body["data"]
    assert status == 200
    assert (shown["state"], shown["due"], shown["whenOpen"]) == ("OPEN", False, "hold")
    assert shown["counts"] == {"total": 4, "failures": 4, "slow": 0}
    assert shown["failureRate"] == 1.0
    assert shown["retryAfter"] in (29, 30)
    assert shown["thresholds"]["minimumRequests"] == 4
    assert shown["thresholds"]["failureThreshold"] == 0.5
    (change,) = shown["transitions"]
    assert (change["from"], change["to"], change["why"]) == ("CLOSED", "OPEN", "failure_rate")
    assert (change["actor"], change["reason"]) == ("system", "4 of 4 calls failed")
    assert change["at"].endswith("Z")
    assert len(change["at"]) == len("2026-01-31T08:30:00.000Z")


@pytest.mark.parametrize(
    ("verb", "state"), [("force-open", "FORCED_OPEN"), ("disable", "DISABLED"), ("reset", "CLOSED")]
)
def test_an_order_is_carried_out_and_written_down(admin: dict[str, str], verb: str, state: str) -> None:
    trip()

    status, body = call("POST", f"/api/breakers/orders-db/{verb}", admin, {"reason": "  INC-7: db fail-over  "})

    assert status == 200
    assert body["data"]["state"] == state
    newest = body["data"]["transitions"][0]
    assert (newest["from"], newest["to"], newest["why"]) == ("OPEN", state, "manual")
    assert (newest["reason"], newest["actor"]) == ("INC-7: db fail-over", "key:olga-read-admin")


@pytest.mark.parametrize("verb", ["force-open", "disable", "reset"])
def test_what_staff_order_is_in_the_audit_log_once(verb: str) -> None:
    client = signed_in(member("administrator"))
    url = f"/api/breakers/orders-db/{verb}"

    refused = client.post(url, {"reason": " "}, content_type="application/json")
    unknown = client.post(f"/api/breakers/nobody/{verb}", {"reason": "x"}, content_type="application/json")
    done = client.post(url, {"reason": " INC-7 "}, content_type="application/json")

    assert (refused.status_code, unknown.status_code, done.status_code) == (400, 404, 200)
    entry = audited().get()
    assert (entry.who, entry.object_id) == ("user:administrator", "orders-db")
    assert entry.said == f"{verb}: INC-7"
    assert done.json()["data"]["transitions"][0]["actor"] == "user:administrator"


def test_what_a_key_orders_is_in_both_logs(admin: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    assert call("POST", "/api/breakers/orders-db/force-open", admin, {"reason": "INC-7"})[0] == 200

    entry = audited().get()
    assert (entry.who, entry.said) == ("key:olga-read-admin", "force-open: INC-7")
    (line,) = [record for record in caplog.records if record.getMessage() == "breaker_ordered"]
    said = vars(line)
    assert (said["breaker"], said["order"], said["by"], said["why"]) == (
        "orders-db", "force-open", "key:olga-read-admin", "INC-7",
    )  # fmt: skip


def test_a_secret_in_a_reason_is_hidden_wherever_it_is_read(admin: dict[str, str], reader: dict[str, str]) -> None:
    reason = "the gateway takes password=Hunter2x again"

    status, ordered = call("POST", "/api/breakers/orders-db/disable", admin, {"reason": reason})
    _, read = call("GET", "/api/breakers/orders-db", reader)
    page = signed_in(member("viewer")).get("/admin/breaker_app/breaker/?name=orders-db").content.decode()
    overview = services.transitions("orders-db", 1)

    assert status == 200
    assert {body["data"]["transitions"][0]["reason"] for body in (ordered, read)} == {
        "the gateway takes password=••• again"
    }
    assert "password=•••" in page
    assert "Hunter2x" not in page
    assert overview[0].reason == "the gateway takes password=••• again"


def test_a_member_of_staff_without_the_role_orders_nothing() -> None:
    client = signed_in(member("operator"))
    answer = client.post("/api/breakers/orders-db/reset", {"reason": "x"}, content_type="application/json")
    assert answer.status_code == 403
    assert not audited().exists()


def test_forced_open_has_no_retry_after(admin: dict[str, str]) -> None:
    _, body = call("POST", "/api/breakers/orders-db/force-open", admin, {"reason": "x"})
    assert body["data"]["retryAfter"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": ""},
        {"reason": " \n "},
        {"reason": "x" * 501},
        {"reason": 7},
        {"reason": None},
        {"reason": "nul \x00"},
        {"reason": "x", "state": "CLOSED"},
        [],
        "reason",
        b'{"reason": "\\ud800"}',
        b"{",
    ],
    ids=repr,
)
def test_an_order_without_a_usable_reason_is_refused(admin: dict[str, str], redis_client: Redis, body: Any) -> None:
    status, problem = call("POST", "/api/breakers/orders-db/reset", admin, body)

    assert status == 400
    assert problem["code"] in ("invalid_request", "invalid_json")
    assert problem["errors"]
    assert redis_client.keys("cb:*") == []


def test_a_reason_may_have_500_characters(admin: dict[str, str]) -> None:
    status, body = call("POST", "/api/breakers/orders-db/reset", admin, {"reason": "ß" * 500})
    assert status == 200
    assert body["data"]["transitions"][0]["reason"] == "ß" * 500


@pytest.mark.parametrize("name", ["nobody", "a%7Bb%7D", "orders-db%0A", "%00"])
@pytest.mark.parametrize("verb", ["", "/reset"])
def test_a_name_nobody_uses_is_not_found(admin: dict[str, str], redis_client: Redis, name: str, verb: str) -> None:
    method = "POST" if verb else "GET"
    status, problem = call(method, f"/api/breakers/{name}{verb}", admin, {"reason": "x"} if verb else None)
    assert status == 404
    assert problem["code"] == "breaker_not_found"
    assert redis_client.keys("cb:*") == []


@pytest.mark.parametrize("verb", ["force-open", "disable", "reset"])
def test_a_reader_gives_no_orders(reader: dict[str, str], redis_client: Redis, verb: str) -> None:
    status, problem = call("POST", f"/api/breakers/orders-db/{verb}", reader, {"reason": "x"})
    assert (status, problem["code"]) == (403, "forbidden")
    assert redis_client.keys("cb:*") == []


@pytest.mark.parametrize("path", ["/api/breakers", "/api/breakers/orders-db"])
def test_a_stranger_sees_nothing(path: str) -> None:
    assert call("GET", path, {})[0] == 401
    assert call("GET", path, key("submit"))[0] == 403


def test_an_outage_is_said_and_not_guessed(reader: dict[str, str], settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    for path in ("/api/breakers", "/api/breakers/orders-db"):
        status, problem = call("GET", path, reader)
        assert (status, problem["code"]) == (503, "store_unavailable")
