"""The scripts against the model: the same random events to both, every answer and every state compared."""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis import Redis

from breaker_app.breaker import CircuitBreaker
from breaker_app.policy import BreakerPolicy
from breaker_app.states import ADMIN_STATES, Outcome, Permit, State
from breaker_app.store import RedisBreakerStore
from breaker_app.testing import FakeClock, MemoryBreakerStore
from breaker_app.tests.bench import POLICIES, STEPS, Twins, random_trace

pytestmark = pytest.mark.redis

TOKENS = st.sampled_from([f"t{number}" for number in range(8)]) | st.uuids().map(str)
STATES = st.sampled_from(sorted(ADMIN_STATES))
#: Longer runs by hand: BREAKER_EXAMPLES=5000.
EXAMPLES = int(os.environ.get("BREAKER_EXAMPLES", "60"))


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[int, bool, int, Outcome, int]:
    """Which permit from the newest, whether a stranger's, how far its generation is off, how it went, how long."""
    stranger = draw(st.sampled_from((False, False, False, True)))
    return (
        draw(st.integers(0, 12)),
        stranger,
        draw(st.sampled_from((0, 0, -1, 1))) if stranger else 0,
        draw(st.sampled_from(Outcome)),
        draw(st.sampled_from((0, 1, 2, 100, 101, 5_000))),
    )


class ScriptAgainstModel(RuleBasedStateMachine):
    """All verbs and states, the clock both ways, slow and ignored calls, tokens used again, strangers, old permits."""

    redis: Redis
    shared: RedisBreakerStore
    clock = FakeClock()

    @initialize(policy=st.sampled_from(POLICIES), start=st.sampled_from((0, 999, 1_700_000_000_123)))
    def begin(self, policy: BreakerPolicy, start: int) -> None:
        self.redis.flushall()
        self.clock.now = start
        self.twins = Twins(self.shared, self.clock, policy)

    @rule(token=TOKENS)
    def acquire(self, token: str) -> None:
        self.twins.acquire(token)

    @rule(token=TOKENS, outcome=st.sampled_from(Outcome), took=st.sampled_from((0, 150)))
    def call(self, token: str, outcome: Outcome, took: int) -> None:
        self.twins.record([(self.twins.acquire(token), outcome, took)])

    @rule(items=st.lists(outcomes(), min_size=1, max_size=8))
    def record(self, items: list[tuple[int, bool, int, Outcome, int]]) -> None:
        entries = []
        for back, stranger, off, outcome, took in items:
            if stranger or not self.twins.permits:
                permit = Permit(True, State.HALF_OPEN, self.twins.generation + off, 0, "stranger")
            else:
                permit = self.twins.permits[-1 - back % len(self.twins.permits)]
            entries.append((permit, outcome, took))
        self.twins.record(entries)

    @rule(step=st.sampled_from(STEPS) | st.integers(-10_000, 70_000))
    def pass_time(self, step: int) -> None:
        self.clock.now = max(0, self.clock.now + step)

    @rule(state=STATES)
    def force(self, state: State) -> None:
        self.twins.force(state)

    @rule(policy=st.sampled_from(POLICIES))
    def deploy(self, policy: BreakerPolicy) -> None:
        self.twins.policy = replace(policy, time_window_ms=self.twins.policy.time_window_ms)

    @invariant()
    def looking_changes_nothing(self) -> None:
        if not hasattr(self, "twins"):
            return
        before = [(key, self.redis.dump(key)) for key in sorted(self.redis.keys("cb:*"))]
        self.twins.check()
        assert [(key, self.redis.dump(key)) for key in sorted(self.redis.keys("cb:*"))] == before


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_700_000_000_000)


@pytest.fixture
def shared(redis_client: Redis, clock: FakeClock) -> RedisBreakerStore:
    return RedisBreakerStore(redis_client, clock, timeout_s=5)


def test_the_scripts_behave_as_the_model(redis_client: Redis) -> None:
    ScriptAgainstModel.redis = redis_client
    ScriptAgainstModel.shared = RedisBreakerStore(redis_client, ScriptAgainstModel.clock, timeout_s=5)
    run_state_machine_as_test(
        ScriptAgainstModel,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", range(12))
def test_long_random_traces_agree(shared: RedisBreakerStore, clock: FakeClock, seed: int) -> None:
    dice = random.Random(seed)
    twins = Twins(shared, clock, POLICIES[seed % len(POLICIES)])
    played = list(random_trace(dice, twins, 250))
    assert len(played) == 250
    assert twins.seen, "the trace never changed the state"


@pytest.mark.parametrize("seed", range(6))
def test_many_outcomes_at_once_are_the_same_as_one_by_one(
    shared: RedisBreakerStore, clock: FakeClock, seed: int
) -> None:
    dice = random.Random(seed)
    policy = POLICIES[seed % 2]
    together, single = (CircuitBreaker(name, policy, shared) for name in ("together", "single"))
    model = CircuitBreaker("model", policy, MemoryBreakerStore(clock))

    for round_ in range(40):
        tokens = [f"{round_}-{number}" for number in range(dice.randrange(1, 8))]
        permits = [[breaker.acquire(token) for token in tokens] for breaker in (together, single, model)]
        assert permits[0] == permits[1] == permits[2]
        outcomes = [(dice.choice(list(Outcome)), dice.choice((0, 500))) for _ in tokens]
        batch = [(permit, *outcome) for permit, outcome in zip(permits[0], outcomes, strict=True)]

        used = together.record_many(batch)

        assert used == [single.record(*entry) for entry in batch] == [model.record(*entry) for entry in batch]
        assert together.peek() == single.peek() == model.peek()
        assert together.transitions() == single.transitions() == model.transitions()
        clock.advance(dice.choice((0, 300, 1_000, 4_000)))


@pytest.mark.parametrize("seed", range(4))
def test_the_window_holds_the_used_outcomes_of_this_generation(
    shared: RedisBreakerStore, clock: FakeClock, seed: int
) -> None:
    """An account of its own, kept by neither machine: what was used, when, in which generation."""
    dice = random.Random(seed)
    policy = replace(POLICIES[3], minimum_requests=30, time_window_ms=7_000)
    breaker = CircuitBreaker("account", policy, shared)
    used: list[tuple[int, int, bool]] = []

    for _ in range(400):
        permit = breaker.acquire()
        outcome = dice.choice((Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.IGNORED))
        if breaker.record(permit, outcome) and permit.state is State.CLOSED:
            used.append((permit.generation, clock.now, outcome is Outcome.FAILURE))
        seen = breaker.peek()
        if seen.state is State.CLOSED:
            alive = [bad for gen, at, bad in used if gen == seen.generation and at // 1_000 > clock.now // 1_000 - 7]
            assert (seen.total, seen.failures) == (len(alive), sum(alive))
        clock.advance(dice.choice((0, 1, 250, 999, 3_000)))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_half_open_period_never_admits_more_probes_than_permitted(
    shared: RedisBreakerStore, clock: FakeClock, policy: BreakerPolicy
) -> None:
    dice = random.Random(7)
    breaker = CircuitBreaker("probes", replace(policy, permit_lease_ms=3_600_000), shared)
    for period in range(60):
        breaker.force(State.OPEN, actor="test", reason="another period")
        clock.advance(policy.open_timeout_ms)
        admitted: list[Permit] = []
        for number in range(policy.half_open_max_requests * 3):
            permit = breaker.acquire(f"{period}-{number}")
            if not permit.allowed or permit.state is not State.HALF_OPEN:
                break
            admitted.append(permit)
            if dice.random() < 0.5:
                breaker.record(permit, dice.choice((Outcome.SUCCESS, Outcome.FAILURE)))
        assert 1 <= len(admitted) <= policy.half_open_max_requests
        assert len({permit.generation for permit in admitted}) == 1
