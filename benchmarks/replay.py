"""How fast a replay batch goes: ``python -m benchmarks.replay --connection var/connection.json --count 100000``.

Asks a stack that runs already (``manage.py up``): submits messages that die once and then succeed, waits until they are
dead letters, replays all of them in one batch without a rate, and tells how many letters a second got their outcome,
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
from collections.abc import Mapping
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
        """Each role's processes, children included. Roles on other machines are absent."""
        pids = json.loads(self._connection.read_text()).get("pids", {})
        found = {role: psutil.Process(pids[role]) for role in ROLES if role in pids}
        return {role: [one, *one.children(recursive=True)] for role, one in found.items()}


def usage(processes: Mapping[str, list[psutil.Process]]) -> dict[str, tuple[float, float]]:
    """CPU seconds and resident MiB of each role, of those of its processes that still run."""
    found = {}
    for role, some in processes.items():
        cpu_s = memory = 0.0
        for process in some:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                memory += process.memory_info().rss / 2**20
        found[role] = (cpu_s, memory)
    return found


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


def measure(stack: Stack, run: str, count: int, rate: float | None, every_s: float) -> None:
    """Replay the letters of ``run`` and print what came of it."""
    order: dict[str, Any] = {"filter": {"source": run}, "reason": "benchmark"}
    if rate is not None:
        order["ratePerSecond"] = rate
    processes = stack.processes()
    before = usage(processes)
    begun = time.perf_counter()
    batch = stack.ask("POST", "/api/dlq/replay-batch", order)
    planned_s = time.perf_counter() - begun
    samples = [before]
    last, last_at = 0, begun + planned_s
    print(f"{batch['total']} letters, planned in {planned_s:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    while batch["stage"] not in FINAL or batch["counts"]["remaining"]:
        time.sleep(every_s)
        batch = stack.ask("GET", f"/api/dlq/replay-batches/{batch['batchId']}")
        samples.append(usage(processes))
        ended, now = count - batch["counts"]["remaining"], time.perf_counter()
        print(f"{now - begun:6.1f} s  {batch['counts']}  {(ended - last) / (now - last_at):.0f}/s", flush=True)
        last, last_at = ended, now
    after = samples[-1]
    took_s = _seconds(batch["startedAt"], batch["finishedAt"])
    print(f"\n{batch['stage']}, {count} letters in {took_s:.1f} s: {count / took_s:.0f} letters/s")
    for row in stack.ask("GET", f"/api/dlq/replay-batches/{batch['batchId']}/report"):
        print(f"  {row}")
    print("\n| role | CPU, µs a letter | cores | MiB at the start | middle | end |\n|---|---|---|---|---|---|")
    middle = samples[len(samples) // 2]
    for role in processes:
        cpu_s = after[role][0] - before[role][0]
        memory = " | ".join(f"{sample[role][1]:.0f}" for sample in (before, middle, after))
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
