"""All doors of intake give the same answers to the same requests: Django's view, the front, and the event loop's."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import RequestFactory
from gunicorn.config import Config
from pytest_django import Settings

from dlqsite.access import believed, known_client, known_keys
from dlqsite.models import ApiKey
from dlqsite.tests.people import a_key, with_key
from dlqsite.web.connection import Wire
from dlqsite.web.door import Door as LoopDoor
from messages_app.rest.front import Front
from messages_app.rest.intake import CHEAP_BODY
from messages_app.store.ledger import ledger

pytestmark = [pytest.mark.django_db, pytest.mark.redis]

Answer = tuple[int, dict[str, str], bytes]
Door = Callable[..., Answer]


class Watched:
    """A door that notes whether Django had to be asked."""

    def __init__(self) -> None:
        self.asked = 0
        self._django = WSGIHandler()

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.asked += 1
        return self._django(environ, start_response)


class Loop:
    """The event loop's door in front of another: a request goes through it as bytes, as in ``worker.py``."""

    def __init__(self, behind: Any) -> None:
        self.answered = 0
        self._behind = behind
        self._posted: SimpleQueue[Any] = SimpleQueue()
        self._door = LoopDoor(Config(), lambda *call: self._posted.put(call))
        self._door.committer.start()

        self.close = self._door.committer.stop

    def __call__(self, environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read()
        environ["wsgi.input"].seek(0)
        names = {"CONTENT_TYPE": "Content-Type", "CONTENT_LENGTH": "Content-Length"}
        fields = [
            (names.get(name) or name[5:].replace("_", "-").title(), value)
            for name, value in environ.items()
            if (name in names or name.startswith("HTTP_")) and value
        ]
        lines = [
            f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} HTTP/1.1",
            *(f"{name}: {v}" for name, v in fields),
        ]
        ours, client = socket.socketpair()
        with ours, client:
            wire = Wire(ours)
            client.sendall("\r\n".join((*lines, "", "")).encode("latin-1") + body)
            wire.receive()
            visit = self._door.read(wire, ("127.0.0.1", 1)) if wire.is_complete() else None
        if visit is None:
            return self._behind(environ, start_response)
        self.answered += 1
        replied: list[Any] = []
        self._door.committer.add(visit.pending, replied.append)
        self._door.committer.turn()
        while not replied:
            function, *arguments = self._posted.get(timeout=20)
            function(*arguments)
        head, _, answer = self._door.answer(visit, stays=True).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        start_response(status.partition(" ")[2], [tuple(line.split(": ", 1)) for line in lines])
        return [answer]


def call(application: Any, body: bytes, *, path: str = "/api/messages", method: str = "POST", **environ: Any) -> Answer:
    headers = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    full = RequestFactory()._base_environ(  # type: ignore[attr-defined]  # the stubs do not know it
        **{"PATH_INFO": path, "REQUEST_METHOD": method, "HTTP_HOST": "localhost", **headers, **environ}
    )
    seen: list[Any] = []
    chunks = application(full, lambda status, headers, *rest: seen.extend((status, headers)))
    answer = b"".join(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    return int(seen[0][:3]), dict(seen[1]), answer


@pytest.fixture(autouse=True)
def _connection_stays_open() -> Iterator[None]:
    """The end of a request must not close the connection of the test's transaction; so does Django's test client."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.fixture
def key(redis_client: Any) -> str:
    return a_key("submit", rate_limit_per_minute=1000)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def doors(watched: Watched) -> Iterator[dict[str, Any]]:
    front = believed(Front(watched, known_client))
    loop = Loop(front)
    yield {"django": watched, "front": front, "loop": loop}
    loop.close()


@pytest.fixture(params=["django", "front", "loop"])
def door(request: pytest.FixtureRequest, key: str, watched: Watched, doors: dict[str, Any]) -> Iterator[Door]:
    """Each door, with the key already known; at the end only Django's may have asked Django."""
    authorization = f"Api-Key {key}"
    known_keys.put(authorization.encode(), ApiKey.objects.get(prefix=key.partition(".")[0]))
    yield lambda body, **environ: call(doors[request.param], body, HTTP_AUTHORIZATION=authorization, **environ)
    assert (watched.asked == 0) is (request.param != "django")
    assert (doors["loop"].answered > 0) is (request.param == "loop")


CASES: list[tuple[bytes, dict[str, Any], int]] = [
    (b'{"messageId":"m","payload":{"a":1}}', {}, 202),
    (b'{"messageId":"m","payload":{"a":1},"priority":"low"}', {"HTTP_IDEMPOTENCY_KEY": "m"}, 202),
    (b'{"messageId":"old","payload":1}', {}, 200),
    (b'{"messageId":"old","payload":2}', {}, 409),
    (b"{", {}, 400),
    (b"", {}, 400),
    (b"[]", {}, 400),
    (b'{"payload":1,"x":1,"type":"nope"}', {}, 400),
    (b'{"payload":' + b"[" * 5000 + b"]" * 5000 + b"}", {}, 400),
    (b'{"payload":"\\ud800"}', {}, 400),
    (b'{"payload":1}', {"CONTENT_TYPE": "text/plain"}, 415),
    (b'{"payload":1}', {"CONTENT_TYPE": "multipart/form-data; boundary=x"}, 415),
    (b'{"payload":1}', {"HTTP_CONTENT_ENCODING": "gzip"}, 415),
    (b'{"payload":1}', {"CONTENT_LENGTH": "262145"}, 413),
    (b'{"payload":1}', {"CONTENT_LENGTH": str(10**9)}, 413),
    (b'{"payload":1}', {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}, 411),
    (b'{"payload":1}', {"HTTP_IDEMPOTENCY_KEY": "not ok"}, 400),
]


@pytest.mark.parametrize(("body", "environ", "status"), CASES)
def test_each_door_gives_the_promised_status(door: Door, body: bytes, environ: dict[str, Any], status: int) -> None:
    door(b'{"messageId":"old","payload":1}')

    answered, headers, text = door(body, **environ)

    assert answered == status
    assert headers["Content-Type"] == ("application/json" if status < 300 else "application/problem+json")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["RateLimit"].startswith('"submit";r=998;')
    assert json.loads(text)


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(("header", "kept"), [(TRACEPARENT, TRACEPARENT), ("00-x", ""), ("x" * 2000, "")])
def test_each_door_keeps_a_valid_trace_and_ignores_any_other(door: Door, header: str, kept: str) -> None:
    status, _, _ = door(b'{"messageId":"m","payload":1}', HTTP_TRACEPARENT=header)

    record = ledger().get("m")
    assert status == 202
    assert record is not None
    assert record.traceparent == kept


def test_the_same_content_in_another_trace_is_a_duplicate(door: Door) -> None:
    door(b'{"messageId":"m","payload":1}', HTTP_TRACEPARENT=TRACEPARENT)

    status, _, _ = door(b'{"messageId":"m","payload":1}', HTTP_TRACEPARENT=TRACEPARENT.replace("4b", "4c"))

    record = ledger().get("m")
    assert status == 200
    assert record is not None
    assert record.traceparent == TRACEPARENT


def test_all_messages_of_a_batch_belong_to_its_trace(key: str) -> None:
    body = b'{"messages":[{"messageId":"a","payload":1},{"messageId":"b","payload":2}]}'
    environ = {"path": "/api/messages/batch", "HTTP_AUTHORIZATION": f"Api-Key {key}", "HTTP_TRACEPARENT": TRACEPARENT}

    status, _, _ = call(Watched(), body, **environ)

    assert status == 202
    assert [record and record.traceparent for record in ledger().get_many(["a", "b"])] == [TRACEPARENT] * 2


@pytest.mark.parametrize(("body", "environ", "status"), CASES)
def test_all_doors_answer_the_same_bytes(
    key: str,
    redis_client: Any,
    watched: Watched,
    doors: dict[str, Any],
    body: bytes,
    environ: dict[str, Any],
    status: int,
) -> None:
    authorization = f"Api-Key {key}"
    answers = []
    for name, application in doors.items():
        redis_client.flushall()
        call(application, b'{"messageId":"old","payload":1}', HTTP_AUTHORIZATION=authorization)
        asked, looped = watched.asked, doors["loop"].answered
        answered, headers, text = call(application, body, HTTP_AUTHORIZATION=authorization, **environ)
        assert watched.asked - asked == (1 if name == "django" else 0)
        usual = len(body) <= CHEAP_BODY and "CONTENT_LENGTH" not in environ
        assert doors["loop"].answered - looped == (1 if name == "loop" and usual else 0)
        told = {
            name: value
            for name, value in headers.items()
            if name in ("Content-Type", "Content-Length", "X-Content-Type-Options", "RateLimit-Policy", "Retry-After")
        }
        answers.append((answered, told, re.sub(rb'"queuedAt":"[^"]+"', b"", text)))

    assert answers[0] == answers[1] == answers[2]


def test_each_door_stops_at_the_limit(redis_client: Any, doors: dict[str, Any]) -> None:
    key = a_key("submit", name="dave", rate_limit_per_minute=3)
    for application in doors.values():
        redis_client.flushall()
        answers = [call(application, b'{"payload":1}', HTTP_AUTHORIZATION=f"Api-Key {key}") for _ in range(4)]
        assert [answer[0] for answer in answers] == [202, 202, 202, 429]
        assert int(answers[3][1]["Retry-After"]) >= 1


def test_each_door_echoes_a_harmless_request_id_and_replaces_any_other(door: Door) -> None:
    assert door(b'{"payload":1}', HTTP_X_REQUEST_ID="abc-1")[1]["X-Request-Id"] == "abc-1"
    assert re.fullmatch("[0-9a-f]{32}", door(b'{"payload":1}', HTTP_X_REQUEST_ID="a\tb" * 30)[1]["X-Request-Id"])


@pytest.mark.parametrize(
    "environ",
    [
        {"path": "/api/messages/batch"},
        {"path": "/api/messages/"},
        {"method": "GET"},
        {"HTTP_AUTHORIZATION": ""},
        {"HTTP_AUTHORIZATION": "Api-Key wrong.wrong"},
        {"HTTP_AUTHORIZATION": "Bearer x"},
        {"HTTP_HOST": "evil.example"},
    ],
)
@pytest.mark.parametrize("name", ["front", "loop"])
def test_what_a_door_is_not_sure_of_is_left_to_django(
    key: str, watched: Watched, doors: dict[str, Any], name: str, environ: dict[str, Any]
) -> None:
    given = {"HTTP_AUTHORIZATION": f"Api-Key {key}"}
    call(doors[name], b'{"payload":1}', **given)
    assert watched.asked == 1
    call(doors[name], b'{"payload":1}', **given)
    assert watched.asked == 1

    call(doors[name], b'{"messages":[{"payload":1}]}', **(given | environ))

    assert watched.asked == 2


@pytest.mark.parametrize("name", ["front", "loop"])
def test_no_door_lets_a_key_in_that_may_only_read(doors: dict[str, Any], redis_client: Any, name: str) -> None:
    key = a_key("read")

    statuses = [call(doors[name], b'{"payload":1}', HTTP_AUTHORIZATION=f"Api-Key {key}")[0] for _ in range(2)]

    assert statuses == [403, 403]


@pytest.mark.parametrize("name", ["front", "loop"])
@pytest.mark.parametrize(("proxies", "is_secure"), [([], False), (["127.0.0.0/8"], True)])
def test_where_https_is_wanted_only_a_trusted_proxy_can_vouch_for_it(
    key: str,
    watched: Watched,
    doors: dict[str, Any],
    settings: Settings,
    name: str,
    proxies: list[str],
    is_secure: bool,
) -> None:
    given = {"HTTP_AUTHORIZATION": f"Api-Key {key}"}
    call(doors[name], b'{"payload":1}', **given)
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    settings.TRUSTED_PROXIES = proxies

    call(doors[name], b'{"payload":1}', **given)
    assert watched.asked == 2
    call(doors[name], b'{"payload":1}', HTTP_X_FORWARDED_PROTO="https", **given)

    assert watched.asked == (2 if is_secure else 3)


@pytest.mark.parametrize(("name", "value"), [("accesslog", "-"), ("proxy_protocol", "v1"), ("statsd_host", "a:1")])
def test_the_loop_leaves_all_to_gunicorn_that_it_does_not_do(
    doors: dict[str, Any], key: str, name: str, value: str
) -> None:
    config = Config()
    config.set(name, value)
    loop = doors["loop"]
    loop._door = LoopDoor(config, loop._posted.put)

    for _ in range(2):
        assert call(loop, b'{"payload":1}', HTTP_AUTHORIZATION=f"Api-Key {key}")[0] == 202
    assert loop.answered == 0


def test_a_message_called_like_another_address_can_be_looked_up(door: Door) -> None:
    door(b'{"messageId":"batch","payload":1}')

    answer = with_key("read").get("/api/messages/batch")

    assert (answer.status_code, answer.json()["data"]["messageId"]) == (200, "batch")


def test_the_payload_reads_back_byte_for_byte(door: Door, key: str) -> None:
    door('{"messageId":"m","payload":{"z" : 1.50, "ä":"\\u00e4"} }'.encode())

    record = ledger().get("m")

    assert record is not None
    assert record.body == '{"z" : 1.50, "ä":"\\u00e4"}'.encode()
