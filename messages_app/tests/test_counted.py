"""Counters of messages: they never fall, whatever expires, runs again or ends late."""

from __future__ import annotations

import pytest
import redis

from messages_app.domain.records import TypeCounts
from messages_app.tests.ledgers import START_MS, Desk, order

pytestmark = pytest.mark.redis

DAY_MS = 86_400_000


def counts(desk: Desk) -> TypeCounts:
    (found,) = desk.ledger.counted()
    return found


def test_they_are_what_the_accounts_say(desk: Desk) -> None:
    for name in "abc":
        desk.accept(name)
    desk.accept("d", type="other")
    desk.complete("a", next(one.fence for one in desk.claim() if one.message_id == "a"))
    desk.bury("e")

    assert desk.ledger.counted() == [TypeCounts("demo", 4, 1, 1, 0, 0), TypeCounts("other", 1, 0, 0, 0, 0)]


def test_a_replay_adds_and_takes_nothing_away(desk: Desk) -> None:
    epoch = desk.bury()
    desk.ledger.forward(order("a", epoch + 1))

    assert counts(desk) == TypeCounts("demo", 1, 0, 1, 0, 1)
    desk.complete("a", desk.claim_only().fence)
    assert counts(desk) == TypeCounts("demo", 1, 1, 1, 0, 1)
    assert desk.account() == (1, 1, 0, 0)


def test_an_outcome_that_is_recorded_again_takes_nothing_away(desk: Desk) -> None:
    epoch = desk.bury()
    desk.ledger.resettle("a", epoch)

    assert counts(desk).dead == 1
    desk.ledger.drained([("a", epoch, "death")])
    assert counts(desk) == TypeCounts("demo", 1, 0, 2, 0, 1)


def test_carrying_changes_no_count(desk: Desk) -> None:
    for day in range(5):
        desk.at(START_MS + day * DAY_MS)
        desk.accept(f"m{day}")
        desk.complete(f"m{day}", desk.claim_only().fence)
        desk.bury(f"d{day}")
        before = counts(desk)
        for _ in range(2):
            desk.ledger.carry_accounts()
            assert counts(desk) == before

    assert before == TypeCounts("demo", 10, 5, 5, 0, 0)


def test_no_count_falls_at_midnight_with_or_without_cron(desk: Desk) -> None:
    desk.bury("a")
    desk.ledger.carry_accounts()
    for day in range(1, 6):
        desk.at(START_MS + day * DAY_MS)
        assert counts(desk).dead == 1
        if day == 4:
            desk.ledger.carry_accounts()


def test_a_late_end_counts_after_the_next_round_and_only_once(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.at(START_MS + 10 * DAY_MS)
    desk.ledger.carry_accounts()
    desk.ledger.forward(order("a", epoch + 1, deadline_ms=desk.now + 1000))
    desk.complete("a", desk.claim_only().fence)
    for _ in range(2):
        desk.ledger.carry_accounts()

    assert counts(desk) == TypeCounts("demo", 1, 1, 1, 0, 1)


def test_a_carried_account_may_expire(desk: Desk) -> None:
    desk.bury("a")
    desk.at(START_MS + 398 * DAY_MS)
    desk.ledger.carry_accounts()
    for key in desk.client.keys("dlq:acct:2*"):
        desk.client.delete(key)
    desk.at(START_MS + 402 * DAY_MS)
    desk.ledger.forget_accounts()
    desk.ledger.carry_accounts()

    assert desk.client.smembers("dlq:acct:index") == set()
    assert counts(desk) == TypeCounts("demo", 1, 0, 1, 0, 0)


def test_accounts_of_the_last_version_count_and_are_carried(desk: Desk) -> None:
    for day in range(3):
        desk.client.hset(f"dlq:acct:2026010{day + 1}:old", mapping={"accepted": 7, "done": 4, "dead": 2, "open": 1})
        desk.client.sadd("dlq:acct:index", f"2026010{day + 1}:old")
    desk.client.sadd("dlq:acct:types", "old")

    assert counts(desk) == TypeCounts("old", 21, 12, 6, 0, 0)
    desk.ledger.carry_accounts()
    assert counts(desk) == TypeCounts("old", 21, 12, 6, 0, 0)
    assert [row.difference for row in desk.ledger.accounting(10_000)] == [0, 0, 0]


def test_an_account_that_cannot_be_read_costs_no_other_its_count(desk: Desk) -> None:
    desk.bury("a")
    desk.client.set("dlq:acct:20270114:demo", "no hash")
    desk.client.sadd("dlq:acct:index", "20270114:demo")
    desk.at(START_MS + 5 * DAY_MS)
    with pytest.raises(redis.ResponseError):
        desk.ledger.carry_accounts()
    desk.client.delete("dlq:acct:20270114:demo")
    desk.ledger.carry_accounts()

    assert counts(desk).dead == 1


def test_many_accounts_are_carried_in_steps(desk: Desk) -> None:
    pipeline = desk.client.pipeline()
    for number in range(1200):
        account = f"20260101:t{number}"
        pipeline.hset(f"dlq:acct:{account}", mapping={"accepted": 1, "done": 1, "dead": 0, "open": 0})
        pipeline.sadd("dlq:acct:index", account)
        pipeline.sadd("dlq:acct:types", account[9:])
    pipeline.execute()
    desk.ledger.carry_accounts()
    pipeline = desk.client.pipeline()
    for number in range(1200):  # each ends late
        pipeline.hincrby(f"dlq:acct:20260101:t{number}", "done", 1)
    pipeline.execute()
    desk.ledger.carry_accounts()

    assert sum(row.done for row in desk.ledger.counted()) == 2400
