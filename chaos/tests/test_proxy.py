"""The proxy hurts connections as it says: each mode, on real sockets."""

from __future__ import annotations

import random
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from chaos.proxy import HOST, Loop, Mode, Proxy
from dlqsite.tests.patience import eventually

#: Long enough for a message to arrive on a busy machine, if it ever does.
SILENCE_S = 0.3


class Echo(socketserver.BaseRequestHandler):
    """Returns what it gets, and remembers it."""

    seen: list[bytes]

    def handle(self) -> None:
        while data := self.request.recv(1024):
            self.seen.append(data)
            self.request.sendall(data)


@pytest.fixture
def seen() -> list[bytes]:
    return []


@pytest.fixture
def proxy(seen: list[bytes]) -> Iterator[Proxy]:
    handler = type("Handler", (Echo,), {"seen": seen})
    with socketserver.ThreadingTCPServer((HOST, 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        loop = Loop()
        running = Proxy(loop, "echo", port, server.server_address[1], random.Random(1)).start()
        yield running
        running.stop()
        loop.stop()
        server.shutdown()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=10)


def ask(line: socket.socket, text: bytes = b"ping") -> bytes:
    line.sendall(text)
    return line.recv(1024)


def changed(proxy: Proxy, mode: Mode) -> None:
    proxy.become(mode)
    eventually(lambda: proxy.mode is mode)


def hears_nothing(line: socket.socket) -> bool:
    line.settimeout(SILENCE_S)
    try:
        line.recv(1024)
    except TimeoutError:
        return True
    finally:
        line.settimeout(10)
    return False


def is_cut(line: socket.socket) -> bool:
    try:
        return line.recv(1024) == b""
    except ConnectionError:
        return True


def test_it_passes_everything_on(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert ask(line) == b"ping"
        assert ask(line, b"again") == b"again"


def test_a_stall_holds_and_closes_nothing(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert ask(line) == b"ping"
        changed(proxy, Mode.STALL)
        line.sendall(b"held")
        assert hears_nothing(line)

        proxy.become(Mode.NORMAL)

        assert line.recv(1024) == b"held"


def test_a_lost_answer_is_cut_after_the_request_arrived(proxy: Proxy, seen: list[bytes]) -> None:
    with connect(proxy) as line:
        changed(proxy, Mode.LOSE_ANSWER)
        line.sendall(b"write")

        assert is_cut(line)
        assert seen == [b"write"]


def test_a_swallowed_answer_never_comes_and_the_line_stays_open(proxy: Proxy, seen: list[bytes]) -> None:
    with connect(proxy) as line:
        changed(proxy, Mode.SWALLOW_ANSWER)
        line.sendall(b"write")
        eventually(lambda: seen == [b"write"])
        assert hears_nothing(line)

        changed(proxy, Mode.NORMAL)
        line.sendall(b"next")

        assert hears_nothing(line), "the answer of another request on this line would be taken for the lost one"


def test_half_open_lines_stay_silent_and_new_ones_pass(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert ask(line) == b"ping"
        proxy.silence()
        line.sendall(b"lost")
        assert hears_nothing(line)
        with connect(proxy) as new:
            assert ask(new) == b"ping"


def test_reset_and_refuse_cut_what_is_open(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert ask(line) == b"ping"
        proxy.reset()
        assert is_cut(line)
    with connect(proxy) as line:
        assert ask(line) == b"ping"
        proxy.become(Mode.REFUSE)
        assert is_cut(line)
    with connect(proxy) as line:
        assert is_cut(line)
