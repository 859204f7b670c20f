"""Benches that drive breakers: one plays written traces, one plays the same events to script and model."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from breaker_app.breaker import BreakerStore, CircuitBreaker
from breaker_app.policy import BreakerPolicy
from breaker_app.states import ADMIN_STATES, Entry, Outcome, Permit, Snapshot, State, Transition, is_legal
from breaker_app.testing import FakeClock, MemoryBreakerStore

S, F, I = Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED  # noqa: E741 - the letters of the traces
HOUR = 3_600_000


class Bench:
    """One breaker under a clock that the trace moves. Verbs read as the traces do: ``bench.fail(9, at=0)``."""

    def __init__(self, store: BreakerStore, clock: FakeClock, policy: BreakerPolicy | None = None) -> None:
        self.clock = clock
        self.store = store
        self.use(policy or BreakerPolicy())

    def use(self, policy: BreakerPolicy) -> None:
        """Go on with another policy, as after a deployment."""
        self.breaker = CircuitBreaker("orders-db", policy, self.store)

    def acquire(self, token: str | None = None, *, at: int) -> Permit:
        self.clock.now = at
        return self.breaker.acquire(token)

    def record(self, permit: Permit, outcome: Outcome, *, at: int, took: int = 0) -> bool:
        self.clock.now = at
        return self.breaker.record(permit, outcome, took)

    def call(self, outcome: Outcome, times: int = 1, *, at: int, took: int = 0) -> bool:
        """Whole calls; whether the last of them was used."""
        used = False
        for _ in range(times):
            permit = self.acquire(at=at)
            used = self.record(permit, outcome, at=at, took=took)
        return used

    def fail(self, times: int = 1, *, at: int) -> bool:
        return self.call(F, times, at=at)

    def succeed(self, times: int = 1, *, at: int) -> bool:
        return self.call(S, times, at=at)

    def peek(self, *, at: int | None = None) -> Snapshot:
        self.clock.now = self.clock.now if at is None else at
        return self.breaker.peek()

    def force(self, state: State, *, at: int) -> None:
        self.clock.now = at
        self.breaker.force(state, actor="key:olga", reason="a drill")

    def state(self) -> State:
        return self.breaker.peek().state

    @property
    def counts(self) -> tuple[int, int]:
        """Outcomes and failures in the window."""
        seen = self.breaker.peek()
        return seen.total, seen.failures

    def opened(self) -> None:
        """Ten failures at 0."""
        self.fail(10, at=0)
        assert self.state() is State.OPEN

    def half(self) -> list[Permit]:
        """Opened, then ten probes at 30 000, all admitted."""
        self.opened()
        probes = [self.acquire(f"h{number}", at=30_000) for number in range(10)]
        assert all(probe.allowed for probe in probes)
        assert self.state() is State.HALF_OPEN
        return probes


class Twins:
    """The scripts and the model side by side. Every event goes to both; every answer and the state after it must agree.

    The rules that hold for any trace are checked after every event as well.
    """

    def __init__(self, store: BreakerStore, clock: FakeClock, policy: BreakerPolicy, *, name: str = "twin") -> None:
        self.clock = clock
        self.policy = policy
        self.name = name
        self.script = store
        self.model = MemoryBreakerStore(clock)
        self.permits: list[Permit] = []
        self.generation = 0
        self.seen: list[Transition] = []

    def acquire(self, token: str) -> Permit:
        permit = self.script.acquire(self.name, self.policy, token)
        assert permit == self.model.acquire(self.name, self.policy, token)
        assert permit.allowed == (permit.retry_after_ms == 0)
        self.permits.append(permit)
        self.check()
        return permit

    def record(self, entries: Sequence[Entry]) -> None:
        """All at once to the script, one by one to the model."""
        answer = self.script.record(self.name, self.policy, entries)
        singles = [self.model.record(self.name, self.policy, [entry]) for entry in entries]
        last = singles[-1]
        assert answer == replace(last, used=tuple(used for single in singles for used in single.used))
        self.check()

    def force(self, state: State) -> None:
        for store in (self.script, self.model):
            store.admin(self.name, self.policy, state, actor="user:olga", reason="a drill")
        self.check()

    def check(self) -> None:
        """Both show the same, and what they show is possible."""
        seen = self.script.peek(self.name, self.policy)
        assert seen == self.model.peek(self.name, self.policy)
        assert 0 <= seen.failures <= seen.total
        assert 0 <= seen.slow <= seen.total
        assert seen.generation >= self.generation
        self.generation = seen.generation
        transitions = self.script.transitions(self.name, 1_000)
        assert transitions == self.model.transitions(self.name, 1_000)
        for one in transitions[: len(transitions) - len(self.seen)]:
            assert is_legal(one.source, one.to, one.why)
        generations = [one.generation for one in transitions]
        assert generations == sorted(set(generations), reverse=True)
        self.seen = transitions


#: Small numbers, so that random traces come through every state; and the defaults.
POLICIES = (
    BreakerPolicy(
        time_window_ms=5_000,
        minimum_requests=3,
        open_timeout_ms=4_000,
        half_open_max_requests=3,
        half_open_success_threshold=0.6,
        permit_lease_ms=6_000,
        slow_call_ms=100,
        slow_call_threshold=0.7,
    ),
    BreakerPolicy(
        failure_threshold=0.333,
        time_window_ms=3_000,
        minimum_requests=1,
        open_timeout_ms=2_500,
        half_open_max_requests=1,
        half_open_success_threshold=1.0,
        permit_lease_ms=1_500,
    ),
    BreakerPolicy(
        failure_threshold=1.0,
        time_window_ms=10_000,
        minimum_requests=4,
        open_timeout_ms=1,
        half_open_max_requests=5,
        half_open_success_threshold=0.001,
        permit_lease_ms=1_000,
        slow_call_ms=1,
        slow_call_threshold=1.0,
    ),
    BreakerPolicy(),
)

#: How far a random clock moves: little, over one edge after the other, and back.
STEPS = (
    0,
    0,
    0,
    1,
    99,
    999,
    1_000,
    1_001,
    1_500,
    2_500,
    3_000,
    4_000,
    5_999,
    6_000,
    30_000,
    60_000,
    -1,
    -1_000,
    -7_000,
)


def random_trace(dice: random.Random, twins: Twins, length: int) -> Iterator[str]:
    """Play ``length`` random events to the twins, yielding what each was."""
    for _ in range(length):
        verb = dice.choices(("acquire", "record", "batch", "time", "force", "policy"), (8, 6, 3, 5, 0.4, 0.4))[0]
        if verb == "acquire":
            twins.acquire(dice.choice((f"t{dice.randrange(6)}", f"u{dice.getrandbits(32)}")))
        elif verb in ("record", "batch"):
            size = 1 if verb == "record" else dice.randrange(1, 9)
            twins.record([random_entry(dice, twins) for _ in range(size)])
        elif verb == "time":
            twins.clock.now = max(0, twins.clock.now + dice.choice(STEPS))
        elif verb == "force":
            twins.force(dice.choice(sorted(ADMIN_STATES)))
        else:
            # Another deployment's numbers, over the same window: both count it alike only when its length is the same.
            other = dice.choice(POLICIES)
            twins.policy = replace(other, time_window_ms=twins.policy.time_window_ms)
        yield verb


def random_entry(dice: random.Random, twins: Twins) -> Entry:
    """An outcome of some call: of a recent one, an old one, a refused one, a stranger's."""
    outcome = dice.choice((S, S, F, F, F, I))
    took = dice.choice((0, 1, 2, 100, 101, 5_000))
    kind = dice.choices(("recent", "any", "stranger"), (6, 2, 1))[0]
    if not twins.permits or kind == "stranger":
        generation = twins.generation + dice.choice((0, 0, 1, -1))
        return Permit(True, State.HALF_OPEN, generation, 0, dice.choice(("t0", "stranger"))), outcome, took
    return dice.choice(twins.permits[-4:] if kind == "recent" else twins.permits), outcome, took
