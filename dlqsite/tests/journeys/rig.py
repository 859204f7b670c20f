"""The whole system as real processes, seen only from outside: HTTP, signals, and the stores' own clients.

A ``Rig`` starts ``manage.py up`` on a free port in a folder of its own and reads everything else from the
``connection.json`` that the stack writes.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dlqsite.tests.patience import eventually

ROOT = Path(__file__).resolve().parents[3]


class Reply:
    """Status, headers and JSON of one answer."""

    def __init__(self, status: int, headers: dict[str, str], raw: bytes) -> None:
        self.status, self.headers, self.raw = status, headers, raw

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def data(self) -> Any:
        return self.json["data"]


class Rig:
    """One running system. Use as a context manager; leaving it stops everything and checks that nothing is left."""

    #: Seconds in which it must be healthy.
    start_s: float = 90

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        stores = ("REDIS_URL", "MONGODB_URL", "MONGODB_DATABASE", "DATABASE_URL", "DJANGO_SETTINGS_MODULE")
        self.environment = {name: value for name, value in os.environ.items() if name not in stores}
        self.environment |= {
            # One that the system gives to the stack itself: between looking and binding nobody else can take it.
            "PORT": "0",
            "DATA_DIR": str(self.data_dir),
            "RATE_LIMIT_PER_MINUTE": "0",
            "READ_RATE_LIMIT_PER_MINUTE": "0",
            **environment,
        }
        self._local = threading.local()

    def __enter__(self) -> Rig:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.output = (self.folder / "up.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=ROOT,
            env=self.environment,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            eventually(self.healthy, seconds=self.start_s, what="the stack is healthy")
        except BaseException:
            # Also Ctrl-C: nobody else stops what was started.
            self.stop()
            sys.stderr.write((self.folder / "up.log").read_text(errors="replace"))
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Ask the stack to stop as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(60)
        finally:
            self.output.close()
        return code

    def healthy(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"`manage.py up` ended with {self.process.returncode}")
        if not (self.data_dir / "connection.json").is_file():
            return False
        try:
            return bool(self.get("/api/system/health").data["status"] == "healthy")
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False

    @property
    def connection(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads((self.data_dir / "connection.json").read_text())
        return answer

    def pid(self, role: str) -> int:
        return int(self.connection["pids"][role])

    def is_replaced(self, role: str, pid: int) -> bool:
        """True once another process than ``pid`` has the role."""
        return self.connection["pids"].get(role) not in (None, pid)

    def kill(self, role: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the process of a role; returns its pid."""
        pid = self.pid(role)
        os.kill(pid, sig)
        return pid

    # -- HTTP ---------------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on this thread's kept-alive connection; never repeated behind the caller's back."""
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        wanted = {"Content-Type": "application/json", "Authorization": f"Api-Key {self._key}", **(headers or {})}
        client = getattr(self._local, "client", None) or http.client.HTTPConnection(self._address, timeout=30)
        self._local.client = client
        try:
            client.request(method, path, raw, wanted)
            answer = client.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        except BaseException:
            # In the middle of an answer this connection is of no use to the next request, whatever happened.
            client.close()
            self._local.client = None
            raise

    @cached_property
    def _address(self) -> str:
        return urlsplit(str(self.connection["url"])).netloc

    @cached_property
    def _key(self) -> str:
        return str(self.connection["apiKey"])

    def get(self, path: str) -> Reply:
        """Read, once more if a kept-alive connection turns out to end in a process that is gone."""
        try:
            return self.call("GET", path)
        except (ConnectionError, http.client.HTTPException):
            return self.call("GET", path)

    def post(self, path: str, body: Any = None) -> Reply:
        return self.call("POST", path, {} if body is None else body)

    def submit(self, payload: Any, **fields: Any) -> str:
        """Submit one message and return its id; anything but 202 is an assertion error."""
        reply = self.post("/api/messages", {"payload": payload, **fields})
        assert reply.status == 202, reply.raw
        return str(reply.data["messageId"])

    def submit_surely(self, payload: Any, message_id: str) -> None:
        """Submit as a careful client does: the same id again until the answer says that it was accepted."""
        deadline = time.monotonic() + 60
        while True:
            try:
                reply = self.post("/api/messages", {"payload": payload, "messageId": message_id})
                if reply.status in (200, 202):
                    return
                assert reply.status in (429, 502, 503), reply.raw
            except (OSError, http.client.HTTPException):
                pass  # the connection broke: whether it was accepted is unknown, which is what the id is for
            assert time.monotonic() < deadline, f"{message_id} was never accepted"
            time.sleep(0.2)

    def message(self, message_id: str) -> dict[str, Any]:
        reply = self.get(f"/api/messages/{message_id}")
        assert reply.status == 200, (message_id, reply.status, reply.raw)
        answer: dict[str, Any] = reply.data
        return answer

    def status(self, message_id: str) -> str:
        return str(self.message(message_id)["status"])

    def until(self, message_id: str, *statuses: str, seconds: float = 30) -> dict[str, Any]:
        """The message once it is in one of the statuses."""

        def look() -> dict[str, Any] | None:
            message = self.message(message_id)
            return message if message["status"] in statuses else None

        found = eventually(look, seconds=seconds, what=f"{message_id} in {statuses}")
        assert found is not None
        return found

    def letter(self, message_id: str) -> dict[str, Any]:
        reply = self.get(f"/api/dlq/{message_id}")
        assert reply.status == 200, reply.raw
        answer: dict[str, Any] = reply.data
        return answer

    def statuses(self, ids: Iterable[str]) -> dict[str, int]:
        """How many of the messages are in which status."""
        with ThreadPoolExecutor(4) as pool:
            counts: dict[str, int] = {}
            for status in pool.map(self.status, ids):
                counts[status] = counts.get(status, 0) + 1
            return counts
