"""A primary and a replica change roles behind one address, and old sockets stay open: every line finds the new one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis
from rq.suspension import is_suspended, resume, suspend

from breaker_app.breaker import CircuitBreaker
from breaker_app.local import LocalBreakerStore
from breaker_app.policy import BreakerPolicy
from breaker_app.states import Outcome
from breaker_app.store import RedisBreakerStore
from breaker_app.tests.servers import Pair
from dlqsite.tests.patience import eventually
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import AcceptStatus, RateLimit, State
from messages_app.store.connection import with_timeouts
from messages_app.store.ledger import Ledger
from messages_app.store.presence import Register
from messages_app.store.series import Series
from messages_app.tests.handling import an_acceptance, handling, reaches
from messages_app.work.engine import Engine

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def shared_pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.remove()


@pytest.fixture
def pair(shared_pair: Pair) -> Pair:
    """Two empty servers, however often they have changed roles before."""
    shared_pair.proxy.cut()
    shared_pair.client.flushall()
    return shared_pair


@pytest.fixture
def client(pair: Pair) -> redis.Redis:
    return redis.Redis.from_url(pair.url)


def test_each_line_of_a_process_asks_the_new_primary(pair: Pair, client: redis.Redis) -> None:
    book, register, series = Ledger(client), Register(client), Series(client)
    limit = RateLimit(client="c", limit=100)
    breakers = RedisBreakerStore(client)
    breaker = CircuitBreaker("db", BreakerPolicy(), breakers, local=LocalBreakerStore())
    plain = with_timeouts(redis.Redis.from_url(pair.url))

    def use_everything(number: int) -> None:
        assert book.accept(an_acceptance(message_id=f"m{number}")).status is AcceptStatus.ACCEPTED
        assert [answer.status for answer in book.accept_many([an_acceptance(), an_acceptance()])] == ["accepted"] * 2
        assert len(book.claim(token=f"t{number}", limit=9, owner="w", holding=0).records) == 3
        assert book.throttle(limit)[0]
        register.announce(f"w{number}", "worker", started_at_ms=1)
        assert f"w{number}" in {one.name for one in register.present()}
        series.sample()
        assert series.history().last is not None
        assert not breaker.acquire().local
        assert breaker.record(breaker.acquire(), Outcome.SUCCESS)
        assert breakers.peek_many({"db": BreakerPolicy()})["db"].total == number + 1
        for transaction in (True, False):
            with plain.pipeline(transaction=transaction) as pipe:
                pipe.incr(f"count:{transaction}")
                pipe.get(f"count:{transaction}")
                assert pipe.execute() == [number + 1, str(number + 1).encode()]

    use_everything(0)
    for number in (1, 2):
        pair.switch()
        use_everything(number)


def test_what_only_reads_follows_whatever_line_has_noticed(pair: Pair, client: redis.Redis) -> None:
    reader, writer = Ledger(client), Ledger(client)
    reader.now_ms()
    writer.accept(an_acceptance(message_id="a"))
    old = pair.servers[pair.primary].client
    pair.switch()

    writer.accept(an_acceptance(message_id="b"))
    before = int(old.info("stats")["total_connections_received"])
    assert reader.get("b") is not None
    (commands,) = (old.info("commandstats")["cmdstat_evalsha"]["calls"],)
    reader.get("b")
    assert old.info("commandstats")["cmdstat_evalsha"]["calls"] == commands, "it asks the new primary"
    assert int(old.info("stats")["total_connections_received"]) == before


def test_the_bell_is_heard_after_a_switch(pair: Pair, client: redis.Redis) -> None:
    book = Ledger(client)
    book.wait_for_work(0.01)
    rung = threading.Event()

    def listen() -> None:
        book.wait_for_work(1.0)  # cut off by the demotion, then asked again on the new primary
        rung.set()

    for _ in range(2):
        rung.clear()
        threading.Thread(target=listen, daemon=True).start()
        eventually(lambda: pair.client.info("clients")["blocked_clients"])
        pair.switch()
        assert rung.wait(5)


def test_an_engine_goes_on_after_each_switch(pair: Pair, client: redis.Redis) -> None:
    book = Ledger(client)
    with handling(lambda message: None) as type:
        engine = Engine(book, name="w-1", concurrency=2)
        engine.start()
        for number in range(3):
            book.accept(an_acceptance(message_id=f"m{number}", type=type))
            reaches(book, f"m{number}", State.DONE)
            pair.switch()
        assert engine.stop(1)
    assert int(pair.client.hget("dlq:tally", "done") or 0) == 3


def test_an_address_that_leads_to_a_replica_is_unavailable_not_broken(pair: Pair, client: redis.Redis) -> None:
    book = Ledger(client)
    book.accept(an_acceptance(message_id="a"))
    pair.proxy.upstream = pair.servers[1 - pair.primary].socket
    pair.proxy.cut()
    try:
        with pytest.raises(StoreUnavailable, match="takes no writes"):
            book.accept(an_acceptance(message_id="b"))
    finally:
        pair.proxy.upstream = pair.servers[pair.primary].socket
    assert book.accept(an_acceptance(message_id="b")).status is AcceptStatus.ACCEPTED


def test_rq_is_asked_on_the_new_primary(pair: Pair) -> None:
    rq = with_timeouts(redis.Redis.from_url(pair.url))
    suspend(rq)
    assert is_suspended(rq)
    pair.switch()
    resume(rq)
    assert not is_suspended(rq)
    assert not is_suspended(pair.client)
