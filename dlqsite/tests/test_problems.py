"""Below /api every error is a problem, whatever made it: no page, no stack, nothing that a terminal would obey."""

from __future__ import annotations

import inspect
import json
import re
import socket
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404
from django.test import Client, RequestFactory
from pytest_django import Settings
from rest_framework import exceptions

from dlqsite.api.problems import ApiProblems, handle, write_problem
from dlqsite.tests.people import with_key
from messages_app.domain.errors import MessageInvalid, StoreUnavailable
from wire.problem import printable, problem

pytestmark = [pytest.mark.django_db, pytest.mark.redis]


@pytest.fixture(autouse=True)
def _empty_redis(redis_client: Any) -> None:
    """Reset the rate limits."""


def problem_of(answer: Any) -> dict[str, Any]:
    assert answer["Content-Type"] == "application/problem+json"
    members: dict[str, Any] = json.loads(answer.content)
    assert members["status"] == answer.status_code
    assert {"type", "title", "status", "detail", "code"} <= members.keys()
    assert re.fullmatch("[a-z_]+", members["code"])
    return members


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api", 404),
        ("GET", "/api/", 404),
        ("GET", "/api/nothing", 404),
        ("GET", "/api/messages/", 404),
        ("DELETE", "/api/messages", 405),
        ("OPTIONS", "/api/messages", 405),
        ("GET", "/api/messages/%00", 404),
        ("GET", "/api/messages/a%0Ab", 404),
        ("GET", "/api/messages/" + "a" * 65, 404),
    ],
)
def test_every_error_is_a_problem(settings: Settings, debug: bool, method: str, path: str, status: int) -> None:
    settings.DEBUG = debug

    answer = with_key("admin").generic(method, path)

    assert answer.status_code == status
    problem_of(answer)


def test_a_host_that_is_not_allowed_is_a_problem() -> None:
    answer = Client().get("/api/system/live", headers={"Host": "evil.example"})

    assert answer.status_code == 400
    problem_of(answer)


@pytest.mark.parametrize(("path", "host"), [("/api/nothing", "localhost"), ("/api/messages", "evil.example")])
def test_a_problem_in_place_of_a_page_keeps_what_protects(path: str, host: str) -> None:
    answer = Client().get(path, headers={"Host": host})

    problem_of(answer)
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Length"] == str(len(answer.content))


def test_the_problem_of_a_wrong_host_names_the_setting() -> None:
    assert "ALLOWED_HOSTS" in problem_of(Client().get("/api/messages", headers={"Host": "evil.example"}))["detail"]


def test_the_problem_of_a_wrong_method_lists_the_right_ones() -> None:
    assert problem_of(with_key("admin").get("/api/messages"))["detail"] == "GET is not supported; use POST."
    assert problem_of(with_key("admin").put("/api/messages/m"))["detail"] == "PUT is not supported; use GET or HEAD."


@pytest.mark.parametrize(
    ("status", "reason", "code"),
    [
        (400, "Bad Request", "bad_request"),
        (414, "URI Too Long", "uri_too_long"),
        (431, "Too Large", "headers_too_large"),
    ],
)
def test_what_the_web_server_refuses_itself_is_a_problem_too(status: int, reason: str, code: str) -> None:
    here, there = socket.socketpair()
    with here, there:
        write_problem(here, status, reason, "Invalid <b>\x1b[31m")
        here.shutdown(socket.SHUT_WR)
        head, _, body = there.makefile("rb").read().partition(b"\r\n\r\n")

    assert head.startswith(f"HTTP/1.1 {status} {reason}\r\n".encode())
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head
    members = json.loads(body)
    assert (members["status"], members["code"]) == (status, code)
    assert members["detail"] == "Invalid <b>\\u001b[31m"


def test_the_web_server_still_has_what_is_replaced() -> None:
    gunicorn = pytest.importorskip("gunicorn.util")

    assert list(inspect.signature(gunicorn.write_error).parameters) == list(inspect.signature(write_problem).parameters)


def test_other_pages_are_left_alone() -> None:
    assert Client().get("/nothing")["Content-Type"].startswith("text/html")


def test_an_unexpected_error_reveals_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answer = handle(RuntimeError("password=hunter2"), {"view": None})

    members = problem_of(answer)
    assert members["status"] == 500
    assert "hunter2" not in json.dumps(members)
    assert "hunter2" in caplog.text


def test_an_error_of_a_plain_view_is_a_problem_too() -> None:
    request = RequestFactory().get("/api/x")

    assert problem_of(ApiProblems(lambda r: None).process_exception(request, Http404()))["status"] == 404  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "forbidden"),
        (SuspiciousOperation(), 400, "bad_request"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.NotAcceptable(), 406, "not_acceptable"),
        (exceptions.UnsupportedMediaType("text/plain"), 415, "unsupported_media_type"),
        (exceptions.ParseError("bad"), 400, "invalid_json"),
        (exceptions.Throttled(wait=7), 429, "rate_limited"),
        (StoreUnavailable(), 503, "store_unavailable"),
    ],
)
def test_each_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    members = problem_of(handle(error, {}))

    assert (members["status"], members["code"]) == (status, code)


def test_waiting_times_are_sent() -> None:
    assert handle(exceptions.Throttled(wait=6.2), {})["Retry-After"] == "7"
    assert handle(StoreUnavailable(retry_after=2.0), {})["Retry-After"] == "2"


def test_nested_field_errors_are_flat() -> None:
    error = exceptions.ValidationError(
        {"canary": {"size": ["too big"]}, "ids": [{}, {"x": ["no"]}], "name": ["a", "b"]}
    )

    assert problem_of(handle(error, {}))["errors"] == [
        {"field": "canary.size", "message": "too big"},
        {"field": "ids[1].x", "message": "no"},
        {"field": "name", "message": "a"},
        {"field": "name", "message": "b"},
    ]


def test_faults_of_a_message_are_its_errors() -> None:
    members = problem_of(handle(MessageInvalid([("unknown_type", "type", "no")]), {}))

    assert (members["code"], members["errors"]) == ("unknown_type", [{"field": "type", "message": "no"}])


def test_texts_hold_nothing_that_a_terminal_obeys() -> None:
    assert printable("a\x1b[31m\n\u202e\ud800b") == "a\\u001b[31m \\u202e\\ud800b"
    assert len(printable("x" * 5000)) == 1000
    assert problem(400, "c", "t", "d\0")["detail"] == "d\\u0000"
