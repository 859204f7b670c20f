"""The line to every store falls silent, without a word: each role still hears SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from dlqsite.testing import Servers
from dlqsite.tests.patience import eventually
from messages_app.store import presence

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.journey]

ROOT = Path(__file__).resolve().parents[2]
#: The promise is 10 s. Without it a process waits for minutes; what lies between is the load of the machine.
SECONDS = 20.0

ROLES = {
    "worker": ["manage.py", "run_worker", "--concurrency", "2"],
    "dlq_worker": ["manage.py", "run_dlq_worker"],
    "cron": ["manage.py", "run_cron"],
    "rqworker": ["manage.py", "rqworker"],
    "web": ["-m", "gunicorn", "--config", "gunicorn.conf.py", "dlqsite.wsgi:application"],
}


@contextmanager
def silent(servers: Servers) -> Iterator[None]:
    """Stop Redis and MongoDB such that their sockets stay open and nobody answers."""
    for process in servers.processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in servers.processes:
            process.send_signal(signal.SIGCONT)


Spawn = Callable[[str], "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    running: list[subprocess.Popen[bytes]] = []

    def start(role: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{role}-{len(running)}.log").open("wb") as log:
            environment = {**os.environ, "BIND": f"unix:{tmp_path}/web.sock", "WEB_PROCESSES": "1"}
            process = subprocess.Popen(
                [sys.executable, *ROLES[role]], cwd=ROOT, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for log in sorted(tmp_path.glob("*.log")):
        print(log.name, log.read_text(errors="replace"))  # noqa: T201 - shown when the test fails


def test_sigterm_is_heard_while_no_store_answers(
    spawn: Spawn, servers: Servers, redis_client: redis.Redis, tmp_path: Path
) -> None:
    running = {role: spawn(role) for role in ROLES}
    eventually(lambda: {one.role for one in presence.present()} >= {"worker", "dlq_worker", "cron"}, seconds=60)
    eventually(lambda: redis_client.scard("rq:workers") == 2, seconds=60, what="both kinds of RQ's workers are listed")
    eventually((tmp_path / "web.sock").exists, seconds=60)
    with silent(servers):
        running["starting"] = spawn("worker")
        log = next(tmp_path.glob("worker-5.log"))
        eventually(lambda: "worker_waits" in log.read_text(), seconds=60, what="the new worker waits for Redis")
        begun = time.monotonic()
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        took: dict[str, float] = {}
        while len(took) < len(running) and time.monotonic() < begun + SECONDS:
            took |= {r: time.monotonic() - begun for r, p in running.items() if p.poll() is not None and r not in took}
            time.sleep(0.05)
        print(took)  # noqa: T201 - shown when the test fails
        assert set(took) == set(running)
