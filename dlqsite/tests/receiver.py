"""A server that deliveries go to, with everything that can be wrong with one. Runs in a test, or alone:

    python -m dlqsite.tests.receiver --port 9000 --mode error
    curl -X POST 'http://127.0.0.1:9000/-/mode?to=ok'     # mended
    curl http://127.0.0.1:9000/-/report                   # what came, by idempotency key

``HOOKS_SECRET`` in the environment: signatures are verified with it, and what is not signed is answered 401.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from messages_app.domain import signing

MODES = (
    "ok", "slow", "error", "busy", "unavailable", "busy_until", "reset", "hang_up", "redirect", "endless", "drip",
    "drip_headers", "drip_pieces", "endless_pieces", "go_on", "packed", "odd_header", "short", "silent", "garbage",
    "raw",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One request that came."""

    at: float
    key: str
    path: str
    headers: dict[str, str]
    body: bytes
    signed: bool
    #: Which connection carried it, counted from 1.
    connection: int
    #: The mode it met.
    mode: str


@dataclass
class Receiver:
    """Listens on loopback from ``with`` on. ``mode`` may be changed at any time, also per path with ``modes``."""

    mode: str = "ok"
    port: int = 0
    secret: str = ""
    tls: ssl.SSLContext | None = None
    #: Answered in place of 500 in the mode ``error``, or of 200 in ``ok``.
    status: int = 0
    retry_after: str = "3"
    delay_s: float = 0.5
    answer: bytes = b'{"ok":true}'
    #: Written as it is in the mode ``raw``; then the connection stays open, or is ended by ``close`` or ``reset``.
    raw: bytes = b""
    raw_end: str = ""
    location: str = "http://169.254.169.254/latest/meta-data/"
    seen: list[Seen] = field(default_factory=list)
    #: Idempotency key → how often it was answered with 2xx.
    accepted: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def __enter__(self) -> Receiver:
        receiver = self
        # Set once the receiver closes: what drips or sleeps ends then.
        self.closing = threading.Event()

        class Bound(_Handler):
            owner = receiver

        self._server = _Server(("127.0.0.1", self.port), Bound)
        self.port = self._server.server_address[1]
        if self.tls is not None:
            self._server.socket = self.tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/hook"

    def keys(self) -> Counter[str]:
        """Idempotency key → how many requests carried it."""
        return Counter(one.key for one in self.seen)

    def report(self) -> dict[str, Any]:
        return {
            "mode": self.mode,
            "requests": len(self.seen),
            "connections": self.connections,
            "keys": len(self.keys()),
            "accepted": dict(self.accepted),
            "acceptedTwice": sorted(key for key, count in self.accepted.items() if count > 1),
            "unsigned": sum(not one.signed for one in self.seen),
            "byMode": dict(Counter(one.mode for one in self.seen)),
            "times": [round(one.at, 3) for one in self.seen[-1000:]],
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients break off on purpose here: nothing to say about it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: Receiver

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1
        self.number = self.owner.connections

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/-/report":
            self._send(200, json.dumps(self.owner.report()).encode())
        else:
            self._send(404, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        target = urlsplit(self.path)
        if target.path == "/-/mode":
            wanted = parse_qs(target.query)["to"][0]
            self.owner.mode = wanted if wanted in MODES else self.owner.mode
            self._send(200 if wanted in MODES else 400, self.owner.mode.encode())
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        secret = self.owner.secret
        signed = bool(secret) and signing.is_signed(signing.key_of(secret), headers, body, now=time.time())
        key = headers.get("webhook-id", "")
        mode = self.owner.mode
        self.owner.seen.append(Seen(time.time(), key, self.path, headers, body, signed, self.number, mode))
        if secret and not signed:
            self._send(401, b"not signed")
            return
        getattr(self, f"_{mode}")(key)

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _ok(self, key: str) -> None:
        status = self.owner.status or 200
        if status < 300:
            self.owner.accepted[key] += 1
        self._send(status, self.owner.answer)

    def _slow(self, key: str) -> None:
        self.owner.closing.wait(self.owner.delay_s)
        self._ok(key)

    def _error(self, key: str) -> None:
        self._send(self.owner.status or 500, b"database is gone")

    def _busy(self, key: str) -> None:
        self._send(429, b"too many", Retry_After=self.owner.retry_after)

    def _unavailable(self, key: str) -> None:
        self._send(503, b"closed for a moment", Retry_After=self.owner.retry_after)

    def _busy_until(self, key: str) -> None:
        self._send(429, b"too many", Retry_After=self.date_time_string(int(time.time()) + 5))

    def _reset(self, key: str) -> None:
        self.close_connection = True
        # Linger for no time: closing resets the connection.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _hang_up(self, key: str) -> None:
        self.close_connection = True

    def _redirect(self, key: str) -> None:
        self._send(302, b"", Location=self.owner.location)

    def _garbage(self, key: str) -> None:
        self.close_connection = True
        self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")

    def _odd_header(self, key: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nthis is no header\r\n\r\nok")

    def _short(self, key: str) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")

    def _raw(self, key: str) -> None:
        """``raw`` as it is; the connection stays open unless ``raw_end`` says ``close`` or ``reset``."""
        self.owner.accepted[key] += 1
        self.wfile.write(self.owner.raw)
        if self.owner.raw_end == "reset":
            time.sleep(0.05)  # or the reset overtakes what was written
            self._reset(key)
        elif self.owner.raw_end == "close":
            self.close_connection = True

    def _silent(self, key: str) -> None:
        self.close_connection = True
        self.owner.closing.wait(60)

    def _endless(self, key: str) -> None:
        self.close_connection = True
        self.owner.accepted[key] += 1
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while not self.owner.closing.is_set():
                self.wfile.write(b"x" * 65536)

    def _endless_pieces(self, key: str) -> None:
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while not self.owner.closing.is_set():
                self.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def _drip_pieces(self, key: str) -> None:
        self._dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")

    def _go_on(self, key: str) -> None:
        self._dripping(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n")

    def _packed(self, key: str) -> None:
        self._send(200, self.owner.answer, Content_Encoding="gzip")

    def _drip(self, key: str) -> None:
        self._dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x")

    def _drip_headers(self, key: str) -> None:
        self._dripping(b"HTTP/1.1 200 OK\r\n", b"X")

    def _dripping(self, begin: bytes, drop: bytes) -> None:
        self.close_connection = True
        self.wfile.write(begin)
        with contextlib.suppress(OSError):
            while not self.owner.closing.wait(0.05):
                self.wfile.write(drop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--mode", choices=MODES, default="ok")
    arguments = parser.parse_args()
    with Receiver(mode=arguments.mode, port=arguments.port, secret=os.environ.get("HOOKS_SECRET", "")) as receiver:
        sys.stdout.write(f"{receiver.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
