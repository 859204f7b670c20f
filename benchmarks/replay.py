"""How fast a replay batch goes: ``python -m benchmarks.replay --connection var/connection.json --count 100000``.

Asks a stack that runs already (``manage.py up``): submits messages that die once and then succeed, waits until they are
dead letters, replays all in one batch without a rate, and reports how many letters got their outcome per second,
what CPU each role took for a letter, and how much memory each held at the start, in the middle and at the end.
Everything goes through the API with the key of the connection file. The letters stay, resolved.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

ROLES = ("web", "worker", "dlq_worker", "redis", "mongod")
FINAL = ("finished", "stopped", "cancelled")


class Stack:
    """A running stack, by what it wrote about itself."""

    def __init__(self, connection: Path) -> None:
        self._connection = connection
        told = json.loads(connection.read_text())
        self._url = told["url"]
        self._headers = {"Authorization": f"Api-Key {told['apiKey']}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """``data`` of the answer. Waits as long as a 429 or 503 asks; raises RuntimeError for other refusals."""
        raw = None if body is None else json.dumps(body).encode()
        while True:
            # The address is the one that the stack wrote down.
            request = urllib.request.Request(  # noqa: S310
                self._url + path, method=method, data=raw, headers=self._headers
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                    return json.load(answer)["data"]
            except urllib.error.HTTPError as error:
                if error.code not in (429, 503):
                    raise RuntimeError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error
                time.sleep(float(error.headers.get("Retry-After") or 1))

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Each role's processes, children included. Roles that do not run, or not on this machine, are absent."""
        pids = json.loads(self._connection.read_text()).get("pids", {})
        found = {}
        for role in ROLES:
            with contextlib.suppress(psutil.NoSuchProcess, KeyError):
                process = psutil.Process(pids[role])
                found[role] = [process, *process.children(recursive=True)]
        return found


class Meter:
    """CPU and memory of a stack's roles, also when a process is replaced by another."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._cpu_s: dict[tuple[str, int], tuple[float, float]] = {}
        self.memory: list[dict[str, float]] = []
        self.look()

    def look(self) -> None:
        """Note where everything stands, as MiB of each role and CPU seconds of each process."""
        memory: dict[str, float] = {}
        for role, processes in self._stack.processes().items():
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    used = times.user + times.system
                    # One that was not there at the beginning has used all of it since.
                    first = self._cpu_s.get((role, process.pid), (0.0 if self.memory else used, used))[0]
                    self._cpu_s[role, process.pid] = first, used
                    memory[role] = memory.get(role, 0.0) + process.memory_info().rss / 2**20
        self.memory.append(memory)

    def cpu_s(self, role: str) -> float:
        """CPU seconds of the role from the first look to the last one."""
        return sum(last - first for (one, _), (first, last) in self._cpu_s.items() if one == role)


def prepare(stack: Stack, run: str, count: int) -> float:
    """Let ``count`` messages die, and wait until each is a dead letter; seconds."""
    begun = time.perf_counter()
    payload = {"simulateError": True, "errorType": "VALIDATION_ERROR", "failTimes": 1}
    for first in range(0, count, 1000):
        names = (f"{run}-{n:07}" for n in range(first, min(first + 1000, count)))
        messages = [{"messageId": name, "type": "demo", "source": run, "payload": payload} for name in names]
        stack.ask("POST", "/api/messages/batch", {"messages": messages})
    plan = {"filter": {"source": run}, "dryRun": True}
    while stack.ask("POST", "/api/dlq/replay-batch", plan)["count"] < count:
        time.sleep(1)
    return time.perf_counter() - begun


def time_batch(
    stack: Stack, run: str, count: int, *, rate: float | None = None, every_s: float = 1.0, look: Callable[[Any], None]
) -> float:
    """Replay the letters of ``run``; seconds from the batch's start to its last outcome.

    ``look`` gets the batch at its beginning and every ``every_s``. RuntimeError unless every letter succeeded.
    """
    order: dict[str, Any] = {"filter": {"source": run}, "reason": "benchmark"}
    if rate is not None:
        order["ratePerSecond"] = rate
    batch = stack.ask("POST", "/api/dlq/replay-batch", order)
    look(batch)
    while batch["stage"] not in FINAL or batch["counts"]["remaining"]:
        time.sleep(every_s)
        batch = stack.ask("GET", f"/api/dlq/replay-batches/{batch['batchId']}")
        look(batch)
    if batch["stage"] != "finished" or batch["counts"]["succeeded"] != count:
        report = stack.ask("GET", f"/api/dlq/replay-batches/{batch['batchId']}/report")
        raise RuntimeError(f"the batch {batch['stage']}: {batch['counts']}, {report}")
    return _seconds(batch["startedAt"], batch["finishedAt"])


def measure(stack: Stack, run: str, count: int, rate: float | None, every_s: float) -> None:
    """Replay the letters of ``run`` and print what came of it."""
    meter = Meter(stack)
    begun = time.perf_counter()
    planned_s, last, last_at = 0.0, 0, begun

    def look(batch: Any) -> None:
        nonlocal planned_s, last, last_at
        meter.look()
        ended, now = count - batch["counts"]["remaining"], time.perf_counter()
        if not planned_s:
            planned_s, last_at = now - begun, now
            print(f"{batch['total']} letters, planned in {planned_s:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
            return
        print(f"{now - begun:6.1f} s  {batch['counts']}  {(ended - last) / (now - last_at):.0f}/s", flush=True)
        last, last_at = ended, now

    took_s = time_batch(stack, run, count, rate=rate, every_s=every_s, look=look)
    print(f"\nFinished, {count} letters in {took_s:.1f} s: {count / took_s:.0f} letters/s")
    print("\n| role | CPU, µs a letter | cores | MiB at the start | middle | end |\n|---|---|---|---|---|---|")
    looks = [meter.memory[0], meter.memory[len(meter.memory) // 2], meter.memory[-1]]
    for role in ROLES:
        cpu_s = meter.cpu_s(role)
        memory = " | ".join(f"{look.get(role, 0):.0f}" for look in looks)
        print(f"| {role} | {cpu_s / count * 1e6:.0f} | {cpu_s / (planned_s + took_s):.2f} | {memory} |")


def _seconds(begin: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(begin)).total_seconds()


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a replay batch of a running stack.")
    parser.add_argument("--connection", type=Path, default=Path("var/connection.json"), help="DATA_DIR/connection.json")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--rate", type=float, help="letters per second; without it as fast as it goes")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two looks")
    options = parser.parse_args()
    stack = Stack(options.connection)
    run = f"bench-{uuid.uuid4().hex[:8]}"
    print(f"{options.count} messages died in {prepare(stack, run, options.count):.0f} s", flush=True)
    measure(stack, run, options.count, options.rate, options.every)


if __name__ == "__main__":
    main()
