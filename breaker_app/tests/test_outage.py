"""What happens when the store is away, late, full, read-only, or has forgotten the scripts."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from redis import Redis

from breaker_app.breaker import CircuitBreaker
from breaker_app.errors import StoreUnavailable
from breaker_app.local import LocalBreakerStore
from breaker_app.policy import BreakerPolicy
from breaker_app.primary import retry_once
from breaker_app.states import Outcome, State
from breaker_app.store import PAUSE_S, Outage, RedisBreakerStore
from breaker_app.testing import FakeClock
from breaker_app.tests.servers import OwnServer, Proxy

pytestmark = pytest.mark.redis


class Rig:
    """A breaker behind a proxy, with a clock for the pauses of an outage."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.clock = FakeClock(1_000_000)
        self.store = RedisBreakerStore(proxy.client, outage=Outage(monotonic=lambda: self.clock.now / 1_000))
        self.breaker = CircuitBreaker("orders-db", BreakerPolicy(), self.store, local=LocalBreakerStore(self.clock))

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.breaker.record(self.breaker.acquire(), Outcome.FAILURE)

    def wait_out_the_pause(self) -> None:
        self.clock.advance(int(PAUSE_S * 1_000))


@pytest.fixture
def server() -> Iterator[OwnServer]:
    server = OwnServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def proxy(server: OwnServer) -> Iterator[Proxy]:
    proxy = Proxy(server.socket)
    yield proxy
    proxy.close()


@pytest.fixture
def rig(proxy: Proxy) -> Rig:
    # The first contact opens the connection and loads the scripts, as in a process that has run for a while. On a busy
    # machine it may take longer than a call may wait: then it is no contact, and another begins.
    for _ in range(20):
        rig = Rig(proxy)
        permit = rig.breaker.acquire()
        if not permit.local and rig.breaker.record(permit, Outcome.SUCCESS):
            return rig
    raise AssertionError("the store never answered in time")


class Events(logging.Handler):
    """Names of the events logged, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(record.getMessage())


@pytest.fixture
def events() -> Iterator[list[str]]:
    handler = Events()
    logger = logging.getLogger("breaker_app.store")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler.seen
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_o1_a_store_that_refuses_connections(rig: Rig, events: list[str]) -> None:
    rig.proxy.close()

    permits = [rig.breaker.acquire() for _ in range(20)]

    assert all(permit.allowed and permit.local for permit in permits)
    assert events == ["store_unavailable"]
    assert rig.store.outage.unanswered == 20


def test_o2_a_store_that_never_answers_costs_one_wait(rig: Rig, events: list[str]) -> None:
    rig.proxy.mode = "hang"
    before = rig.proxy.requests

    assert rig.breaker.acquire().local
    assert rig.proxy.requests == before + 1
    rig.clock.advance(999)
    assert all(rig.breaker.acquire().local for _ in range(500))
    assert rig.proxy.requests == before + 1

    rig.clock.advance(1)
    assert rig.breaker.acquire().local
    assert rig.breaker.acquire().local
    assert rig.proxy.requests in (before + 1, before + 2)  # a new connection may hang before it carries a script
    assert events == ["store_unavailable"]


def test_o3_the_downstream_stays_protected(rig: Rig) -> None:
    rig.proxy.close()

    rig.fail(9)
    assert rig.breaker.acquire().allowed
    rig.fail(1)

    refused = rig.breaker.acquire()
    assert (refused.allowed, refused.state, refused.retry_after_ms, refused.local) == (False, State.OPEN, 30_000, True)
    seen = rig.breaker.peek()
    assert (seen.state, seen.total, seen.shared) == (State.OPEN, 10, False)


def test_o4_the_shared_state_is_used_again(rig: Rig, server: OwnServer, events: list[str]) -> None:
    server.stop()
    rig.fail(7)
    local = rig.breaker.acquire()
    server.start()
    assert rig.breaker.acquire().local, "not asked before the pause is over"

    rig.wait_out_the_pause()
    permit = rig.breaker.acquire()

    assert not permit.local
    assert events == ["store_unavailable", "store_back"]
    assert rig.breaker.peek().total == 1, "what this process counted is not merged"
    assert rig.breaker.record(local, Outcome.FAILURE), "it counts where it was permitted"
    assert rig.breaker.peek().total == 1


def test_o4_one_caller_tries_while_the_others_go_on(rig: Rig) -> None:
    outage = rig.store.outage
    outage.failed(OSError("gone"))
    rig.wait_out_the_pause()

    ticket = outage.begin()
    with pytest.raises(StoreUnavailable):
        outage.begin()
    outage.succeeded(ticket)
    assert not outage.is_on


def test_o4_an_answer_from_before_the_error_proves_nothing(rig: Rig, events: list[str]) -> None:
    outage = rig.store.outage
    early = outage.begin()
    outage.failed(OSError("gone"))
    outage.succeeded(early)
    assert outage.is_on
    outage.failed(OSError("still gone"))
    assert events == ["store_unavailable"]


def test_o5_a_record_whose_answer_is_lost_is_not_sent_again(rig: Rig, server: OwnServer) -> None:
    permit = rig.breaker.acquire()
    before = int(server.client.hget("cb:{orders-db}:s", "n") or 0)
    rig.proxy.mode = "lose"

    assert rig.breaker.record(permit, Outcome.FAILURE) is False

    rig.proxy.mode = "pass"
    rig.wait_out_the_pause()
    assert int(server.client.hget("cb:{orders-db}:s", "n") or 0) == before + 1


def test_o5_an_outcome_permitted_by_the_store_is_dropped_while_it_is_away(rig: Rig) -> None:
    permit = rig.breaker.acquire()
    rig.proxy.close()
    assert rig.breaker.record(permit, Outcome.FAILURE) is False
    assert rig.breaker.acquire().local
    assert rig.breaker.peek().total == 0


def test_o6_a_probe_whose_permit_is_lost_is_leased_to_nobody(rig: Rig, server: OwnServer) -> None:
    policy = BreakerPolicy(open_timeout_ms=1)
    breaker = CircuitBreaker("probe", policy, rig.store, local=LocalBreakerStore(rig.clock))
    breaker.force(State.OPEN, actor="test", reason="a drill")
    rig.proxy.mode = "lose"

    assert breaker.acquire("lost").local

    rig.proxy.mode = "pass"
    rig.wait_out_the_pause()
    assert breaker.acquire("lost").state is State.HALF_OPEN
    assert breaker.peek().leases == 1, "asked again with the same token it is the same probe"
    admitted = [breaker.acquire().allowed for _ in range(12)]
    assert admitted.count(True) == 9


def test_o6_the_lost_permit_comes_back_when_its_lease_ends(rig: Rig, proxy: Proxy) -> None:
    policy = BreakerPolicy(open_timeout_ms=1, permit_lease_ms=60_000)
    store = RedisBreakerStore(proxy.client, rig.clock, outage=Outage(monotonic=lambda: rig.clock.now / 1_000))
    breaker = CircuitBreaker("probe", policy, store, local=LocalBreakerStore(rig.clock))
    breaker.force(State.OPEN, actor="test", reason="a drill")
    CircuitBreaker("other", policy, store).acquire()  # loads the script: what is lost below is its answer
    rig.clock.advance(1)
    proxy.mode = "lose"
    assert breaker.acquire("lost").local
    lost_at = rig.clock.now

    proxy.mode = "pass"
    rig.wait_out_the_pause()
    assert [breaker.acquire().allowed for _ in range(10)].count(True) == 9, "one permit is with nobody"
    refused = breaker.acquire()
    assert (refused.allowed, refused.retry_after_ms) == (False, lost_at + 60_000 - rig.clock.now)

    rig.clock.advance(refused.retry_after_ms)
    assert breaker.acquire().allowed
    assert not breaker.acquire().allowed, "it comes back once"


def test_o7_forgotten_scripts_are_sent_again(rig: Rig, server: OwnServer, events: list[str]) -> None:
    server.client.script_flush()
    assert not rig.breaker.acquire().local
    server.client.script_flush()
    assert rig.breaker.record(rig.breaker.acquire(), Outcome.SUCCESS)
    server.client.script_flush()
    assert rig.breaker.peek().shared
    server.client.script_flush()
    assert rig.store.peek_many({"orders-db": BreakerPolicy()})["orders-db"].total == 2
    assert events == []


def test_o8_a_full_store_is_an_outage_and_no_failure_of_the_downstream(
    rig: Rig, server: OwnServer, events: list[str]
) -> None:
    permit = rig.breaker.acquire()
    server.client.config_set("maxmemory", "1")

    assert rig.breaker.record(permit, Outcome.SUCCESS) is False
    assert rig.breaker.acquire().local
    assert events == ["store_unavailable"]

    server.client.config_set("maxmemory", "0")
    rig.wait_out_the_pause()
    assert rig.breaker.record(permit, Outcome.SUCCESS)
    assert events == ["store_unavailable", "store_back"]


def test_o9_a_replica_is_an_outage_until_there_is_a_primary(rig: Rig, server: OwnServer, events: list[str]) -> None:
    permit = rig.breaker.acquire()
    server.client.replicaof("127.0.0.1", 1)

    assert rig.breaker.record(permit, Outcome.SUCCESS) is False
    assert events == ["store_unavailable"]

    server.client.replicaof("NO", "ONE")
    rig.wait_out_the_pause()
    assert rig.breaker.record(permit, Outcome.SUCCESS)
    assert events[-1] == "store_back"


def test_the_manners_of_the_given_client_are_not_taken_over(redis_client: Redis) -> None:
    generous = Redis(host="127.0.0.1", port=1, socket_timeout=60, decode_responses=True, password="secret", db=3)
    taken = RedisBreakerStore(generous)._redis.connection_pool.connection_kwargs
    assert (taken["socket_timeout"], taken["socket_connect_timeout"]) == (0.1, 0.1)
    assert taken["retry"] == retry_once()
    assert (taken["password"], taken["db"], taken["port"]) == ("secret", 3, 1)


def test_an_order_is_tried_in_an_outage_too(rig: Rig) -> None:
    rig.store.outage.failed(OSError("a moment ago"))
    rig.breaker.force(State.FORCED_OPEN, actor="user:olga", reason="now")
    rig.wait_out_the_pause()
    assert rig.breaker.peek().state is State.FORCED_OPEN


def test_an_order_that_was_not_taken_is_an_error(rig: Rig) -> None:
    rig.proxy.close()
    with pytest.raises(StoreUnavailable) as caught:
        rig.breaker.force(State.FORCED_OPEN, actor="user:olga", reason="now")
    assert (caught.value.status, caught.value.code) == (503, "store_unavailable")
