"""The state machine of ``lua/shared/machine.lua`` for one process, in Python.

Used while Redis is unavailable, and as the model that the scripts are tested against.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from breaker_app.policy import BreakerPolicy
from breaker_app.states import Entry, Outcome, Permit, Recorded, Snapshot, State, Transition, Why


def monotonic_ms() -> int:
    """Milliseconds of a monotonic clock."""
    return time.monotonic_ns() // 1_000_000


@dataclass(slots=True)
class _Bucket:
    """The outcomes of one second."""

    total: int = 0
    failures: int = 0
    slow: int = 0


@dataclass(slots=True)
class _Breaker:
    """The state of one breaker. Every method is a rule; the time is an argument."""

    generation: int
    #: The second of the last access to the window.
    second: int
    state: State = State.CLOSED
    until: int = 0
    #: Outcomes by the second in which they were recorded.
    window: dict[int, _Bucket] = field(default_factory=dict)
    #: End of each probe's lease by its token.
    leases: dict[str, int] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    lost: int = 0
    opens: int = 0
    left: int = 0
    transitions: deque[Transition] = field(default_factory=lambda: deque(maxlen=1_000))

    @property
    def total(self) -> int:
        return sum(bucket.total for bucket in self.window.values())

    @property
    def failures(self) -> int:
        return sum(bucket.failures for bucket in self.window.values())

    @property
    def slow(self) -> int:
        return sum(bucket.slow for bucket in self.window.values())

    def settle(self, policy: BreakerPolicy, now: int) -> None:
        """Apply the passing of time: drop old buckets and ended leases, cut deadlines if the clock went back."""
        second = now // 1_000
        self.window = self.aged(policy, second)
        self.second = second
        self.until = min(self.until, now + policy.open_timeout_ms)
        if self.state is not State.HALF_OPEN:
            return
        alive = {token: till for token, till in self.leases.items() if till > now}
        self.lost += len(self.leases) - len(alive)
        self.leases = {token: min(till, now + policy.permit_lease_ms) for token, till in alive.items()}
        self.judge(policy, now)

    def aged(self, policy: BreakerPolicy, second: int) -> dict[int, _Bucket]:
        """The buckets that still count at ``second``; none when the clock went back."""
        if second < self.second:
            return {}
        oldest = second - policy.time_window_ms // 1_000
        return {at: bucket for at, bucket in self.window.items() if at > oldest}

    def turn(self, to: State, why: Why, policy: BreakerPolicy, now: int, actor: str = "", reason: str = "") -> None:
        """Change the state and start a new generation, without leases and counts of probes."""
        source, total, failures = self.state, self.total, self.failures
        if source is State.HALF_OPEN:
            total, failures = self.succeeded + self.failed, self.failed
        self.generation = max(self.generation + 1, now)
        if to is State.CLOSED:
            self.left = 0
        elif source is State.CLOSED:
            self.left = now
        self.state = to
        self.leases = {}
        self.succeeded = self.failed = self.lost = 0
        self.until = now + policy.open_timeout_ms if to is State.OPEN else 0
        self.opens += to is State.OPEN
        if to in (State.CLOSED, State.METRICS_ONLY):
            self.window = {}
        self.transitions.append(
            Transition(
                at_ms=now,
                source=source,
                to=to,
                generation=self.generation,
                why=why,
                total=total,
                failures=failures,
                actor=actor,
                reason=reason,
            )
        )

    def judge(self, policy: BreakerPolicy, now: int) -> None:
        """End HALF_OPEN as soon as the result is certain, without waiting for outcomes that cannot change it."""
        _, _, _, _, probes, needed, *_ = policy.wire
        if self.succeeded * 1_000 >= needed * probes:
            self.turn(State.CLOSED, Why.PROBES_SUCCEEDED, policy, now)
        elif (probes - self.failed) * 1_000 < needed * probes:
            self.turn(State.OPEN, Why.PROBES_FAILED, policy, now)
        elif self.lost >= probes:
            self.turn(State.OPEN, Why.PROBES_LOST, policy, now)

    def acquire(self, token: str, policy: BreakerPolicy, now: int) -> tuple[bool, int]:
        """(allowed, retry after in ms)."""
        if self.state is State.OPEN and now >= self.until:
            self.turn(State.HALF_OPEN, Why.OPEN_TIME_OVER, policy, now)
        if self.state is State.OPEN:
            return False, self.until - now
        if self.state is State.FORCED_OPEN:
            return False, -1
        if self.state is State.HALF_OPEN and token not in self.leases:
            if self.is_full(policy):
                return False, min(self.leases.values(), default=now) - now
            self.leases[token] = now + policy.permit_lease_ms
        return True, 0

    def is_full(self, policy: BreakerPolicy) -> bool:
        """Whether HALF_OPEN has no permit left."""
        return len(self.leases) + self.succeeded + self.failed >= policy.half_open_max_requests

    def record(self, entry: Entry, policy: BreakerPolicy, now: int) -> bool:
        """Whether the outcome was used."""
        permit, outcome, took = entry
        if permit.generation != self.generation:
            return False
        if self.state is State.HALF_OPEN:
            if self.leases.pop(permit.token, None) is None:
                return False
            # A slow success is no proof that the downstream has recovered: it must not close the circuit.
            succeeded = outcome is Outcome.SUCCESS and not policy.is_slow(took)
            self.succeeded += succeeded
            self.failed += not succeeded and outcome is not Outcome.IGNORED
            self.judge(policy, now)
            return True
        if outcome is Outcome.IGNORED or self.state not in (State.CLOSED, State.METRICS_ONLY):
            return False
        bucket = self.window.setdefault(self.second, _Bucket())
        bucket.total += 1
        bucket.failures += outcome is Outcome.FAILURE
        bucket.slow += policy.is_slow(took)
        if self.state is State.CLOSED:
            self.trip(policy, now)
        return True

    def trip(self, policy: BreakerPolicy, now: int) -> None:
        """Open if there are enough outcomes and too many of them failed or were slow."""
        share, _, minimum, *_, slow_share = policy.wire
        if self.total < minimum:
            return
        if self.failures * 1_000 >= share * self.total:
            self.turn(State.OPEN, Why.FAILURE_RATE, policy, now)
        elif slow_share and self.slow * 1_000 >= slow_share * self.total:
            self.turn(State.OPEN, Why.SLOW_RATE, policy, now)

    def snapshot(self, policy: BreakerPolicy, now: int) -> Snapshot:
        """Read the breaker; change nothing."""
        window = self.aged(policy, now // 1_000).values()
        leases = [min(till, now + policy.permit_lease_ms) for till in self.leases.values() if till > now]
        wait = 0
        if self.state is State.OPEN:
            wait = min(max(self.until - now, 0), policy.open_timeout_ms)
        elif self.state is State.FORCED_OPEN:
            wait = -1
        elif self.state is State.HALF_OPEN:
            free = policy.half_open_max_requests - len(leases) - self.succeeded - self.failed
            wait = 0 if free > 0 else min(leases, default=now) - now
        return Snapshot(
            state=self.state,
            generation=self.generation,
            total=sum(bucket.total for bucket in window),
            failures=sum(bucket.failures for bucket in window),
            slow=sum(bucket.slow for bucket in window),
            leases=len(leases),
            probes_succeeded=self.succeeded,
            probes_failed=self.failed,
            probes_lost=self.lost,
            opens=self.opens,
            retry_after_ms=wait,
            due=self.state is State.OPEN and wait == 0,
            left_closed_ms=self.left or None,
            shared=False,
        )


class LocalBreakerStore:
    """The breakers of this process, with the methods and rules of the shared store. Thread-safe, always available."""

    def __init__(self, clock: Callable[[], int] = monotonic_ms) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._breakers: dict[str, _Breaker] = {}

    def acquire(self, name: str, policy: BreakerPolicy, token: str) -> Permit:
        """Ask for a permit. Record its outcome here."""
        with self._lock:
            breaker, now = self._settled(name, policy)
            allowed, wait = breaker.acquire(token, policy, now)
            return Permit(allowed, breaker.state, breaker.generation, wait, token, local=True)

    def record(self, name: str, policy: BreakerPolicy, entries: Sequence[Entry]) -> Recorded:
        """Count the outcomes in order, in one step."""
        with self._lock:
            breaker, now = self._settled(name, policy)
            used = tuple(breaker.record(entry, policy, now) for entry in entries)
            return Recorded(used, breaker.state, breaker.generation, breaker.total, breaker.failures)

    def admin(self, name: str, policy: BreakerPolicy, state: State, *, actor: str, reason: str) -> None:
        """Set the breaker to ``state``."""
        with self._lock:
            breaker, now = self._settled(name, policy)
            breaker.turn(state, Why.MANUAL, policy, now, actor, reason)

    def peek(self, name: str, policy: BreakerPolicy) -> Snapshot:
        """Read the breaker; change nothing."""
        with self._lock:
            breaker = self._breakers.get(name)
            if breaker is None:
                return Snapshot(state=State.CLOSED, shared=False)
            return breaker.snapshot(policy, self._clock())

    def transitions(self, name: str, limit: int) -> list[Transition]:
        """The newest ``limit`` changes of state, newest first."""
        with self._lock:
            breaker = self._breakers.get(name)
            return list(breaker.transitions)[::-1][:limit] if breaker else []

    def _settled(self, name: str, policy: BreakerPolicy) -> tuple[_Breaker, int]:
        now = self._clock()
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = _Breaker(generation=now, second=now // 1_000)
        breaker.settle(policy, now)
        return breaker, now
