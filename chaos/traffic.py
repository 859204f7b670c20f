"""Traffic: a client that repeats each message until it is answered, and an operator who replays dead letters."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlqsite.tests.journeys.rig import Reply, Rig

#: Seconds for which a message is repeated.
GIVE_UP_S = 240.0
#: Share of the answered messages that are sent once more, later.
REPEATED = 0.05


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message: what its handler does, and how it ends without a replay."""

    type: str
    payload: Mapping[str, Any]
    end: str
    #: Share of the traffic, in percent.
    share: float
    #: Whether its letter replays automatically, a minute after the death.
    automatic: bool = False
    #: Seconds from the submission to the first run.
    later: float = 0.0


_TRANSIENT = "DATABASE_ERROR"  # its letters replay at night, so a run does not wait for them
KINDS: Mapping[str, Kind] = {
    "plain": Kind("chaos.plain", {"ms": 2}, "done", 40),
    "slow": Kind("chaos.plain", {"ms": 150}, "done", 14),
    "guarded": Kind("chaos.guarded", {"ms": 5}, "done", 12),
    "coroutine": Kind("chaos.coroutine", {"ms": 20}, "done", 8),
    "scheduled": Kind("chaos.plain", {"ms": 1}, "done", 3, later=6.0),
    "flaky": Kind("chaos.plain", {"failTimes": 1, "error": _TRANSIENT}, "done", 7),
    "once": Kind("chaos.plain", {"failTimes": 1, "error": "VALIDATION_ERROR"}, "dead", 10),
    "permanent": Kind("chaos.plain", {"fail": "always", "error": "VALIDATION_ERROR"}, "dead", 3),
    "transient": Kind("chaos.plain", {"fail": "always", "error": _TRANSIENT}, "dead", 2),
    "automatic": Kind("chaos.plain", {"failTimes": 4, "error": "NETWORK_ERROR"}, "dead", 1, automatic=True),
}


@dataclass(slots=True)
class Sent:
    """A submitted message, and what its client knows of it."""

    kind: str
    payload: str
    accepted: bool = False


@dataclass
class Submitter:
    """Submits at ``rate`` messages a second from ``threads`` threads. The kinds follow from the seed."""

    rig: Rig
    rate: float
    seed: int
    prefix: str = "c"
    threads: int = 8
    mix: Mapping[str, float] = field(default_factory=lambda: {name: kind.share for name, kind in KINDS.items()})
    #: Number of messages; None: until ``stop``.
    limit: int | None = None
    #: Kinds that replay automatically are sent only in the first seconds.
    automatic_until_s: float = float("inf")
    sent: dict[str, Sent] = field(default_factory=dict)
    #: Ids of messages that die once. ``sent`` grows meanwhile, so only this may be read before all threads have ended.
    once_ids: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    wrong_repeats: list[str] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    #: The longest time without any accepted message, and when it began, in seconds.
    longest_gap_s: tuple[float, float] = (0.0, 0.0)

    def start(self) -> Submitter:
        self._stopping, self._lock, self._next, self._accepted = threading.Event(), threading.Lock(), 0, 0
        self._begun = self._last = time.monotonic()
        self._running = [threading.Thread(target=self._run, daemon=True) for _ in range(self.threads)]
        for thread in self._running:
            thread.start()
        return self

    def stop(self) -> None:
        """Start no further message."""
        self._stopping.set()

    @property
    def busy(self) -> bool:
        return any(thread.is_alive() for thread in self._running)

    def accepted(self) -> int:
        return self._accepted

    def _take(self) -> int | None:
        with self._lock:
            number = self._next
            if self._stopping.is_set() or (self.limit is not None and number >= self.limit):
                return None
            self._next += 1
            return number

    def _run(self) -> None:
        while (number := self._take()) is not None:
            due = number / self.rate
            if self._stopping.wait(max(0.0, self._begun + due - time.monotonic())):
                return
            rng = random.Random(f"{self.seed} {number}")
            name = rng.choices(list(self.mix), list(self.mix.values()))[0]
            if KINDS[name].automatic and due > self.automatic_until_s:
                name = "plain"
            self._submit(f"{self.prefix}-{number}", name, rng)

    def _submit(self, message_id: str, name: str, rng: random.Random) -> None:
        kind, payload = KINDS[name], json.dumps(KINDS[name].payload)
        head = {
            "messageId": message_id,
            "type": kind.type,
            "tags": [name],
            "priority": rng.choice(("high", "normal", "low")),
        }
        if kind.later:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + kind.later))
            head["notBefore"] = at
        body = (json.dumps(head)[:-1] + f', "payload": {payload}}}').encode()
        sent = self.sent[message_id] = Sent(name, payload)
        if name == "once":
            self.once_ids.append(message_id)
        deadline = time.monotonic() + GIVE_UP_S
        while time.monotonic() < deadline:
            begun = time.monotonic()
            if self._once(body) in (200, 202):
                now = time.monotonic()
                with self._lock:
                    sent.accepted = True
                    self._accepted += 1
                    gap = (now - self._last, self._last - self._begun)
                    self.longest_gap_s, self._last = max(self.longest_gap_s, gap), now
                    self.latencies_ms.append((now - begun) * 1000)
                if rng.random() < REPEATED:
                    self._repeat(message_id, body)
                return
            time.sleep(0.25)

    def _once(self, body: bytes) -> int:
        try:
            reply = self.rig.call("POST", "/api/messages", body)
        except (OSError, http.client.HTTPException) as error:
            self.answers[type(error).__name__] += 1
            return 0
        self.answers[f"{reply.status} {code_of(reply)}".strip()] += 1
        return reply.status

    def _repeat(self, message_id: str, body: bytes) -> None:
        """An accepted message must not be accepted again."""
        try:
            reply = self.rig.call("POST", "/api/messages", body)
        except (OSError, http.client.HTTPException):
            return
        if reply.status == 202 or (reply.status < 500 and reply.status != 200):
            self.wrong_repeats.append(f"{message_id}: {reply.status} {reply.raw[:200]!r}")


def code_of(reply: Reply) -> str:
    """The code of a problem; empty for any other answer."""
    try:
        return str(reply.json.get("code", ""))
    except (ValueError, AttributeError):
        return ""


@dataclass
class Operator:
    """Starts a replay batch of letters every ``every_s`` seconds, and single replays in between."""

    rig: Rig
    submitter: Submitter
    seed: int
    every_s: float = 20.0
    batches: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)

    def start(self) -> Operator:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _run(self) -> None:
        rng, due, number = random.Random(f"{self.seed} operator"), time.monotonic() + self.every_s, 0
        while not self._stopping.wait(rng.uniform(1.0, 2.0)):
            if time.monotonic() > due:
                number += 1
                due = time.monotonic() + self.every_s
                self._start_batch(f"chaos-{self.seed}-{number}")
            else:
                self._replay_one(rng)

    def _start_batch(self, name: str) -> None:
        order = {
            "filter": {"tag": "once", "status": "dlq_manual"},
            "name": name,
            "reason": "chaos",
            "ratePerSecond": 50,
        }
        while not self._stopping.is_set():
            reply = self._ask("batch", "/api/dlq/replay-batch", order, {"Idempotency-Key": name})
            if reply is not None and reply.status in (200, 202):
                self.batches.append(str(reply.data["batchId"]))
            if reply is not None and reply.status < 500:
                return
            self._stopping.wait(0.5)

    def _replay_one(self, rng: random.Random) -> None:
        if known := self.submitter.once_ids:
            self._ask("replay", f"/api/dlq/{rng.choice(known)}/replay", {"reason": "chaos"}, {})

    def _ask(self, what: str, path: str, body: object, headers: dict[str, str]) -> Reply | None:
        try:
            reply = self.rig.call("POST", path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.answers[f"{what}: {type(error).__name__}"] += 1
            return None
        self.answers[f"{what}: {reply.status} {code_of(reply)}".strip()] += 1
        return reply
