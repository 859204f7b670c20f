"""The web server as it is started, with clients that are slow, greedy or no clients at all."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from dlqsite.metrics.samples import split
from dlqsite.tests.patience import eventually
from dlqsite.tests.webserver import HOST, JSON, LIVE, SUBMIT, Server, answer_in_order, answer_on, is_closed, problem
from dlqsite.web.connection import MAX_BODY, Head, find_head
from messages_app.store.measurements import measurements

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def patient(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for slow clients longer than any test runs."""
    server = Server(tmp_path_factory.mktemp("patient"), 60)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def hasty(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that loses patience at once."""
    server = Server(tmp_path_factory.mktemp("hasty"), 0.5, TRUSTED_PROXIES="127.0.0.0/8")
    yield server
    server.stop()


def _posted(path: bytes, *, length: int, begun: bytes, more: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, JSON, more, length, begun)


_CSRF = b"Cookie: csrftoken=" + b"a" * 32 + b"\r\n"
SLOW = {
    "silent": b"",
    "head": b"GET / HTTP/1.1\r\n" + HOST + b"X-A: ",
    "body": _posted(b"/api/messages", length=1000, begun=b"{"),
    "body with a key": _posted(b"/api/messages", length=1000, begun=b"{", more=b"Authorization: Api-Key known\r\n"),
    "form": _posted(b"/admin/login/", length=1000, begun=b"csrf", more=_CSRF).replace(
        b"application/json", b"application/x-www-form-urlencoded"
    ),
    "chunks": b"POST /admin/login/ HTTP/1.1\r\n" + JSON + _CSRF + b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
    "import": _posted(b"/api/dlq/import", length=10**8, begun=b"{"),
    "expects": _posted(b"/api/messages", length=1000, begun=b"", more=b"Expect: 100-continue\r\n"),
    "reads nothing": b"GET /big HTTP/1.1\r\n" + HOST + b"\r\n",
}


@pytest.mark.parametrize("kind", SLOW)
def test_slow_clients_hold_nobody_else_up(patient: Server, kind: str) -> None:
    with ExitStack() as crowd:
        for _ in range(50):  # more than there are places
            client = crowd.enter_context(patient.connect(window=4096))
            client.sendall(SLOW[kind])

        assert patient.ask(LIVE)[0] == 200
        assert patient.ask(SUBMIT)[0] == 202


def test_who_keeps_a_connection_idle_gives_way_to_the_next(patient: Server) -> None:
    with ExitStack() as crowd:
        for _ in range(50):
            client = crowd.enter_context(patient.connect())
            client.sendall(LIVE)
            assert answer_on(client)[0] == 200


@pytest.mark.parametrize("kind", ["head", "body", "form"])
def test_a_request_that_does_not_come_is_answered_with_408(hasty: Server, kind: str) -> None:
    assert problem(hasty.ask(SLOW[kind]))["detail"] == "The request took too long to arrive."


def test_a_connection_that_says_nothing_is_closed(hasty: Server) -> None:
    with hasty.connect() as client:
        assert is_closed(client)


def test_an_answer_that_nobody_reads_is_given_up(hasty: Server) -> None:
    with hasty.connect(window=4096) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\n" + HOST + b"\r\n")

        eventually(lambda: (hasty.folder / "ended").exists(), what="the answer was ended")


def test_a_large_answer_arrives_whole(patient: Server) -> None:
    with patient.connect(window=65536) as client:
        client.sendall(SLOW["reads nothing"])

        assert answer_on(client)[2] == b"x" * 8_000_000


def test_too_large_a_body_is_refused_before_it_is_read(patient: Server) -> None:
    length = 40_000_000
    kind = b"multipart/form-data; boundary=b"
    request = _posted(b"/admin/login/", length=length, begun=b"", more=_CSRF).replace(b"application/json", kind)

    assert problem(patient.ask(request))["code"] == "payload_too_large"
    # Who sends it all before reading gets the same answer, not a reset.
    assert problem(patient.ask(request + b"x" * length))["code"] == "payload_too_large"


def test_large_bodies_together_are_bounded(patient: Server) -> None:
    with ExitStack() as crowd:
        clients = [crowd.enter_context(patient.connect()) for _ in range(4)]
        for client in clients:
            client.sendall(_posted(b"/echo", length=4_000_001, begun=b"x" * 4_000_000))
            assert patient.ask(SUBMIT)[0] == 202
        answers = []
        for client in clients:
            client.settimeout(0.2)
            try:
                answers.append(answer_on(client)[0])
            except TimeoutError:
                answers.append(0)  # still waited for

    assert 503 in answers
    assert 0 in answers


@pytest.mark.parametrize("size", [0, 1, 70_000, 1_500_000])
def test_a_body_in_small_pieces_arrives_whole(patient: Server, size: int) -> None:
    body = os.urandom(size)
    request = b"POST /echo HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size + body
    step = 1 if size < 100 else 10_007
    with patient.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), step):
            client.sendall(request[at : at + step])

        assert answer_on(client)[2] == body


def test_requests_in_one_piece_are_answered_in_order(patient: Server) -> None:
    with patient.connect() as client:
        client.sendall(SUBMIT + LIVE + SUBMIT[:50])
        first = answer_in_order(client, 2)
        client.sendall(SUBMIT[50:])

        assert [*first, *answer_in_order(client, 1)] == [202, 200, 202]


def test_a_client_that_asks_whether_to_go_on_is_told_once(patient: Server) -> None:
    head, _, body = SUBMIT.replace(b"Host", b"Expect: 100-continue\r\nHost").partition(b"\r\n\r\n")
    with patient.connect() as client:
        client.sendall(head + b"\r\n\r\n")
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)

        assert answer_on(client)[0] == 202


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_a_problem(patient: Server, request_: bytes, status: int) -> None:
    assert problem(patient.ask(request_))["status"] == status


def test_nobody_is_believed_who_is_no_trusted_proxy(patient: Server) -> None:
    claims = b"SCRIPT_NAME: /pe\r\nX-Forwarded-Proto: https\r\n"

    assert patient.ask(b"GET /peer HTTP/1.1\r\n" + HOST + claims + b"\r\n")[2] == b"('', None)"


def test_a_trusted_proxy_is_believed(hasty: Server) -> None:
    claims = b"SCRIPT_NAME: /pe\r\nX-Forwarded-Proto: https\r\n"

    assert hasty.ask(b"GET /pe/peer HTTP/1.1\r\n" + HOST + claims + b"\r\n")[2] == b"('/pe', 'https')"


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Head(needed=27)),
        (b"POST / HTTP/1.1\r\ncontent-LENGTH:  7 \r\n\r\n", Head(needed=47)),
        (b"POST / HTTP/1.1\r\nX-Content-Length: 7\r\n\r\n", Head(needed=40)),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1), Head(needed=44, refused=413)),
        (b"POST /api/dlq/import HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", Head(needed=59, is_last=True)),
        (b"POST /?/api/dlq/import HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", Head(needed=61, refused=413)),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Head(needed=57, is_last=True)),
    ],
)
def test_the_end_of_a_request_is_found(head: bytes, found: Head | None) -> None:
    assert find_head(bytearray(head), 0) == found
    data, searched, last = bytearray(), 0, None
    for byte in head:
        data.append(byte)
        last = find_head(data, searched)
        searched = len(data)
    assert last == found


def _number_in(file: Path) -> int:
    return int(file.read_text() or 0) if file.exists() else 0


def test_a_process_whose_interpreter_is_held_is_replaced_while_the_other_serves(servers: Any, tmp_path: Path) -> None:
    server = Server(tmp_path, 60, WEB_PROCESSES="2", GUNICORN_CMD_ARGS="--timeout 3")
    try:
        with server.connect() as first:
            first.settimeout(60)  # it starts
            first.sendall(LIVE)
            assert answer_on(first)[0] == 200
        with server.connect() as holding:
            holding.sendall(b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n")
            held = eventually(lambda: _number_in(tmp_path / "holds"), what="the interpreter is held")

            assert server.ask(SUBMIT)[0] == 202
            assert is_closed(holding)
        # Its sockets are closed a moment before its parent has heard of its end.
        eventually(lambda: not psutil.pid_exists(held), what="it has ended")
        eventually(lambda: len(psutil.Process(server.process.pid).children()) == 2, what="it is replaced")
    finally:
        server.stop()
    log = server.log()
    assert f"WORKER TIMEOUT (pid:{held})" in log
    assert "greedy_app.py" in log  # the stacks name the code that held it


def test_a_head_request_leaves_no_warning(patient: Server) -> None:
    with patient.connect() as client:
        client.sendall(b"HEAD /api/system/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        got = b"".join(iter(lambda: client.recv(65536), b""))

    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.endswith(b"\r\n\r\n"), "no body"
    assert "no-body response" not in patient.log()


def test_a_stopped_server_waits_for_no_stuck_thread_and_sends_its_last_counts(
    redis_client: redis.Redis, tmp_path: Path
) -> None:
    server = Server(tmp_path, 60)
    server.ask(b"GET /stuck HTTP/1.1\r\n" + HOST + b"\r\n")
    worker = psutil.Process(server.process.pid).children()[0]
    server.stop()
    assert server.process.returncode == 0
    assert not worker.is_running()
    assert (tmp_path / "prepared").exists(), "it was killed after its time of grace"
    assert split(measurements().read())["stuck"] == [([], 1)]


def test_a_stop_waits_for_what_is_under_way_but_not_for_slow_clients(patient: Server) -> None:
    """The last of this file, because it stops the server."""
    with patient.connect() as under_way, patient.connect() as half:
        half.sendall(SLOW["head"])
        under_way.sendall(b"GET /wait HTTP/1.1\r\n" + HOST + b"\r\n")
        eventually(lambda: (patient.folder / "waits").exists(), what="the request is under way")
        patient.process.send_signal(signal.SIGTERM)
        (patient.folder / "go").touch()

        assert answer_on(under_way)[2] == b"done"
        assert answer_on(half)[0] == 408  # and is not cut off at the end of the 10 s for requests under way
    assert patient.process.wait(30) == 0
