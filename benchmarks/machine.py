"""What the machine did during a measurement: CPU per side, memory, the core's speed, and what the machine is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from .processes import Child

_MIB = 2**20
_SIDES = ("contestant", "redis", "mongod", "generator")


def speed_ms() -> float:
    """Milliseconds for a fixed piece of pure Python, best of three: how fast a core is right now.

    A shared host can slow down by a factor of two without any process of this machine being the cause; only
    measurements with similar values here may be compared, which is why contestants take turns.
    """
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        value = 0
        for number in range(200_000):
            value += number * number % 7
        best = min(best, time.perf_counter() - started)
    return round(best * 1000, 2)


@dataclass(frozen=True)
class _Cpu:
    """CPU seconds used so far."""

    contestant: float
    redis: float
    mongod: float
    generator: float
    busy: float
    all: float


class CpuAccount:
    """Opened at the start of a measurement, closed at its end with the number of messages in between."""

    def __init__(self, contestant: Iterable[Child], redis_server: Child, mongod: Child) -> None:
        self._contestant, self._redis, self._mongod = list(contestant), redis_server, mongod
        self._before = self._now()

    def _now(self) -> _Cpu:
        own = os.times()
        machine = psutil.cpu_times()
        total = sum(machine[:8])
        return _Cpu(
            contestant=_used(self._contestant),
            redis=_used([self._redis]),
            mongod=_used([self._mongod]),
            generator=own.user + own.system + own.children_user + own.children_system,
            busy=total - machine.idle - getattr(machine, "iowait", 0.0),
            all=total,
        )

    def close(self, messages: int) -> dict[str, float]:
        """CPU microseconds per message of each side; ``neighbours``: the share of the machine that others used."""
        before, after = self._before, self._now()
        used = {side: getattr(after, side) - getattr(before, side) for side in _SIDES}
        foreign = (after.busy - before.busy) - sum(used.values())
        account = {f"{side}_us": round(seconds / max(messages, 1) * 1e6, 1) for side, seconds in used.items()}
        account["neighbours"] = round(max(foreign, 0.0) / max(after.all - before.all, 1e-9), 3)
        return account


def _used(children: Iterable[Child]) -> float:
    seconds = 0.0
    for child in children:
        for process in child.tree():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue  # ended between listing and reading
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def memory_mb(children: Iterable[Child]) -> dict[str, float]:
    """Resident memory (MiB) of all processes of ``children`` together, of the largest one, and their number."""
    sizes = []
    for child in children:
        for process in child.tree():
            try:
                sizes.append(process.memory_info().rss / _MIB)
            except psutil.Error:
                continue  # ended between listing and reading
    return {"all": round(sum(sizes), 1), "largest": round(max(sizes, default=0.0), 1), "processes": len(sizes)}


def description() -> dict[str, Any]:
    """What a reader must know about the machine to judge figures; nothing that names it."""
    model = "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memoryGiB": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
    }
