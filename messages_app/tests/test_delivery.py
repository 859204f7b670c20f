"""``http.deliver``: what is sent, and what is made of the answer."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from dlqsite.tests.receiver import Receiver
from messages_app import failures
from messages_app.delivery import client
from messages_app.delivery.client import MAX_WAIT_S, deliver, seconds_to_wait
from messages_app.delivery.pool import MAX_AGE_S, Pools
from messages_app.delivery.response import MAX_HEAD, MAX_INTERIM
from messages_app.domain import signing
from messages_app.envelope import Message
from messages_app.failures import Failure, HandlerError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + "QUFB" * 8


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(secret=SECRET) as running:
        yield running


@pytest.fixture
def pools() -> Iterator[Pools]:
    made = Pools()
    yield made
    made.close()


@pytest.fixture
def allow(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Allow a host: ``allow("127.0.0.1:9000", read_timeout_ms=100)``."""
    monkeypatch.setenv("HOOKS_SECRET", SECRET)
    monkeypatch.setenv("HOOKS_OLD", OTHER)
    hosts: dict[str, Any] = {}

    def add(name: str, **differing: Any) -> None:
        common = {"schemes": ["http"], "secrets": ["HOOKS_SECRET"], "allow_private": True}
        hosts[name] = {key: value for key, value in {**common, **differing}.items() if value is not None}
        settings.DELIVERY_POLICY = {"hosts": dict(hosts)}

    return add


@pytest.fixture
def local(receiver: Receiver, allow: Callable[..., None]) -> Receiver:
    """A receiver that the policy allows."""
    allow(f"127.0.0.1:{receiver.port}")
    return receiver


def a_message(payload: Any, *, text: str | None = None, seconds: float = 30, **differing: Any) -> Message:
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": "m1", "type": "http.deliver", "payload": payload, "attempt": 1, "queued_at": now,
        "deadline": now + timedelta(seconds=seconds), "idempotency_key": "m1",
        "text": json.dumps(payload) if text is None else text,
    }  # fmt: skip
    return Message(**{**fields, **differing})


def the_error(payload: Any, pools: Pools, **more: Any) -> Failure:
    with pytest.raises(HandlerError) as caught:
        deliver(a_message(payload, **more), pools)
    return failures.classify(caught.value)


def test_the_answer_is_the_result(local: Receiver, pools: Pools) -> None:
    result = deliver(a_message({"url": local.url, "body": {"order": 7}}), pools)

    assert {**result, "ms": 0} == {"status": 200, "ms": 0, "bytes": 11, "snippet": '{"ok":true}'}
    (seen,) = local.seen
    assert (seen.path, seen.body, seen.signed) == ("/hook", b'{"order": 7}', True)
    assert seen.headers["content-type"] == "application/json"
    assert seen.headers["host"] == f"127.0.0.1:{local.port}"
    assert seen.headers["webhook-id"] == seen.headers["idempotency-key"] == "m1"


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ('{"url":"URL","body":{"a" : 1.10,\n"b":[ ], "č":"\\u017e\\/"}}', '{"a" : 1.10,\n"b":[ ], "č":"\\u017e\\/"}'),
        ('{ "body" : 1e5 , "url":"URL" }', "1e5"),
        ('{"b\\u006fdy":"x","url":"URL"}', '"x"'),
        ('{"body":1,"url":"URL","body":[2]}', "[2]"),
        ('{"url":"URL","body":null}', "null"),
        ('{"url":"URL","body":"}{\\"body\\":1"}', '"}{\\"body\\":1"'),
        ('{"url":"URL", "order":7.0}', '{"url":"URL", "order":7.0}'),
    ],
)
def test_the_body_is_sent_byte_for_byte_as_it_was_submitted(
    local: Receiver, pools: Pools, text: str, sent: str
) -> None:
    text = text.replace("URL", local.url)

    deliver(a_message(json.loads(text), text=text), pools)

    assert local.seen[0].body.decode() == sent.replace("URL", local.url)
    assert local.seen[0].signed


def test_without_the_text_the_value_is_written_compactly(local: Receiver, pools: Pools) -> None:
    deliver(a_message({"url": local.url, "body": {"č": [1, 2]}}, text=""), pools)
    assert local.seen[0].body.decode() == '{"č":[1,2]}'


def test_headers_of_the_message_are_sent_along(local: Receiver, pools: Pools) -> None:
    deliver(
        a_message({"url": local.url, "body": 1, "headers": {"X-Tenant": "a b", "Authorization": "Bearer t"}}), pools
    )
    assert local.seen[0].headers["x-tenant"] == "a b"
    assert local.seen[0].headers["authorization"] == "Bearer t"


def test_the_id_stays_and_the_time_moves_from_attempt_to_attempt(local: Receiver, pools: Pools) -> None:
    local.mode = "error"
    for attempt in (1, 2):
        assert the_error({"url": local.url, "body": 1}, pools, attempt=attempt).error_type == "SERVICE_UNAVAILABLE"
    local.mode = "ok"
    deliver(a_message({"url": local.url, "body": 1}, attempt=3), pools)
    deliver(a_message({"url": local.url, "body": 2}, idempotency_key="m1.v1"), pools)

    assert local.keys() == {"m1": 3, "m1:v1": 1}
    assert all(seen.signed for seen in local.seen)


def test_while_secrets_are_exchanged_both_sign(allow: Callable[..., None], pools: Pools) -> None:
    with Receiver(secret=OTHER) as old:
        allow(f"127.0.0.1:{old.port}", secrets=["HOOKS_SECRET", "HOOKS_OLD"])
        deliver(a_message({"url": old.url, "body": 1}), pools)

    (seen,) = old.seen
    assert seen.signed
    assert signing.is_signed(signing.key_of(SECRET), seen.headers, seen.body, now=time.time())
    assert len(seen.headers["webhook-signature"].split(" ")) == 2


def test_a_host_may_be_delivered_to_unsigned(allow: Callable[..., None], pools: Pools) -> None:
    with Receiver() as plain:
        allow(f"127.0.0.1:{plain.port}", secrets=None, unsigned=True)
        deliver(a_message({"url": plain.url, "body": 1}), pools)

    assert "webhook-signature" not in plain.seen[0].headers
    assert plain.seen[0].key == "m1"


@pytest.mark.parametrize(("value", "said"), [("", "is not set"), ("hunter2hunter2", "base64")])
def test_without_its_secret_nothing_is_sent(
    local: Receiver, pools: Pools, monkeypatch: pytest.MonkeyPatch, value: str, said: str
) -> None:
    monkeypatch.setenv("HOOKS_SECRET", value)

    failure = the_error({"url": local.url, "body": 1}, pools)

    assert (failure.error_type, failure.kind) == ("AUTHENTICATION_ERROR", "permanent")
    assert "HOOKS_SECRET" in failure.reason
    assert said in failure.reason
    assert "hunter2" not in failure.reason + failure.stack
    assert local.seen == []


# -- what is refused before anything is sent


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ([], "must be an object"),
        ("https://a.example/", "must be an object"),
        ({}, "url must be the text of a URL"),
        ({"url": "ftp://a.example/", "body": 1}, "http:// or https://"),
        ({"url": "http://u:p@a.example/", "body": 1}, "must not hold a user"),
        ({"url": "http://0x7f.1/", "body": 1}, "oddly"),
        ({"url": "URL", "body": 1, "method": "PUT"}, "method is no field beside body; known are url, body, headers"),
        ({"url": "URL", "headers": {}}, "headers need a body"),
        ({"url": "URL", "body": 1, "headers": []}, "headers must be an object"),
        ({"url": "URL", "body": 1, "headers": {str(n): "x" for n in range(21)}}, "at most 20"),
        ({"url": "URL", "body": 1, "headers": {"X": "1", "x": "2"}}, "twice"),
        ({"url": "URL", "body": 1, "headers": {"X-Y": "1", "x_y": "2"}}, "twice"),
        ({"url": "URL", "body": 1, "headers": {"Webhook_Id": "x"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"content_length": "0"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"X Y": "1"}}, "no name of a header"),
        ({"url": "URL", "body": 1, "headers": {"": "1"}}, "no name of a header"),
        ({"url": "URL", "body": 1, "headers": {"X": 5}}, "printable ASCII"),
        ({"url": "URL", "body": 1, "headers": {"X": "a\r\nY: b"}}, "printable ASCII"),
        ({"url": "URL", "body": 1, "headers": {"X": "é"}}, "printable ASCII"),
        ({"url": "URL", "body": 1, "headers": {"host": "b"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"Content-Length": "0"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"Transfer-Encoding": "chunked"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"Webhook-Id": "x"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"Proxy-Authorization": "x"}}, "not the message's to set"),
        ({"url": "URL", "body": 1, "headers": {"Cookie": "x"}}, "not the message's to set"),
    ],
)
def test_a_payload_that_asks_for_nothing_possible_is_dead_at_once(
    local: Receiver, pools: Pools, payload: Any, said: str
) -> None:
    if isinstance(payload, dict) and payload.get("url") == "URL":
        payload = {**payload, "url": local.url}

    failure = the_error(payload, pools)

    assert (failure.error_type, failure.kind) == ("VALIDATION_ERROR", "permanent")
    assert said in failure.reason
    assert local.connections == 0


def test_a_host_that_the_policy_does_not_name_is_refused_with_what_to_add(settings: Settings, pools: Pools) -> None:
    settings.DELIVERY_POLICY = {}

    failure = the_error({"url": "https://hooks.example.org/secret-path", "body": 1}, pools)

    assert (failure.error_type, failure.kind) == ("VALIDATION_ERROR", "permanent")
    assert '[hosts."hooks.example.org"]' in failure.reason
    assert "delivery.toml" in failure.reason
    assert "secret-path" not in failure.reason


# -- addresses


class Names:
    """A resolver that says what it is told, and counts how often it is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    ("addresses", "allow_private", "kind"),
    [
        (["127.0.0.1"], False, "loopback"),
        (["8.8.8.8", "10.0.0.1"], False, "private"),
        (["::ffff:127.0.0.1"], False, "loopback"),
        (["64:ff9b::a00:1"], False, "private"),
        (["100.64.1.1"], False, "shared (CGNAT)"),
        (["169.254.169.254"], True, "link-local"),
        (["127.0.0.1", "169.254.169.254"], True, "link-local"),
        (["224.0.0.1"], True, "multicast"),
    ],
)
def test_one_forbidden_address_closes_a_name(
    receiver: Receiver, allow: Callable[..., None], addresses: list[str], allow_private: bool, kind: str
) -> None:
    allow("hooks.test", ports=[receiver.port], allow_private=allow_private)

    failure = the_error({"url": f"http://hooks.test:{receiver.port}/", "body": 1}, Pools(Names(addresses)))

    assert (failure.error_type, failure.kind) == ("VALIDATION_ERROR", "permanent")
    assert f"a {kind} address" in failure.reason
    assert 'allow_private of [hosts."hooks.test"]' in failure.reason
    assert receiver.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:7f00:1]"])
def test_a_literal_address_is_judged_too(
    receiver: Receiver, allow: Callable[..., None], pools: Pools, host: str
) -> None:
    allow(host, ports=[receiver.port], allow_private=False)

    failure = the_error({"url": f"http://{host}:{receiver.port}/", "body": 1}, pools)

    assert "loopback address" in failure.reason
    assert receiver.connections == 0


def test_what_a_name_says_later_cannot_matter(receiver: Receiver, allow: Callable[..., None]) -> None:
    # 127.0.0.2 is where nobody listens: a second look-up would be noticed, whichever of the two was connected to.
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    allow("hooks.test", ports=[receiver.port])

    result = deliver(a_message({"url": f"http://hooks.test:{receiver.port}/x", "body": 1}), Pools(names))

    assert result["status"] == 200
    assert names.asked == 1
    assert receiver.seen[0].headers["host"] == f"hooks.test:{receiver.port}"


def test_a_new_address_is_judged_when_a_connection_is_made_to_it(
    receiver: Receiver, allow: Callable[..., None]
) -> None:
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    allow("hooks.test", ports=[receiver.port])
    pools = Pools(names)
    payload = {"url": f"http://hooks.test:{receiver.port}/", "body": 1}
    deliver(a_message(payload), pools)
    deliver(a_message(payload), pools)
    assert names.asked == 1, "the open connection leads where it led"

    receiver.mode = "hang_up"
    assert the_error(payload, pools).error_type == "NETWORK_ERROR"
    receiver.mode = "ok"

    assert "link-local" in the_error(payload, pools).reason


def test_an_old_connection_is_not_used_again(local: Receiver, pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = {"url": local.url, "body": 1}
    for _ in range(3):
        deliver(a_message(payload), pools)
    assert local.connections == 1

    now = time.monotonic
    monkeypatch.setattr("messages_app.delivery.pool._monotonic", lambda: now() + MAX_AGE_S + 1)
    deliver(a_message(payload), pools)

    assert local.connections == 2


def test_a_dead_address_does_not_eat_the_time_of_the_next(receiver: Receiver, allow: Callable[..., None]) -> None:
    allow("hooks.test", ports=[receiver.port])
    pools = Pools(Names(["127.0.0.3", "::1", "127.0.0.1"]))

    assert deliver(a_message({"url": f"http://hooks.test:{receiver.port}/", "body": 1}), pools)["status"] == 200


def test_a_name_that_is_not_found_may_be_found_later(allow: Callable[..., None]) -> None:
    def fails(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    allow("hooks.test")
    failure = the_error({"url": "http://hooks.test/", "body": 1}, Pools(fails))

    assert (failure.error_type, failure.kind) == ("NETWORK_ERROR", "transient")


def test_a_resolver_that_hangs_is_not_waited_for(allow: Callable[..., None]) -> None:
    never = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        never.wait(30)
        return []

    allow("hooks.test", connect_timeout_ms=100)
    failure = the_error({"url": "http://hooks.test/", "body": 1}, Pools(hangs))
    never.set()

    assert failure.error_type == "TIMEOUT_ERROR"


def test_a_proxy_of_the_environment_is_not_used(local: Receiver, pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)

    assert deliver(a_message({"url": local.url, "body": 1}), pools)["status"] == 200


# -- answers


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [
        (400, "VALIDATION_ERROR", "permanent"),
        (401, "AUTHENTICATION_ERROR", "permanent"),
        (403, "AUTHORIZATION_ERROR", "permanent"),
        (404, "NOT_FOUND_ERROR", "permanent"),
        (408, "TIMEOUT_ERROR", "transient"),
        (409, "VALIDATION_ERROR", "permanent"),
        (410, "NOT_FOUND_ERROR", "permanent"),
        (422, "VALIDATION_ERROR", "permanent"),
        (429, "RATE_LIMIT_ERROR", "transient"),
        (500, "SERVICE_UNAVAILABLE", "transient"),
        (502, "SERVICE_UNAVAILABLE", "transient"),
        (503, "SERVICE_UNAVAILABLE", "transient"),
        (504, "SERVICE_UNAVAILABLE", "transient"),
        (304, "VALIDATION_ERROR", "permanent"),
        (600, "NETWORK_ERROR", "transient"),
    ],
)
def test_a_status_is_an_error_type(local: Receiver, pools: Pools, status: int, error_type: str, kind: str) -> None:
    local.mode, local.status = "error", status

    failure = the_error({"url": local.url, "body": 1}, pools)

    assert (failure.error_type, failure.kind) == (error_type, kind)
    assert str(status) in failure.reason
    assert "/hook" not in failure.reason


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_is_done(local: Receiver, pools: Pools, status: int) -> None:
    local.status, local.answer = status, b""

    assert deliver(a_message({"url": local.url, "body": 1}), pools)["status"] == status


@pytest.mark.parametrize(
    ("mode", "error_type", "wait_s"),
    [("busy", "RATE_LIMIT_ERROR", 3), ("unavailable", "SERVICE_UNAVAILABLE", 3), ("busy_until", "RATE_LIMIT_ERROR", 5)],
)
def test_retry_after_is_handed_on(local: Receiver, pools: Pools, mode: str, error_type: str, wait_s: int) -> None:
    local.mode = mode

    failure = the_error({"url": local.url, "body": 1}, pools)

    assert failure.error_type == error_type
    assert failure.retry_after_ms is not None
    assert (wait_s - 1.1) * 1000 < failure.retry_after_ms <= wait_s * 1000


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0), ("120", 120), (" 7 ", 7), ("999999999", 999_999_999), ("-1", None), ("1.5", 1.5), ("", None),
        (None, None), ("soon", None), ("١٢", None), ("1e3", None), ("inf", None),
        # beyond what anybody waits
        ("99999999999", MAX_WAIT_S), ("9" * 400, MAX_WAIT_S), ("9" * 5000, MAX_WAIT_S),
        ("Fri, 31 Dec 99999 23:59:59 GMT", MAX_WAIT_S), ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_WAIT_S),
        # dates in their three forms
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0), ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("Tue, 14 Nov 2023 22:13:30 -0000", 10), ("Tuesday, 14-Nov-23 22:13:30 GMT", 10),
        ("Tue Nov 14 22:13:30 2023", 10), ("Tue, 14 Nov 2023 22:13:30 +0100", 0), ("Tue, 99 Nov 2023 22:13:30", None),
        # several, as proxies join them
        ("120, 120", 120), ("5,120 , 7", 120), ("soon, 7", 7), ("Tue, 14 Nov 2023 22:13:30 GMT, 3", 10),
        ("3, Tue, 14 Nov 2023 22:13:30 GMT", 10), (", ,", None),
    ],
)  # fmt: skip
def test_retry_after_is_read(value: str | None, seconds: float | None) -> None:
    assert seconds_to_wait(value, 1_700_000_000) == seconds


@given(st.text(max_size=40) | st.datetimes(timezones=st.just(UTC)).map(lambda at: format_datetime(at, usegmt=True)))
def test_no_retry_after_is_negative_or_an_accident(value: str) -> None:
    found = seconds_to_wait(value, 1_700_000_000)
    assert found is None or 0 <= found <= MAX_WAIT_S


def test_a_redirect_is_not_followed_and_named(local: Receiver, pools: Pools) -> None:
    local.mode = "redirect"

    failure = the_error({"url": local.url, "body": 1}, pools)

    assert (failure.error_type, failure.kind) == ("VALIDATION_ERROR", "permanent")
    assert "answered 302, a redirect to http://169.254.169.254: redirects are not followed." in failure.reason
    assert local.connections == 1


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("https://hooks.test/T0/path-secret?key=query-secret#f", ", a redirect to https://hooks.test:"),
        ("/T0/path-secret/?key=query-secret", ", a redirect to another path of the same host:"),
        ("//u:password-secret@hooks.test/", ", a redirect to an address that cannot be read:"),
        ("mailto:path-secret", ", a redirect to an address that cannot be read:"),
        ("http://[path-secret", ", a redirect to an address that cannot be read:"),
        ("", "answered 302: redirects"),
    ],
)
def test_of_a_redirect_only_the_host_is_told(local: Receiver, pools: Pools, location: str, said: str) -> None:
    local.mode, local.location = "redirect", location

    failure = the_error({"url": f"{local.url}/T0/path-secret", "body": 1}, pools)

    assert said in failure.reason
    assert "secret" not in failure.reason + failure.stack


#: Answers after which the message is delivered: the head of a 2xx came whole, and its status decides.
DELIVERED = {
    "100": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "103, 103, 102": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2
    + b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "104 with many fields": b"HTTP/1.1 104 Upload Resumption\r\n" + b"X: y\r\n" * 300
    + b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "199": b"HTTP/1.1 199 Odd\r\nContent-Length: 900\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3000 + b"Content-Length: 2\r\n\r\nok",
    "a long field": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "a line that is no field": b"HTTP/1.1 200 OK\r\nno field\r\nContent-Length: 2\r\n\r\nok",
    "folded": b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\nContent-Length:\r\n 2\r\n\r\nok",
    "lines end with LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "the same length twice": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
}  # fmt: skip
#: The same, but the body cannot be read to its end.
UNFINISHED = {
    "too short": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "close"),
    "reset": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "reset"),
    "broken chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n", ""),
    "negative chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", ""),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", ""),
    "a length that is none": (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nok", ""),
    "an unknown coding": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nok", ""),
    "a head without end": (b"HTTP/1.1 200 OK\r\n" + b"X: yyyy\r\n" * (MAX_HEAD // 9 + 1), ""),
    "silence": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", ""),
}  # fmt: skip


@pytest.mark.parametrize("answer", DELIVERED)
def test_interim_answers_and_odd_heads_do_not_hide_a_2xx(local: Receiver, pools: Pools, answer: str) -> None:
    local.mode, local.raw = "raw", DELIVERED[answer]

    result = deliver(a_message({"url": local.url, "body": 1}), pools)

    assert (result["status"], result["snippet"], "truncated" in result) == (200, "ok", False)
    deliver(a_message({"url": local.url, "body": 1}), pools)
    assert local.connections == (2 if answer == "a line that is no field" else 1), "one in doubt is not used again"


@pytest.mark.parametrize("answer", UNFINISHED)
def test_a_2xx_is_delivered_whatever_becomes_of_its_body(
    receiver: Receiver, allow: Callable[..., None], pools: Pools, answer: str
) -> None:
    receiver.mode, (receiver.raw, receiver.raw_end) = "raw", UNFINISHED[answer]
    allow(f"127.0.0.1:{receiver.port}", read_timeout_ms=200)

    result = deliver(a_message({"url": receiver.url, "body": 1}), pools)

    assert (result["status"], result["truncated"]) == (200, True)
    receiver.mode = "ok"
    deliver(a_message({"url": receiver.url, "body": 1}), pools)
    assert receiver.connections == 2, "one in doubt is not used again"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INTERIM + 1) + b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"200 OK\r\n\r\n",
    ],
)
def test_without_the_whole_head_of_an_answer_nothing_is_delivered(local: Receiver, pools: Pools, answer: bytes) -> None:
    local.mode, local.raw, local.raw_end = "raw", answer, "close"

    failure = the_error({"url": local.url, "body": 1}, pools)

    assert (failure.error_type, failure.kind) == ("NETWORK_ERROR", "transient")


@pytest.mark.parametrize("length", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_204_that_announces_a_body_closes_its_connection(local: Receiver, pools: Pools, length: bytes) -> None:
    local.mode, local.raw = "raw", b"HTTP/1.1 204 No Content\r\n" + length

    for _ in range(2):
        assert deliver(a_message({"url": local.url, "body": 1}), pools)["status"] == 204
    assert local.connections == 2


@pytest.mark.parametrize(
    "fields", [b"Retry-After: 5\r\nRetry-After: 120\r\n", b"X: y\r\n" * 150 + b"Retry-After: 120\r\n"]
)
def test_retry_after_is_found_wherever_it_is(local: Receiver, pools: Pools, fields: bytes) -> None:
    local.mode, local.raw = "raw", b"HTTP/1.1 503 Busy\r\n" + fields + b"Content-Length: 0\r\n\r\n"

    assert the_error({"url": local.url, "body": 1}, pools).retry_after_ms == 120_000


@pytest.mark.parametrize("target", ['/a%2fb%7e%zz/{x}|"<>^`', "/?", "/a//../b?c=%3a'%%&d", "?x=%2F{}"])
def test_path_and_query_are_sent_as_submitted(local: Receiver, pools: Pools, target: str) -> None:
    deliver(a_message({"url": f"http://127.0.0.1:{local.port}{target}", "body": 1}), pools)

    assert local.seen[0].path == (target if target.startswith("/") else f"/{target}")


@pytest.mark.parametrize("mode", ["reset", "hang_up", "garbage"])
def test_a_broken_answer_is_the_networks_fault(local: Receiver, pools: Pools, mode: str) -> None:
    local.mode = mode

    failure = the_error({"url": local.url, "body": 1}, pools)

    assert (failure.error_type, failure.kind) == ("NETWORK_ERROR", "transient")


def test_nobody_listening_is_the_networks_fault(local: Receiver, allow: Callable[..., None], pools: Pools) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        allow(f"127.0.0.1:{port}")
        failure = the_error({"url": f"http://127.0.0.1:{port}/", "body": 1}, pools)

    assert failure.error_type == "NETWORK_ERROR"
    assert "refused" in failure.reason


@pytest.mark.parametrize("mode", ["silent", "drip_headers", "go_on"])
@pytest.mark.parametrize("limit", ["policy", "attempt"])
def test_no_answer_takes_longer_than_a_delivery_may(
    receiver: Receiver, allow: Callable[..., None], pools: Pools, mode: str, limit: str
) -> None:
    """Every 50 ms a byte comes, which no time-out of a single read would end."""
    receiver.mode = mode
    allow(f"127.0.0.1:{receiver.port}", total_timeout_ms=300 if limit == "policy" else 60_000, read_timeout_ms=60_000)

    failure = the_error({"url": receiver.url, "body": 1}, pools, seconds=30 if limit == "policy" else 0.6)

    assert (failure.error_type, failure.kind) == ("TIMEOUT_ERROR", "transient")


@pytest.mark.parametrize("mode", ["drip", "drip_pieces"])
def test_a_body_that_drips_ends_with_the_time_of_its_delivery(
    receiver: Receiver, allow: Callable[..., None], pools: Pools, mode: str
) -> None:
    receiver.mode = mode
    allow(f"127.0.0.1:{receiver.port}", total_timeout_ms=300, read_timeout_ms=60_000)

    result = deliver(a_message({"url": receiver.url, "body": 1}), pools)

    assert (result["status"], result["truncated"]) == (200, True)
    assert result["bytes"] < 100


def test_silence_ends_with_the_wait_for_one_part(receiver: Receiver, allow: Callable[..., None], pools: Pools) -> None:
    receiver.mode = "silent"
    allow(f"127.0.0.1:{receiver.port}", total_timeout_ms=60_000, read_timeout_ms=200)

    assert the_error({"url": receiver.url, "body": 1}, pools).error_type == "TIMEOUT_ERROR"


def test_a_receiver_that_does_not_read_is_given_up(allow: Callable[..., None], pools: Pools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        allow(f"127.0.0.1:{port}", total_timeout_ms=300)
        failure = the_error({"url": f"http://127.0.0.1:{port}/", "body": "x" * 20_000_000}, pools, text="")

    assert failure.error_type == "TIMEOUT_ERROR"


def test_an_attempt_without_time_left_sends_nothing(local: Receiver, pools: Pools) -> None:
    assert the_error({"url": local.url, "body": 1}, pools, seconds=0.1).error_type == "TIMEOUT_ERROR"
    assert local.seen == []


def test_an_endless_answer_is_cut(local: Receiver, pools: Pools) -> None:
    local.mode = "endless"

    result = deliver(a_message({"url": local.url, "body": 1}), pools)

    assert (result["bytes"], result["truncated"], len(result["snippet"])) == (65_536, True, 200)
    local.mode = "ok"
    deliver(a_message({"url": local.url, "body": 1}), pools)
    assert local.connections == 2, "a connection with more to come is not used again"


def test_a_packed_answer_is_not_unpacked(local: Receiver, pools: Pools) -> None:
    """A few bytes that would become ten million are counted and shown as they came, whatever the answer calls them."""
    bomb = gzip.compress(b"y" * 10_000_000)
    assert len(bomb) < 65_536
    local.mode, local.answer = "packed", bomb

    result = deliver(a_message({"url": local.url, "body": 1}), pools)

    assert (result["status"], result["bytes"], "truncated" in result) == (200, len(bomb), False)
    assert "yyy" not in result["snippet"]
    assert local.seen[0].headers["accept-encoding"] == "identity"


def test_an_answer_in_endless_pieces_is_cut(local: Receiver, pools: Pools) -> None:
    local.mode = "endless_pieces"

    result = deliver(a_message({"url": local.url, "body": 1}), pools)

    assert (result["bytes"], result["truncated"]) == (65_536, True)


def test_an_answer_of_just_the_size_is_whole(receiver: Receiver, allow: Callable[..., None], pools: Pools) -> None:
    receiver.answer = b"0123456789"
    for most, told in ((10, {"bytes": 10}), (9, {"bytes": 9, "truncated": True}), (0, {"bytes": 0, "truncated": True})):
        allow(f"127.0.0.1:{receiver.port}", max_response_bytes=most)
        result = deliver(a_message({"url": receiver.url, "body": 1}), pools)
        assert {key: result[key] for key in told} == told
        assert ("truncated" in result) == ("truncated" in told)


def test_what_nobody_would_see_is_written_out() -> None:
    assert client._shown("a\u00a0b\r\n\x1b[31m\u202ec\u200b ") == "a\\u00a0b \\u001b[31m\\u202ec\\u200b"


def test_foreign_text_is_shown_short_and_on_one_line(local: Receiver, pools: Pools) -> None:
    local.mode, local.answer = "ok", b"\x00\xff<script>\r\n\x1b[31m" + b"y" * 500

    result = deliver(a_message({"url": local.url, "body": 1}), pools)

    assert len(result["snippet"]) == 200
    assert result["snippet"].isprintable()
    assert result["snippet"].startswith("\\u0000\ufffd<script> \\u001b[31my")


def test_connections_are_used_again_by_many_threads(local: Receiver, pools: Pools) -> None:
    def ten() -> None:
        for _ in range(10):
            deliver(a_message({"url": local.url, "body": 1}), pools)

    threads = [threading.Thread(target=ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(local.seen) == 40
    assert local.connections <= 4
    assert pools.opened() <= 4


def test_neither_paths_nor_secrets_are_logged(local: Receiver, pools: Pools, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    payload = {"url": f"{local.url}/T0/path-secret?key=query-secret", "body": {"x": "body-secret"}}
    for mode in ("ok", "odd_header", "error", "reset", "redirect", "garbage"):
        local.mode = mode
        with contextlib.suppress(HandlerError):
            deliver(a_message(payload), pools)

    said = "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    assert [word for word in ("path-secret", "query-secret", "body-secret", SECRET[6:]) if word in said] == []


# -- TLS


def certificate(folder: Path, name: str) -> Path:
    """A certificate for ``name`` that signs itself, with its key, in one file."""
    both = folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", f"{both}.key", "-out", f"{both}.crt", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True, timeout=30)
    both.write_text(Path(f"{both}.key").read_text() + Path(f"{both}.crt").read_text())
    return both


@pytest.fixture
def tls(tmp_path: Path, allow: Callable[..., None]) -> Iterator[tuple[Receiver, ssl.SSLContext, list[str | None]]]:
    """A receiver for ``hooks.test``, a context that trusts it, and the names it was asked for."""
    pem = certificate(tmp_path, "hooks.test")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pem)
    asked: list[str | None] = []
    served.sni_callback = lambda _socket, name, _context: asked.append(name)
    with Receiver(secret=SECRET, tls=served) as receiver:
        for host in ("hooks.test", "other.test"):
            allow(host, schemes=["https"], ports=[receiver.port])
        yield receiver, ssl.create_default_context(cafile=str(pem)), asked


def test_tls_asks_for_the_name_at_the_address_that_was_judged(
    tls: tuple[Receiver, ssl.SSLContext, list[str | None]],
) -> None:
    receiver, trusting, asked = tls
    pools = Pools(Names(["127.0.0.1"]), trusting)

    for _ in range(3):
        result = deliver(a_message({"url": f"https://Hooks.TEST.:{receiver.port}/x", "body": 1}), pools)

    assert result["status"] == 200
    assert asked == ["hooks.test"], "one connection, three deliveries"
    assert receiver.seen[0].headers["host"] == f"hooks.test:{receiver.port}"


def test_a_certificate_for_another_name_is_refused(tls: tuple[Receiver, ssl.SSLContext, list[str | None]]) -> None:
    receiver, trusting, _ = tls
    failure = the_error(
        {"url": f"https://other.test:{receiver.port}/", "body": 1}, Pools(Names(["127.0.0.1"]), trusting)
    )

    assert (failure.error_type, failure.kind) == ("NETWORK_ERROR", "transient")
    assert "CERTIFICATE_VERIFY_FAILED" in failure.reason or "certificate" in failure.reason
    assert receiver.seen == []


def test_a_certificate_that_nobody_vouches_for_is_refused(
    tls: tuple[Receiver, ssl.SSLContext, list[str | None]],
) -> None:
    receiver, _, _ = tls
    failure = the_error({"url": f"https://hooks.test:{receiver.port}/", "body": 1}, Pools(Names(["127.0.0.1"])))

    assert failure.error_type == "NETWORK_ERROR"
    assert "certificate" in failure.reason
    assert receiver.seen == []


def test_a_handshake_that_does_not_come_is_given_up(allow: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        allow("hooks.test", schemes=["https"], ports=[port], connect_timeout_ms=200)
        failure = the_error({"url": f"https://hooks.test:{port}/", "body": 1}, Pools(Names(["127.0.0.1"])))

    assert failure.error_type == "TIMEOUT_ERROR"
