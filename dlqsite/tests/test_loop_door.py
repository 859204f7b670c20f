"""Submissions in the event loop of the web server as it is started: groups, odd requests, outages, crowds and kills."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil
import pytest

from breaker_app.tests.servers import OwnServer
from dlqsite.tests.patience import eventually
from dlqsite.tests.webserver import JSON, LIVE, SUBMIT, Server, answer_in_order, answer_on, is_closed, problem
from messages_app.store.ledger import Ledger

pytestmark = [pytest.mark.redis, pytest.mark.timeout(300)]

#: Ids and kills of the last test. More by hand: KILL_IDS=10000 KILLS=20.
IDS, KILLS = int(os.environ.get("KILL_IDS", "600")), int(os.environ.get("KILLS", "5"))
ROOM = "50"


@pytest.fixture(scope="module")
def store() -> Iterator[OwnServer]:
    store = OwnServer()
    store.start()
    yield store
    store.remove()


@pytest.fixture(scope="module")
def server(servers: Any, store: OwnServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(
        tmp_path_factory.mktemp("door"), 60, REDIS_URL=store.url, MAX_WAITING=ROOM, ACCEPT_DURABILITY="fsync",
        GUNICORN_CMD_ARGS="--worker-connections 1200",
    )  # fmt: skip
    yield server
    server.stop()


@contextmanager
def stopped(store: OwnServer) -> Iterator[None]:
    assert store.process is not None
    store.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        store.process.send_signal(signal.SIGCONT)


def submission(message_id: str, *, more: bytes = b"", line: bytes = b"POST /api/messages HTTP/1.1") -> bytes:
    body = b'{"messageId":"%b","payload":{"a":1}}' % message_id.encode()
    head = b"%b\r\nAuthorization: Api-Key known\r\n%b%bContent-Length: %d\r\n\r\n"
    return head % (line, JSON, more, len(body)) + body


def groups(store: OwnServer) -> int:
    """Confirmations that were asked for: one a group."""
    return int(store.client.info("commandstats").get("cmdstat_waitaof", {}).get("calls", 0))


def without_its_own(head: bytes) -> bytes:
    return re.sub(rb"(Date|X-Request-Id): [^\r]+", b"", head)


def test_the_head_is_that_of_a_thread(server: Server) -> None:
    server.ask(submission("same"))
    # The parser drops a field whose name has an underscore, and the door leaves such a request to it.
    for more in (b"", b"X-Request-Id: abc\r\n", b"Connection: close\r\n", b"Content-Encoding: gzip\r\n"):
        loop, thread = (server.ask(submission("same", more=more + odd)) for odd in (b"", b"x_odd: 1\r\n"))
        assert without_its_own(loop[1]) == without_its_own(thread[1])
        assert loop[::2] == thread[::2]


@pytest.mark.parametrize(
    ("more", "line", "status"),
    [
        (b"", b"POST /api/messages HTTP/1.0", 202),
        (b"", b"POST /api/messages?x=1 HTTP/1.1", 202),
        (b"", b"post /api/messages HTTP/1.1", 400),
        (b"X-A : 1\r\n", b"POST /api/messages HTTP/1.1", 400),
        (b"X-A: 1\r\n  folded\r\n", b"POST /api/messages HTTP/1.1", 400),
        (b"X-A: \x00\r\n", b"POST /api/messages HTTP/1.1", 400),
        (b"X-A: \xff\r\n", b"POST /api/messages HTTP/1.1", 202),
        (b"X-A:\r\n", b"POST /api/messages HTTP/1.1", 202),
        (b"Host: localhost\r\n", b"POST /api/messages HTTP/1.1", 400),
        (b"Transfer-Encoding: chunked\r\n", b"POST /api/messages HTTP/1.1", 400),
        (b"Content-Type: text/plain\r\n", b"POST /api/messages HTTP/1.1", 400),
        (b"Expect: a-miracle\r\n", b"POST /api/messages HTTP/1.1", 417),
        (b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"POST /api/messages HTTP/1.1", 202),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(95)), b"POST /api/messages HTTP/1.1", 202),
        (b"".join(b"X-%d: 1\r\n" % n for n in range(101)), b"POST /api/messages HTTP/1.1", 431),
        (b"X-A: " + b"a" * 5000 + b"\r\n", b"POST /api/messages HTTP/1.1", 202),
    ],
)
def test_an_odd_request_is_judged_by_the_parser(server: Server, more: bytes, line: bytes, status: int) -> None:
    answer = server.ask(submission("odd", more=more, line=line))

    assert answer[0] in ((200, 202) if status == 202 else (status,))
    if status >= 400:
        problem(answer)


def test_a_client_that_wants_to_leave_is_let_go(server: Server) -> None:
    with server.connect() as client:
        client.sendall(submission("leaves", more=b"connection: Close\r\n"))

        assert b"Connection: close" in answer_on(client)[1]
        assert is_closed(client)


def test_hundreds_of_requests_in_one_piece_are_answered_in_order(server: Server) -> None:
    with server.connect() as client:
        client.sendall(b"".join(submission(f"p{number}") for number in range(300)))

        assert answer_in_order(client, 300) == [202] * 300


def test_a_client_that_only_closed_its_half_gets_its_answer(server: Server) -> None:
    with server.connect() as client:
        client.sendall(submission("half"))
        client.shutdown(socket.SHUT_WR)

        assert answer_on(client)[0] == 202
        assert is_closed(client)


def test_what_a_vanished_client_sent_is_kept(server: Server, store: OwnServer) -> None:
    with stopped(store), server.connect() as gone:
        gone.sendall(submission("orphan"))
        assert server.ask(LIVE)[0] == 200  # asked later, so the submission was read
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    eventually(lambda: store.client.exists("dlq:msg:orphan"), what="the message is there")
    assert server.ask(SUBMIT)[0] == 202
    assert "connection_failed" not in server.log()


def test_what_arrives_while_a_group_is_on_its_way_is_the_next_group(server: Server, store: OwnServer) -> None:
    with ExitStack() as crowd:
        clients = [crowd.enter_context(server.connect()) for _ in range(40)]
        before = groups(store)
        with stopped(store):
            for number, client in enumerate(clients):
                client.sendall(submission(f"g{number}"))
            assert server.ask(LIVE)[0] == 200

        assert [answer_on(client)[0] for client in clients] == [202] * 40
    assert 1 <= groups(store) - before <= 6  # two, and what was repeated if this took longer than the timeout


def test_beyond_the_places_messages_are_refused_at_once(server: Server, store: OwnServer) -> None:
    with ExitStack() as crowd:
        clients = [crowd.enter_context(server.connect()) for _ in range(2 * int(ROOM) + 40)]
        with stopped(store):
            clients[0].sendall(submission("first"))
            assert server.ask(LIVE)[0] == 200  # the first group is on its way
            for client in clients[1:]:
                client.sendall(SUBMIT)
            refused = [answer_on(client) for client in clients[1 + int(ROOM) :]]
        others = [answer_on(client)[0] for client in clients[: 1 + int(ROOM)]]

    assert {problem(answer)["code"] for answer in refused} == {"intake_busy"}
    assert all(b"\r\nRetry-After: 1" in head for _, head, _ in refused)
    assert set(others) <= {202, 503}  # 503 if this took longer than the timeout


def test_without_redis_each_is_refused_once_and_all_else_is_answered(server: Server, store: OwnServer) -> None:
    with ExitStack() as crowd:
        clients = [crowd.enter_context(server.connect()) for _ in range(30)]
        with stopped(store):
            for client in clients:
                client.sendall(SUBMIT)
            assert server.ask(LIVE)[0] == 200
            # One group after the other with a timeout for each would take minutes.
            answers = [answer_on(client) for client in clients]
            assert {problem(answer)["code"] for answer in answers} == {"store_unavailable"}
            assert all(b"\r\nRetry-After: 2" in head for _, head, _ in answers)
            assert server.ask(LIVE)[0] == 200

        for client in clients:
            client.sendall(SUBMIT)
        assert [answer_on(client)[0] for client in clients] == [202] * 30


def test_a_thousand_idle_and_slow_clients_cost_the_others_nothing(server: Server) -> None:
    with ExitStack() as crowd:
        for number in range(1000):
            client = crowd.enter_context(server.connect())
            client.sendall((b"", LIVE[:-2], SUBMIT[:-1])[number % 3])
        busy = [crowd.enter_context(server.connect()) for _ in range(4)]
        process = psutil.Process(psutil.Process(server.process.pid).children()[0].pid)
        began = sum(process.cpu_times()[:2])
        time.sleep(1)
        assert sum(process.cpu_times()[:2]) - began < 0.3  # of a second: they wait in the poller

        for round_ in range(50):
            for number, client in enumerate(busy):
                client.sendall(submission(f"c{round_}-{number}"))
            assert [answer_on(client)[0] for client in busy] == [202] * 4


def test_kills_lose_nothing_and_repeat_nothing(servers: Any, tmp_path: Path) -> None:
    store = OwnServer()
    store.start()
    server = Server(
        tmp_path, 60, REDIS_URL=store.url, WEB_PROCESSES="2", GUNICORN_CMD_ARGS="--worker-connections 200"
    )  # fmt: skip
    todo: SimpleQueue[str] = SimpleQueue()
    for number in range(IDS):
        todo.put(f"k{number}")
    answered: list[str] = []

    def work() -> None:
        with ExitStack() as stack:
            client: socket.socket | None = None
            while True:
                try:
                    message_id = todo.get_nowait()
                except Empty:
                    return
                while True:
                    try:
                        client = client or stack.enter_context(server.connect())
                        client.sendall(submission(message_id))
                        status = answer_on(client)[0]
                    except (OSError, AssertionError):
                        client = None
                        continue
                    if status in (200, 202):
                        break
                answered.append(message_id)

    threads = [threading.Thread(target=work) for _ in range(16)]
    try:
        assert server.ask(SUBMIT)[0] == 202
        for thread in threads:
            thread.start()
        for kill in range(1, KILLS + 1):
            eventually(partial(_reached, answered, IDS * kill // (KILLS + 2)), seconds=200, what="progress")
            children = eventually(lambda: psutil.Process(server.process.pid).children(), what="a process")
            children[kill % len(children)].kill()
        for thread in threads:
            thread.join(200)
        ledger = Ledger(store.client)
        (row,) = ledger.accounting()
        lane = store.client.lrange("rq:queue:normal", 0, -1)
        records = ledger.get_many([f"k{number}" for number in range(IDS)])
    finally:
        server.stop()
        store.remove()

    assert sorted(answered) == sorted(f"k{number}" for number in range(IDS))
    assert all(record is not None for record in records)
    assert row.accepted == row.open == IDS + 1
    assert len(lane) == len(set(lane)) == IDS + 1


def test_a_stop_answers_the_group_on_its_way(server: Server, store: OwnServer) -> None:
    """The last of this file, because it stops the server."""
    with server.connect() as client:
        with stopped(store):
            client.sendall(submission("last"))
            assert server.ask(LIVE)[0] == 200
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: not _takes_connections(server), what="it is stopping")

        status, head, _ = answer_on(client)
        assert status in (202, 503)
        assert b"Connection: close" in head
    assert server.process.wait(30) == 0


def _reached(answered: list[str], count: int) -> bool:
    return len(answered) >= count


def _takes_connections(server: Server) -> bool:
    """Whether the process still accepts: its listener is in the poller until it stops."""
    try:
        with server.connect() as client:
            client.settimeout(0.5)
            client.sendall(LIVE)
            return bool(client.recv(1))
    except (TimeoutError, ConnectionError):
        return False
