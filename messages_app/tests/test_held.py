"""The index of held messages: what each breaker holds, since when, and that nothing stays in it."""

from __future__ import annotations

import pytest
import redis

from breaker_app.held import Held
from messages_app.domain.records import Deferred, Verdict
from messages_app.store.held import HeldReader
from messages_app.store.scripts import load_scripts
from messages_app.store.series import Series
from messages_app.tests.ledgers import START_MS, Desk, on_test_clock, order

pytestmark = pytest.mark.redis


@pytest.fixture
def desk(redis_client: redis.Redis) -> Desk:
    return Desk.open(redis_client)


def held(desk: Desk) -> dict[str, Held]:
    return HeldReader(desk.client, scripts=load_scripts(on_test_clock)).read()


def hold(desk: Desk, breaker: str = "orders-db", *, delay_ms: int = 30_000) -> None:
    """Claim everything that waits, and let the breaker reject it."""
    for claimed in desk.claim():
        outcome = Deferred(
            message_id=claimed.message_id, fence=claimed.fence, delay_ms=delay_ms, why="breaker", held_by=breaker
        )
        assert desk.flush(outcome) is Verdict.APPLIED


def test_held_messages_are_counted_by_breaker_and_priority_with_the_oldest(desk: Desk) -> None:
    assert held(desk) == {}
    desk.accept("a", priority="high")
    desk.accept("b", priority="low")
    hold(desk)
    desk.wait(120_000)
    desk.accept("c", priority="low")
    desk.claim_only()
    desk.accept("d")
    hold(desk, "mail")

    found = held(desk)

    assert set(found) == {"orders-db", "mail"}
    db = found["orders-db"]
    assert (db.high, db.normal, db.low, db.count, db.highest, db.weight) == (1, 0, 1, 2, "high", 101)
    assert (db.oldest_ms, db.oldest_s) == (START_MS, 120.0)
    assert (db.minutes[-1], len(db.minutes)) == (2, 60)
    assert found["mail"].minutes[-1] == 1


def test_the_last_hour_of_a_breaker_is_sampled_with_the_other_figures(desk: Desk) -> None:
    series = Series(desk.client, scripts=load_scripts(on_test_clock))
    for number in range(70):
        desk.accept(f"m{number}")
        hold(desk, delay_ms=10_000_000)
        series.sample()
        desk.wait(60_000)

    found = held(desk)["orders-db"]

    assert found.minutes == (*range(12, 71), 70)
    assert found.growth == pytest.approx(4 / 4)
    assert desk.client.hlen("dlq:held:was:orders-db") <= 60
    desk.wait(30_000)
    assert held(desk)["orders-db"].unchanged_min == 1


def test_a_message_is_held_from_its_first_rejection_until_it_runs(desk: Desk) -> None:
    desk.accept("a")
    for _ in range(3):
        hold(desk)
        assert held(desk)["orders-db"].oldest_ms == START_MS
        desk.wait(30_000)
        desk.ledger.due()
        assert held(desk)["orders-db"].count == 1, "it waits in its lane"

    claimed = desk.claim_only()

    assert held(desk) == {}
    assert desk.complete("a", claimed.fence) is Verdict.APPLIED
    assert desk.client.keys("dlq:held*") == []


def test_a_run_that_fails_or_is_handed_back_is_held_by_nobody(desk: Desk) -> None:
    desk.accept("a")
    desk.accept("b")
    hold(desk)
    desk.wait(30_000)
    desk.ledger.due()
    fences = {claimed.message_id: claimed.fence for claimed in desk.claim()}
    desk.fail("a", fences["a"], 10)
    desk.defer("b", fences["b"], why="shutdown")
    assert held(desk) == {}
    desk.wait(10)
    desk.ledger.due()
    hold(desk, "mail")
    assert held(desk)["mail"].count == 2


def test_a_replay_is_held_as_a_message_is(desk: Desk) -> None:
    desk.accept("a")
    hold(desk)
    desk.wait(30_000)
    desk.ledger.due()
    desk.kill("a")
    epoch = desk.record("a").epoch
    assert desk.ledger.drained([("a", epoch, "death")]) == [True]
    desk.ledger.forward(order("a", epoch + 1))
    assert held(desk) == {}
    hold(desk)
    assert held(desk)["orders-db"].oldest_ms == desk.now


def test_what_an_earlier_version_leaves_behind_is_removed(desk: Desk) -> None:
    for number in range(5):
        desk.accept(f"m{number}")
    hold(desk)
    desk.client.zadd("dlq:held:normal:orders-db", {f"gone{number}": 1 for number in range(250)})
    for message_id in ("m0", "m1"):  # it runs, and an earlier version did not take it out
        desk.client.hset(f"dlq:msg:{message_id}", "state", "done")

    found = [held(desk)["orders-db"].count for _ in range(4)]

    assert found[-1] == 3
    assert held(desk)["orders-db"].oldest_ms == START_MS


def test_what_an_earlier_version_holds_is_counted_at_its_next_rejection(desk: Desk) -> None:
    desk.accept("a")
    claimed = desk.claim_only()
    desk.defer("a", claimed.fence, 1_000, why="breaker")
    assert held(desk) == {}
    desk.wait(1_000)
    desk.ledger.due()
    hold(desk)
    assert held(desk)["orders-db"].oldest_ms == START_MS
