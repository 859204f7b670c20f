"""What a fail-over loses: ``python -m benchmarks.failover --rounds 3 --fault kill --durability replica``.

Starts a primary, two replicas and three Sentinels, and the whole stack on them (``manage.py up``). Clients submit at a
fixed rate and send again, with the same id, what was not accepted. Then the primary gets the fault. Afterwards, each id
with a 202 or 200 must be in Redis, and each run of a handler is counted in a file. Prints one row per round.

``--lag-ms`` delays what the replicas receive, as a slow line would; what is on the line is lost with the primary.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from breaker_app.tests.servers import Watched

from . import places
from .processes import Child, DidNotStart, plain_environment

FAULTS = ("kill", "pause", "failover", "paused-failover", "coordinated")
#: Seconds of load before the fault, of a pause, and of load after the first acceptance that follows the fault.
BEFORE_S, PAUSE_S, AFTER_S = 8.0, 6.0, 8.0
#: More than the clients that wait for a confirmation at any time.
CLIENTS = 96


# -- a slow line to the replicas


async def _pass(reader: Any, writer: Any, note: Callable[[bytes], None]) -> None:
    while data := await reader.read(65536):
        note(data)
        writer.write(data)
        await writer.drain()


def _forward(door: int, port: int, delay_s: float) -> None:
    """Forward ``door`` to ``port``. A connection that asks for replication gets its data ``delay_s`` later."""

    async def meet(reader: Any, writer: Any) -> None:
        is_replica = False

        def look(data: bytes) -> None:
            nonlocal is_replica
            is_replica = is_replica or b"PSYNC" in data

        async def back() -> None:
            loop = asyncio.get_running_loop()
            while data := await from_server.read(65536):
                if is_replica:
                    loop.call_later(delay_s, writer.write, data)
                else:
                    writer.write(data)
                    await writer.drain()

        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.close()
            return
        ways = [asyncio.ensure_future(_pass(reader, to_server, look)), asyncio.ensure_future(back())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, to_server):
            end.close()

    async def serve() -> None:
        async with await asyncio.start_server(meet, "127.0.0.1", door) as server:
            await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


class Doors:
    """One forwarder before each server."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._forwarders: dict[int, Any] = {}

    def open(self, port: int) -> int:
        door = places.free_port()
        process = multiprocessing.get_context("spawn").Process(
            target=_forward, args=(door, port, self._delay_s), daemon=True
        )
        process.start()
        self._forwarders[door] = process
        return door

    def kill(self, door: int) -> None:
        """What is on the line is lost."""
        if process := self._forwarders.get(door):
            process.kill()
            process.join()


# -- clients


@dataclass
class Clients:
    """Threads that submit at a rate, and the replies that they got."""

    port: int
    key: str
    rate: float
    accepted: dict[str, float] = field(default_factory=dict)
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        self._began = time.monotonic()
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join()

    def _work(self) -> None:
        line = None
        while not self.over.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            # Each has its own time, so a stop of the system does not stop the load.
            if self.over.wait(max(0.0, self._began + number / self.rate - time.monotonic())):
                return
            name = f"f-{number:07}"
            body = json.dumps({"messageId": name, "type": "bench.count", "payload": {"n": number}})
            while not self.over.is_set():
                try:
                    line = line or http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
                    headers = {"Authorization": f"Api-Key {self.key}", "Content-Type": "application/json"}
                    line.request("POST", "/api/messages", body, headers)
                    answer = line.getresponse()
                    said = answer.read()
                except (OSError, http.client.HTTPException) as error:
                    line, why = None, type(error).__name__
                else:
                    if answer.status in (200, 202):
                        self.accepted[name] = time.monotonic()
                        break
                    why = f"{answer.status} {json.loads(said).get('code')}"
                self.refused[why] += 1
                self.over.wait(0.2)


# -- one round


@dataclass(frozen=True)
class Plan:
    fault: str
    durability: str
    rate: float
    lag_ms: int
    down_after_ms: int
    min_replicas: int
    folder: Path


@contextlib.contextmanager
def _stack(plan: Plan, watched: Watched) -> Iterator[tuple[int, str, dict[str, str]]]:
    """The running stack: its port, a key, and the environment of its commands."""
    data = plan.folder / "data"
    port = places.free_port()
    environment = plain_environment() | {
        "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        "DATA_DIR": str(data), "PORT": str(port), "REDIS_URL": watched.url, "ACCEPT_DURABILITY": plan.durability,
        "WORKERS": "2", "WEB_PROCESSES": "2", "WEB_THREADS": "48", "RATE_LIMIT_PER_MINUTE": "1000000",
        "BENCH_RUNS": str(plan.folder / "runs"),
    }  # fmt: skip
    command = [places.OURS_PYTHON, "manage.py", "up"]
    child = Child(command, env=environment, cwd=places.PROJECT, log=plan.folder / "up.log")
    try:
        told = data / "connection.json"
        deadline = time.monotonic() + 120
        while not told.is_file() or "apiKey" not in told.read_text():
            if not child.alive() or time.monotonic() > deadline:
                raise child.failed("did not start")
            time.sleep(0.2)
        child.answering(port, 60)
        stores = json.loads(told.read_text())
        yield port, stores["apiKey"], environment | {"MONGODB_URL": stores["mongodbUrl"]}
    finally:
        child.stop(60)


def _strike(plan: Plan, watched: Watched, doors: Doors) -> None:
    """Do to the primary what the plan says; returns when that is done."""
    number = watched.primary
    server = watched.servers[number]
    if server.process is None:
        raise RuntimeError("the primary does not run")
    if plan.fault == "kill":
        server.process.kill()
        doors.kill(watched.ports[number])
    elif plan.fault == "pause":
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(PAUSE_S)
        server.process.send_signal(signal.SIGCONT)
    else:
        if plan.fault == "paused-failover":
            server.client.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
            time.sleep(0.5)
        watched.tell(0, "FAILOVER", *(("COORDINATED",) if plan.fault == "coordinated" else ()))


def _round(plan: Plan) -> dict[str, Any]:
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.folder.mkdir(parents=True)
    doors = Doors(plan.lag_ms / 1000)
    watched = Watched(
        *("--min-replicas-to-write", str(plan.min_replicas), "--min-replicas-max-lag", "2"),
        down_after_ms=plan.down_after_ms,
        failover_timeout_ms=20_000,
        door=doors.open if plan.lag_ms else None,
    )
    try:
        with _stack(plan, watched) as (port, key, environment):
            clients = Clients(port, key, plan.rate)
            clients.start()
            time.sleep(BEFORE_S)
            first, struck = watched.primary, time.monotonic()
            _strike(plan, watched, doors)
            watched.wait(lambda: watched.primary != first, 60)
            promoted = time.monotonic()
            while not any(at > promoted for at in list(clients.accepted.values())):
                time.sleep(0.05)
            time.sleep(AFTER_S)
            clients.stop()
            server = watched.servers[watched.primary].client
            quiet = _quiet(server)
            times = sorted(at for at in clients.accepted.values() if at > struck - 1)
            names = list(clients.accepted)
            with server.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.exists(f"dlq:msg:{name}")
                lost = [name for name, there in zip(names, pipe.execute(), strict=True) if not there]
            runs = collections.Counter((plan.folder / "runs").read_text().split())
            logs = "".join(path.read_text(errors="replace") for path in (plan.folder / "data/logs").glob("*.log*"))
            books = _books(server)
            differences = _differences(environment)
            return {
                "fault": plan.fault, "durability": plan.durability, "lagMs": plan.lag_ms,
                "minReplicas": plan.min_replicas,
                "accepted": len(names), "lost": len(lost), "lostButRan": sum(name in runs for name in lost),
                "neverRan": sum(name not in runs for name in names), "ranTwice": sum(n > 1 for n in runs.values()),
                "stale": logs.count('"event": "stale_outcome"'),
                "promotedS": round(promoted - struck, 1),
                "gapS": round(max(b - a for a, b in itertools.pairwise(times)), 1),
                "refused": dict(clients.refused), "booksWrong": books, "differences": differences,
                "quietS": quiet,
                "fellBack": logs.count('"event": "ledger_fell_back"'), "load": round(os.getloadavg()[0], 1),
            }  # fmt: skip
    finally:
        watched.remove()


def _differences(environment: dict[str, str]) -> Any:
    """What ``manage.py reconcile`` finds."""
    command = [places.OURS_PYTHON, "manage.py", "reconcile", "--json"]
    done = subprocess.run(
        command, env=environment, cwd=places.PROJECT, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode not in (0, 2):
        raise DidNotStart(done.stderr[-2000:])
    report = json.loads(done.stdout.splitlines()[-1])
    return {one["kind"]: one["count"] for one in report["differences"]} | (
        {"undecided": 1} if report["undecided"] else {}
    )


def _books(server: Any) -> int:
    """By how many messages accepted is not done + dead + open."""
    wrong = 0
    for key in server.scan_iter("dlq:acct:[0-9]*"):
        row = {name.decode(): int(count) for name, count in server.hgetall(key).items()}
        wrong += abs(row.get("accepted", 0) - row.get("done", 0) - row.get("dead", 0) - row.get("open", 0))
    return wrong


def _quiet(server: Any) -> float:
    """Seconds until no message is open."""
    began = time.monotonic()
    while time.monotonic() - began < 120:
        rows = [server.hget(key, "open") for key in server.scan_iter("dlq:acct:[0-9]*")]
        if not any(int(count or 0) for count in rows):
            return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    return -1.0


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what a fail-over of Redis loses.")
    parser.add_argument("--fault", choices=FAULTS, action="append")
    parser.add_argument("--durability", choices=("everysec", "fsync", "replica"), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--lag-ms", type=int, default=0)
    parser.add_argument("--down-after-ms", type=int, default=2000)
    parser.add_argument("--min-replicas", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "dlq-failover")
    parser.add_argument("--keep", action="store_true", help="keep the data and logs of the last round")
    options = parser.parse_args()
    for fault in options.fault or ("kill",):
        for durability in options.durability or ("everysec", "fsync", "replica"):
            for _ in range(options.rounds):
                numbers = options.rate, options.lag_ms, options.down_after_ms, options.min_replicas
                row = _round(Plan(fault, durability, *numbers, options.folder))
                print(json.dumps(row), flush=True)
    if not options.keep:
        shutil.rmtree(options.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
