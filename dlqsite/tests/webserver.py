"""The web server as it is started, and clients that speak bytes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from dlqsite.tests.journeys.rig import ROOT

HOST = b"Host: localhost\r\n"
JSON = HOST + b"Content-Type: application/json\r\n"
LIVE = b"GET /api/system/live HTTP/1.1\r\n" + HOST + b"\r\n"
MESSAGE = b'{"payload":{"a":1}}'
SUBMIT = (
    b"POST /api/messages HTTP/1.1\r\nAuthorization: Api-Key known\r\n" + JSON + b"Content-Length: 19\r\n\r\n" + MESSAGE
)


class Server:
    """Gunicorn as ``make up`` starts it, with one process, two threads and 40 places."""

    def __init__(self, folder: Path, patience_s: float, **environment: str) -> None:
        self.folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self._listener.getsockname()
        self._log = (folder / "web.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "dlqsite.tests.greedy_app:application"],
            cwd=ROOT,
            env={
                **os.environ,
                "BIND": f"fd://{self._listener.fileno()}",
                "WEB_PROCESSES": "1",
                "WEB_THREADS": "2",
                "GUNICORN_CMD_ARGS": "--worker-connections 40",
                "DATA_DIR": str(folder),
                "SECRET_KEY": "of-this-test-only-" * 4,
                "HTTPS": "false",
                "RATE_LIMIT_PER_MINUTE": "0",
                "PATIENCE_S": str(patience_s),
                **environment,
            },
            pass_fds=(self._listener.fileno(),),
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        with self.connect() as client:
            client.settimeout(90)  # it starts
            client.sendall(LIVE)
            answer_on(client)

    def log(self) -> str:
        return (self.folder / "web.log").read_text(errors="replace")

    def connect(self, *, window: int = 0) -> socket.socket:
        client = socket.socket()
        if window:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        client.settimeout(20)
        client.connect(self.address)
        return client

    def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer to a request on a connection of its own."""
        with self.connect() as client:
            client.sendall(request)
            return answer_on(client)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        self._log.close()
        self._listener.close()


def answer_on(client: socket.socket) -> tuple[int, bytes, bytes]:
    """The next answer; one without a length is read until the connection ends."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = client.recv(65536)
        assert piece, f"closed after {got!r}"
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    lengths = [line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while not lengths or len(body) < int(lengths[0]):
        piece = client.recv(1 << 20)
        if not piece:
            break
        body += piece
    return int(head.split()[1]), head, body


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def problem(answer: tuple[int, bytes, bytes]) -> dict[str, Any]:
    status, head, body = answer
    assert b"Content-Type: application/problem+json" in head
    members: dict[str, Any] = json.loads(body)
    assert members["status"] == status
    return members


def answer_in_order(client: socket.socket, count: int) -> list[int]:
    """The statuses of the next answers, which may come in one piece."""
    got = b""
    while got.count(b"HTTP/1.1 ") < count or not got.endswith(b"}"):
        piece = client.recv(65536)
        assert piece
        got += piece
    return [int(part[:3]) for part in got.split(b"HTTP/1.1 ")[1:]]
