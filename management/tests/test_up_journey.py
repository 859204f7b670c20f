"""`manage.py up` for real: everything comes up on an empty directory, heals, and leaves nothing behind."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from dlqsite.tests.patience import eventually
from management.stack import PROJECT
from management.tests.test_supervisor import gone

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

#: What the tests' own servers and the machine say must not reach the stack.
_OURS = ("REDIS_URL", "MONGODB_URL", "MONGODB_DATABASE", "DATABASE_URL", "SECRET_KEY", "HTTPS", "HOST", "WORKERS")


class Up:
    """A running `manage.py up`."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        self.output = data.parent / "up.out"
        inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "up"],
            cwd=PROJECT,
            env={**inherited, "DATA_DIR": str(data), "PORT": "0", "STATIC_ROOT": str(data / "static"), **environment},
            stdout=self.output.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said(self) -> str:
        return self.output.read_text()

    def ready(self) -> dict[str, Any]:
        """What connection.json holds once the stack is up."""
        path = self.data / "connection.json"
        eventually(lambda: path.exists() or self.process.poll() is not None, seconds=120)
        assert self.process.poll() is None, self.said()
        return self.connection()

    def connection(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.data / "connection.json").read_text())
        return found

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


def call(connection: dict[str, Any], method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and decoded body of one request; 0 while nobody answers."""
    address = urlsplit(connection["url"])
    client = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    try:
        headers = {"Authorization": f"Api-Key {connection['apiKey']}", "Content-Type": "application/json"}
        client.request(method, path, None if body is None else json.dumps(body), headers)
        answer = client.getresponse()
        return answer.status, json.loads(answer.read())
    except (OSError, http.client.HTTPException):
        return 0, None
    finally:
        client.close()


def status_of(connection: dict[str, Any], message_id: str) -> str:
    code, body = call(connection, "GET", f"/api/messages/{message_id}")
    return str(body["data"]["status"]) if code == 200 else ""


def processes_of(data: Path) -> list[int]:
    """Everything that runs with this data directory."""
    everybody = psutil.process_iter(["environ"])
    return [one.pid for one in everybody if (one.info["environ"] or {}).get("DATA_DIR") == str(data)]


def replaced(up: Up, role: str, pid: int) -> bool:
    return up.connection()["pids"].get(role) not in (None, pid)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "data")
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGTERM)


def test_it_comes_up_heals_and_stops(up: Up, tmp_path: Path) -> None:
    connection = up.ready()
    pids: dict[str, int] = connection["pids"]

    # Everything a script needs is there, for its owner only.
    assert stat.S_IMODE((up.data / "connection.json").stat().st_mode) == 0o600
    assert set(pids) == {"supervisor", "redis", "mongod", "web", "worker", "dlq_worker", "cron"}
    assert pids["supervisor"] == up.process.pid
    assert {"url", "apiKey", "adminUser", "adminPassword", "redisUrl", "mongodbUrl", "database"} <= set(connection)
    assert f"/ {connection['adminPassword']} " in up.said()

    # The stores listen on no port.
    listening = [c for pid in (pids["redis"], pids["mongod"]) for c in psutil.Process(pid).net_connections("inet")]
    assert listening == []

    code, body = call(connection, "POST", "/api/messages", {"type": "demo", "payload": {"n": 1}, "messageId": "first"})
    assert code == 202, body
    eventually(lambda: status_of(connection, "first") == "done", seconds=20)

    # Whatever is killed comes back, on the same data.
    for roles in (("web", "worker", "dlq_worker", "cron"), ("redis", "mongod")):
        for role in roles:
            os.kill(pids[role], signal.SIGKILL)
        for role in roles:
            eventually(partial(replaced, up, role, pids[role]), seconds=30)
    eventually(lambda: status_of(connection, "first") == "done", seconds=30)
    message = {"type": "demo", "payload": {"n": 2}, "messageId": "second"}
    eventually(lambda: call(connection, "POST", "/api/messages", message)[0] in (200, 202), seconds=30)
    eventually(lambda: status_of(connection, "second") == "done", seconds=30)

    # A second one on the same directory is refused in one line.
    refused = subprocess.run(
        [sys.executable, "manage.py", "up"],
        cwd=PROJECT,
        env={**os.environ, "DATA_DIR": str(up.data), "PORT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert f"another `up` (pid {up.process.pid}) runs on DATA_DIR" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1

    # Ctrl-C ends all of it.
    family = [*pids.values(), *up.connection()["pids"].values()]
    family += [child.pid for child in psutil.Process(up.process.pid).children(recursive=True)]
    assert up.end() == 0
    assert [pid for pid in family if not gone(pid)] == []
    assert not (up.data / "connection.json").exists()

    # The next run finds the data, the key and the password, and does not print the password again.
    up.output.unlink()
    again = Up(up.data)
    try:
        later = again.ready()
        assert (later["apiKey"], later["adminPassword"]) == (connection["apiKey"], connection["adminPassword"])
        assert connection["adminPassword"] not in again.said()
        assert status_of(later, "first") == "done"
    finally:
        assert again.end(signal.SIGTERM) == 0


def test_a_port_in_use_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = Up(tmp_path / "data", PORT=str(port))

        assert up.process.wait(60) == 1

    assert up.said().strip() == (
        f"CommandError: port {port} on 127.0.0.1 is in use: choose another, make up PORT={port + 1}"
    )
    assert processes_of(tmp_path / "data") == []


def test_a_role_that_cannot_start_ends_the_stack(tmp_path: Path) -> None:
    up = Up(tmp_path / "data", RATE_LIMIT_PER_MINUTE="-5")

    assert up.process.wait(120) == 1

    last = up.said().strip().splitlines()[-1]
    assert last.startswith("CommandError: prepare ended with exit code 1")
    assert processes_of(up.data) == []
