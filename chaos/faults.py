"""Faults of roles and stores, a plan of them drawn from a seed, and the injector that carries it out."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from chaos.proxy import Mode
from chaos.stores import Store, rewrite_file
from chaos.world import World

#: Longer than the lease of a running message (30 s), so that others run what the paused worker holds.
LONGER_THAN_A_LEASE = (33.0, 45.0)
_SHORT, _MIDDLE = (0.3, 6.0), (7.0, 12.0)
#: Seconds between two faults.
GAP = (0.6, 4.5)
#: Seconds to wait until replicas of Redis have recovered.
_WHOLE_S = 20.0
#: What is full during ``disk_full`` of the roles: logs, SQLite, connection.json.
ROLES = "roles"


@dataclass(frozen=True, slots=True)
class Card:
    """A possible fault: its target, its kind and the range of its duration in seconds."""

    target: str
    kind: str
    seconds: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Fault:
    """A planned fault. Times are seconds since the plan began."""

    at: float
    target: str
    kind: str
    seconds: float


_ON_STORES = (
    ("kill", (0.0, 0.0)),
    ("terminate", (0.0, 0.0)),
    ("pause", _SHORT),
    ("pause", _MIDDLE),
)
_ON_LINES = (
    ("stall", (1.0, 8.0)),
    ("delay", (2.0, 10.0)),
    ("lose_answer", (1.0, 4.0)),
    ("swallow_answer", (1.0, 4.0)),
    ("refuse", (1.0, 6.0)),
    ("reset", (0.0, 0.0)),
    ("silence", (0.0, 0.0)),
)


def deck(
    roles: Sequence[str], stores: Sequence[str], others: Sequence[str], sentinels: Sequence[str] = (), *, disks: bool
) -> list[Card]:
    """Every fault once. ``others``: databases that are not kept running, but crash and return."""
    cards: list[Card] = []
    for role in roles:
        cards += [Card(role, "kill"), Card(role, "terminate"), Card(role, "pause", _SHORT)]
        if role.startswith("worker"):
            cards += [Card(role, "kill"), Card(role, "pause", LONGER_THAN_A_LEASE)]
        if role == "web":
            cards.append(Card(role, "kill_child"))
    for store in stores:
        cards += [Card(store, kind, seconds) for kind, seconds in _ON_STORES]
    for store in (*stores, *others):
        cards += [Card(store, kind, seconds) for kind, seconds in _ON_LINES]
    if disks:
        cards += [Card(store, "disk_full", _MIDDLE) for store in (*stores, ROLES)]
    for sentinel in sentinels:
        cards += [Card(sentinel, "kill"), Card(sentinel, "pause", _MIDDLE)]
    cards += [Card(other, kind, _SHORT) for other in others for kind in ("crash", "pause")]
    return cards


def plan(seed: int, seconds: float, cards: Sequence[Card]) -> list[Fault]:
    """The faults of a run. Equal arguments give equal plans. No card comes again before all others have come."""
    rng = random.Random(seed)
    at, planned, left = 0.0, list[Fault](), list[Card]()
    while True:
        at += rng.uniform(*GAP)
        if at >= seconds:
            return planned
        if not left:
            left = rng.sample(cards, len(cards))
        card = left.pop()
        planned.append(Fault(round(at, 2), card.target, card.kind, round(rng.uniform(*card.seconds), 2)))


@dataclass(slots=True)
class Injector:
    """Carries out a plan. ``tell`` gets a line for each fault, with what really happened."""

    world: World
    tell: Callable[[str], None]
    done: list[dict[str, object]] = field(default_factory=list)
    _ends: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _paused: set[int] = field(default_factory=set)
    #: Servers of Redis whose disk was full, and whether they were asked to rewrite their append-only file since.
    _unsafe: dict[str, bool] = field(default_factory=dict)
    _begun: float = 0.0

    def run(self, faults: Sequence[Fault], seconds: float) -> None:
        """Inject for ``seconds``, then end everything that still lasts."""
        self._begun = time.monotonic()
        for fault in faults:
            self._until(fault.at)
            self._inject(fault)
        self._until(seconds)
        self.stop()

    def stop(self) -> None:
        """End every fault."""
        for _, end in self._ends:
            end()
        self._ends.clear()
        for proxy in self.world.proxies.values():
            proxy.become(Mode.NORMAL)
            proxy.reset()  # half-open connections end here, as after the longest keep-alive
        for pid in list(self._paused):
            self._go_on(pid)

    def _until(self, at: float) -> None:
        while (left := self._begun + at - time.monotonic()) > 0:
            self._end_due()
            self.world.wait(min(left, 0.1))

    def _end_due(self) -> None:
        now = time.monotonic()
        for due, end in [item for item in self._ends if item[0] <= now]:
            self._ends.remove((due, end))
            end()
        self._repair()

    def _repair(self) -> None:
        """Do what the on-call page asks for after a full disk: rewrite the append-only file before the next restart."""
        for store in self.world.redis_stores:
            if store.name not in self._unsafe or store.full:
                continue
            asked = self._unsafe[store.name]
            if rewrite_file(store.server.port, ask=not asked):
                if asked:
                    del self._unsafe[store.name]
                else:
                    self._unsafe[store.name] = True

    def _inject(self, fault: Fault) -> None:
        result = self._apply(fault)
        self.done.append(
            {"at": fault.at, "target": fault.target, "kind": fault.kind, "seconds": fault.seconds} | result
        )
        lasts = f" for {fault.seconds:.1f} s" if fault.seconds else ""
        note = f" ({result['note']})" if "note" in result else ""
        self.tell(f"{fault.at:7.1f} s  {fault.target}: {fault.kind}{lasts}{note}")

    def _apply(self, fault: Fault) -> dict[str, object]:
        store = next((store for store in self.world.stores if store.name == fault.target), None)
        if store in self.world.redis_stores and not self._is_whole():
            return {"note": "skipped: Redis has not recovered from an earlier fault"}
        if fault.kind in {kind for kind, _ in _ON_LINES}:
            self._hurt_line(fault)
        elif fault.kind == "disk_full":
            self._fill(fault, store)
        elif fault.target == "postgres":
            self._hurt_postgres(fault)
        elif store is not None and (store.full or store.name in self._unsafe) and fault.kind in ("kill", "terminate"):
            return {"note": "skipped: its disk is full, or its file is not repaired yet"}
        else:
            return self._signal(fault, self._victim(fault))
        return {}

    def _is_whole(self) -> bool:
        """Wait until Redis can lose a server. Two at once can lose accepted messages with the replica that has them."""
        redis = self.world.redis
        if redis is None or not redis.is_replicated:
            return True
        deadline = time.monotonic() + _WHOLE_S
        while not redis.is_whole():
            if time.monotonic() > deadline:
                return False
            self._end_due()
            self.world.wait(0.2)
        return True

    def _victim(self, fault: Fault) -> int:
        pid = self.world.pids().get(fault.target, 0)
        for server in self.world.servers:
            if server.name == fault.target and server.process is not None:
                pid = server.process.pid
        if fault.kind != "kill_child":
            return pid
        with suppress(psutil.Error):
            children = sorted(child.pid for child in psutil.Process(pid).children())
            return children[0] if children else 0
        return 0

    def _signal(self, fault: Fault, pid: int) -> dict[str, object]:
        numbers = {"terminate": signal.SIGTERM, "pause": signal.SIGSTOP}
        try:
            if pid <= 0:
                raise ProcessLookupError
            os.kill(pid, numbers.get(fault.kind, signal.SIGKILL))
        except ProcessLookupError:
            return {"note": "missed: it was not running"}
        if fault.kind == "pause":
            self._paused.add(pid)
            self._later(fault.seconds, lambda: self._go_on(pid))
        return {"pid": pid}

    def _go_on(self, pid: int) -> None:
        self._paused.discard(pid)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _fill(self, fault: Fault, store: Store | None) -> None:
        disk = store.disk if store else self.world.data
        disk.fill()
        if store:
            store.full = True
            if store in self.world.redis_stores:
                self._unsafe[store.name] = False

        def end() -> None:
            disk.free()
            if store:
                store.full = False

        self._later(fault.seconds, end)

    def _hurt_line(self, fault: Fault) -> None:
        proxy = self.world.proxies[fault.target]
        if fault.kind == "reset":
            return proxy.reset()
        if fault.kind == "silence":
            return proxy.silence()
        share = {"lose_answer": 0.3, "swallow_answer": 0.1}.get(fault.kind, 1.0)
        proxy.become(Mode(fault.kind), delay_s=0.01 * fault.seconds, share=share)
        self._later(fault.seconds, lambda: proxy.become(Mode.NORMAL))
        return None

    def _hurt_postgres(self, fault: Fault) -> None:
        server = self.world.postgres
        if server is None:
            return
        if fault.kind == "pause":
            server.hold()
            self._later(fault.seconds, lambda: server.hold(signal.SIGCONT))
        else:
            server.stop()
            self._later(fault.seconds, server.start)

    def _later(self, seconds: float, end: Callable[[], None]) -> None:
        self._ends.append((time.monotonic() + seconds, end))


def kinds(done: Sequence[dict[str, object]]) -> Iterator[tuple[str, int]]:
    """How often each kind of fault happened, missed and skipped ones left out."""
    counts: dict[str, int] = {}
    for fault in done:
        if "note" not in fault:
            counts[str(fault["kind"])] = counts.get(str(fault["kind"]), 0) + 1
    yield from sorted(counts.items())
