"""The breaker as callers hold it: guard, exactly one outcome, permissions used again, reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from breaker_app.breaker import CallNotPermitted, CircuitBreaker
from breaker_app.errors import InvalidRequest
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Entry, Outcome, Permit, Recorded, State
from breaker_app.testing import FakeClock, MemoryBreakerStore


class CountingStore(MemoryBreakerStore):
    """Remembers what it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.acquired = 0
        self.recorded: list[Entry] = []

    def acquire(self, name: str, policy: BreakerPolicy, token: str) -> Permit:
        self.acquired += 1
        return super().acquire(name, policy, token)

    def record(self, name: str, policy: BreakerPolicy, entries: Sequence[Entry]) -> Recorded:
        self.recorded += entries
        return super().record(name, policy, entries)

    @property
    def outcomes(self) -> list[Outcome]:
        return [outcome for _, outcome, _ in self.recorded]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> CountingStore:
    return CountingStore(clock)


@pytest.fixture
def breaker(store: CountingStore) -> CircuitBreaker:
    return CircuitBreaker("orders-db", BreakerPolicy(), store)


def test_it_records_a_success_when_the_block_returns(breaker: CircuitBreaker, store: CountingStore) -> None:
    with breaker.guard() as permit:
        assert permit.allowed
    assert store.outcomes == [Outcome.SUCCESS]
    assert store.recorded[0][0] is permit


class JobTimeout(Exception):
    """Stands for the time limit of a job, raised anywhere in its code."""


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConnectionError("gone"), Outcome.FAILURE),
        (JobTimeout("30 s"), Outcome.FAILURE),
        (SystemExit(1), Outcome.IGNORED),
        (KeyboardInterrupt(), Outcome.IGNORED),
        (GeneratorExit(), Outcome.IGNORED),
    ],
)
def test_it_records_exactly_once_whatever_is_raised(
    breaker: CircuitBreaker, store: CountingStore, error: BaseException, outcome: Outcome
) -> None:
    with pytest.raises(type(error)) as caught, breaker.guard():
        raise error
    assert caught.value is error
    assert store.outcomes == [outcome]


def test_exceptions_count_as_they_are_classified(store: CountingStore) -> None:
    def classify(error: BaseException) -> Outcome:
        return Outcome.IGNORED if isinstance(error, ValueError) else Outcome.FAILURE

    breaker = CircuitBreaker("orders-db", BreakerPolicy(), store, classify=classify)
    with pytest.raises(ValueError, match="bad payload"), breaker.guard():
        raise ValueError("bad payload")
    with pytest.raises(ValueError, match="worse"), breaker.guard(lambda error: Outcome.FAILURE):
        raise ValueError("worse")
    assert store.outcomes == [Outcome.IGNORED, Outcome.FAILURE]


def test_a_broken_classification_hides_nothing(store: CountingStore) -> None:
    def classify(error: BaseException) -> Outcome:
        raise RuntimeError("broken")

    breaker = CircuitBreaker("orders-db", BreakerPolicy(), store, classify=classify)
    with pytest.raises(ConnectionError), breaker.guard():
        raise ConnectionError
    assert store.outcomes == [Outcome.FAILURE]


def test_an_open_circuit_refuses_and_says_when_to_come_back(
    breaker: CircuitBreaker, store: CountingStore, clock: FakeClock
) -> None:
    breaker.force(State.OPEN, actor="test", reason="a drill")
    clock.advance(1_000)

    with pytest.raises(CallNotPermitted) as caught, breaker.guard():
        pytest.fail("the block ran")

    error = caught.value
    assert (error.retry_after, error.state, error.name) == (29.0, State.OPEN, "orders-db")
    assert (error.code, error.status) == ("circuit_open", 503)
    assert "try again in 29 s" in error.detail
    assert store.recorded == []


def test_a_circuit_opened_by_a_person_names_no_time(breaker: CircuitBreaker) -> None:
    breaker.force(State.FORCED_OPEN, actor="test", reason="a drill")
    with pytest.raises(CallNotPermitted) as caught, breaker.guard():
        pytest.fail("the block ran")
    assert caught.value.retry_after is None


def test_the_outcome_of_a_refused_call_is_not_sent(breaker: CircuitBreaker, store: CountingStore) -> None:
    breaker.force(State.FORCED_OPEN, actor="test", reason="a drill")
    assert breaker.record(breaker.acquire(), Outcome.FAILURE) is False
    assert store.recorded == []


def test_recording_nothing_asks_nothing(breaker: CircuitBreaker, store: CountingStore) -> None:
    assert breaker.record_many([]) == []
    assert store.recorded == []


def test_many_outcomes_come_back_in_order(breaker: CircuitBreaker) -> None:
    permit = breaker.acquire()
    old = replace(permit, generation=permit.generation - 1)
    refused = replace(permit, allowed=False)
    entries = [(old, Outcome.FAILURE, 0), (permit, Outcome.FAILURE, 0), (refused, Outcome.FAILURE, 0)]
    assert breaker.record_many([*entries, (permit, Outcome.SUCCESS, 0)]) == [False, True, False, True]


@pytest.mark.parametrize("reason", ["", "  \n", "x" * 501])
def test_a_person_has_to_say_why(breaker: CircuitBreaker, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        breaker.force(State.CLOSED, actor="user:olga", reason=reason)
    assert caught.value.errors[0]["field"] == "reason"
    assert breaker.transitions() == []


def test_nobody_can_send_it_to_half_open(breaker: CircuitBreaker) -> None:
    with pytest.raises(InvalidRequest, match="HALF_OPEN"):
        breaker.force(State.HALF_OPEN, actor="user:olga", reason="impatience")


@pytest.mark.parametrize("name", ["", "a{b}", "a b", "a\n", "a/b", "x" * 129, "-a", "ä"])
def test_a_name_that_could_reach_other_keys_is_refused(store: CountingStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a breaker name"):
        CircuitBreaker(name, BreakerPolicy(), store)


class TestReuse:
    """An answer CLOSED used again for up to 250 ms."""

    @pytest.fixture
    def breaker(self, store: CountingStore, clock: FakeClock) -> CircuitBreaker:
        return CircuitBreaker("hot", BreakerPolicy(), store, reuse_ms=250, monotonic=lambda: clock.now / 1_000)

    def test_it_is_off_unless_asked_for(self, store: CountingStore) -> None:
        breaker = CircuitBreaker("hot", BreakerPolicy(), store)
        breaker.acquire()
        breaker.acquire()
        assert store.acquired == 2

    def test_it_asks_once_in_the_time_given(
        self, breaker: CircuitBreaker, store: CountingStore, clock: FakeClock
    ) -> None:
        permit = breaker.acquire()
        clock.advance(249)
        assert breaker.acquire() is permit
        assert store.acquired == 1
        clock.advance(1)
        breaker.acquire()
        assert store.acquired == 2

    def test_each_outcome_counts(self, breaker: CircuitBreaker) -> None:
        entries = [(breaker.acquire(), Outcome.FAILURE, 0) for _ in range(9)]
        assert breaker.record_many(entries) == [True] * 9
        assert breaker.peek().total == 9

    def test_a_trip_is_noticed_with_the_outcome_that_made_it(self, breaker: CircuitBreaker) -> None:
        for _ in range(10):
            assert breaker.acquire().allowed
            breaker.record(breaker.acquire(), Outcome.FAILURE)
        assert not breaker.acquire().allowed

    def test_a_trip_by_another_process_is_noticed_in_time(
        self, breaker: CircuitBreaker, store: CountingStore, clock: FakeClock
    ) -> None:
        kept = breaker.acquire()
        CircuitBreaker("hot", BreakerPolicy(), store).force(State.OPEN, actor="test", reason="elsewhere")
        clock.advance(249)
        assert breaker.acquire().allowed
        clock.advance(1)
        assert not breaker.acquire().allowed
        assert breaker.record(kept, Outcome.FAILURE) is False

    @pytest.mark.parametrize("state", [State.DISABLED, State.METRICS_ONLY])
    def test_only_closed_is_kept(self, breaker: CircuitBreaker, store: CountingStore, state: State) -> None:
        breaker.force(state, actor="test", reason="a drill")
        breaker.acquire()
        breaker.acquire()
        assert store.acquired == 2

    def test_probes_are_asked_for_one_by_one(
        self, breaker: CircuitBreaker, store: CountingStore, clock: FakeClock
    ) -> None:
        breaker.force(State.OPEN, actor="test", reason="a drill")
        clock.advance(30_000)
        assert [breaker.acquire().allowed for _ in range(12)] == [True] * 10 + [False] * 2

    def test_a_call_with_a_token_of_its_own_always_asks(self, breaker: CircuitBreaker, store: CountingStore) -> None:
        breaker.acquire()
        breaker.acquire("mine")
        assert store.acquired == 2

    @pytest.mark.parametrize("reuse_ms", [-1, 251])
    def test_longer_is_refused(self, store: CountingStore, reuse_ms: int) -> None:
        with pytest.raises(ValueError, match="reuse_ms"):
            CircuitBreaker("hot", BreakerPolicy(), store, reuse_ms=reuse_ms)
