"""The conformance cases, played to the scripts on a real server and to the model."""

from __future__ import annotations

import pytest
from redis import Redis

from breaker_app.breaker import BreakerStore
from breaker_app.policy import BreakerPolicy
from breaker_app.states import State
from breaker_app.store import RedisBreakerStore
from breaker_app.testing import FakeClock, MemoryBreakerStore
from breaker_app.tests.bench import HOUR, Bench, S
from breaker_app.tests.cases import CASES, Case


@pytest.mark.parametrize("trace", CASES.values(), ids=CASES.keys())
@pytest.mark.redis
def test_the_scripts_conform(redis_client: Redis, trace: Case) -> None:
    clock = FakeClock()
    trace(Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock))


@pytest.mark.parametrize("trace", CASES.values(), ids=CASES.keys())
def test_the_model_conforms(trace: Case) -> None:
    clock = FakeClock()
    store: BreakerStore = MemoryBreakerStore(clock)
    trace(Bench(store, clock))


@pytest.mark.redis
def test_memory_is_bounded_by_the_window_and_not_by_traffic(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)

    for number in range(400):
        clock.now = number * 300
        permit = bench.breaker.acquire()
        bench.breaker.record_many([(permit, S, 0)] * 50)

    assert bench.peek().total in range(9_800, 10_001)
    assert redis_client.hlen("cb:{orders-db}:s") <= 12 + 60
    assert (redis_client.memory_usage("cb:{orders-db}:s") or 0) < 4_000
    assert redis_client.ttl("cb:{orders-db}:s") == -1


@pytest.mark.redis
def test_looking_writes_nothing(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)
    bench.peek(at=0)
    assert redis_client.keys("cb:*") == []

    bench.half()
    before = {key: redis_client.dump(key) for key in redis_client.keys("cb:*")}
    for at in (30_000, 59_999, 61_000, HOUR, 0):
        bench.peek(at=at)

    assert {key: redis_client.dump(key) for key in redis_client.keys("cb:*")} == before
    assert len(before) == 3


@pytest.mark.redis
def test_the_stream_of_transitions_stays_short(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)
    for _ in range(1_400):
        bench.force(State.CLOSED, at=0)
    assert 1_000 <= redis_client.xlen("cb:{orders-db}:ev") < 1_300


@pytest.mark.redis
def test_losing_the_key_means_closed_and_empty_with_a_generation_never_used(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)
    probes = bench.half()

    redis_client.delete("cb:{orders-db}:s")
    permit = bench.acquire("after", at=40_000)

    assert (permit.allowed, permit.state, permit.generation) == (True, State.CLOSED, 40_000)
    assert not bench.record(probes[0], S, at=40_000)
    assert redis_client.exists("cb:{orders-db}:p") == 0


@pytest.mark.redis
def test_a_window_of_another_length_leaves_nothing_behind(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)
    for second in range(60):
        bench.succeed(at=second * 1_000)
    assert bench.counts == (60, 0)

    bench.use(BreakerPolicy(time_window_ms=5_000))
    bench.succeed(at=60_000)
    assert bench.peek().total <= 5
    bench.succeed(at=66_000)
    assert bench.counts == (1, 0)
    assert len([field for field in redis_client.hkeys("cb:{orders-db}:s") if field[1:].isdigit()]) == 1


@pytest.mark.redis
def test_constructing_a_breaker_writes_nothing(redis_client: Redis) -> None:
    Bench(RedisBreakerStore(redis_client), FakeClock())
    assert redis_client.keys("*") == []


@pytest.mark.redis
def test_without_a_clock_the_server_tells_the_time(redis_client: Redis) -> None:
    bench = Bench(RedisBreakerStore(redis_client, timeout_s=5), FakeClock())
    seconds, micros = redis_client.time()
    generation = bench.breaker.acquire().generation
    assert 0 <= generation - (seconds * 1_000 + micros // 1_000) < 60_000


@pytest.mark.redis
def test_an_outage_of_an_earlier_version_has_its_beginning_from_the_history(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)
    bench.half()
    redis_client.hdel("cb:{orders-db}:s", "left")
    assert bench.peek().left_closed_ms is None

    bench.force(State.FORCED_OPEN, at=HOUR)
    assert bench.peek().left_closed_ms is None, "what is not known is not made up"
    bench.force(State.CLOSED, at=HOUR)
    bench.force(State.DISABLED, at=HOUR + 1_000)
    assert bench.peek().left_closed_ms == HOUR + 1_000


@pytest.mark.redis
def test_an_idle_closed_breaker_is_only_read(redis_client: Redis) -> None:
    clock = FakeClock()
    bench = Bench(RedisBreakerStore(redis_client, clock, timeout_s=5), clock)
    bench.acquire(at=0)
    before = redis_client.dump("cb:{orders-db}:s")
    for second in range(100):
        bench.acquire(at=second * 1_000)
    assert redis_client.dump("cb:{orders-db}:s") == before
