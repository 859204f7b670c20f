"""Replays: which order starts a run, which does not, and how an epoch is barred."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dlq_app.domain.ports import ForwardStatus
from messages_app.domain.errors import LedgerRefused
from messages_app.domain.records import State, Verdict
from messages_app.tests.ledgers import START_MS, Desk, order

pytestmark = pytest.mark.redis


def test_a_dead_message_runs_again_once_from_its_original(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.wait(50)
    answer = desk.ledger.forward(
        order("a", epoch + 1, priority="high", source="shop", batch_id="b1", prior_runs=1, death_seen=epoch)
    )

    assert answer.status is ForwardStatus.FORWARDED
    record = desk.record()
    assert (record.state, record.epoch, record.attempt, record.max_retries) == (State.QUEUED, epoch + 1, 0, 0)
    assert (record.replay_id, record.batch_id, record.death_seen) == (f"r{epoch + 1}", "b1", epoch)
    assert (record.attempts, record.last_error, record.finished_at_ms, record.outbox) == ("", "", None, "")
    assert (record.source, record.priority, record.queued_at_ms) == ("shop", "high", START_MS)
    assert desk.client.ttl("dlq:msg:a") == desk.client.ttl("dlq:story:a") == desk.client.ttl("dlq:body:a") == -1
    assert desk.account() == (1, 0, 0, 1)
    claimed = desk.claim_only()
    assert (claimed.body, claimed.prior_runs, claimed.replay_id, claimed.batch_id) == (
        b'{"n":1}', 1, f"r{epoch + 1}", "b1",
    )  # fmt: skip
    # One attempt: whatever the worker asks for, a failure is the end of it.
    assert desk.fail("a", claimed.fence, 1000) is Verdict.TO_OUTBOX
    assert (desk.record().state, desk.record().prior_runs) == (State.DEAD_PENDING, 2)


def test_a_replay_that_may_be_poison_runs_alone_and_is_lost_only_once(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.accept("b")
    desk.ledger.forward(order("a", epoch + 1, alone=True))
    assert (desk.lane("alone"), len(desk.lane())) == ([f"m-a-{epoch + 1}-0-2".encode()], 1)
    assert desk.client.zscore("dlq:waiting:alone", "a") is not None

    assert [one.message_id for one in desk.claim(holding=1)] == ["b"]
    claimed = desk.claim_only()
    assert (claimed.message_id, claimed.alone, desk.record().losses) == ("a", True, 0)
    desk.lose("a")

    record = desk.record()
    assert (record.state, record.outbox, record.losses) == (State.DEAD_PENDING, "death", 1)
    assert json.loads(record.last_error)["errorReason"] == "The process that ran it was lost once."
    # A later replay that is not alone has its three losses again.
    desk.ledger.forward(order("a", epoch + 2, death_seen=epoch + 1))
    assert (desk.record().recoveries, desk.record().began_alone, desk.lane("alone")) == (0, False, [])


def test_an_edited_message_handed_back_stays_in_the_lane_of_its_own(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1, alone=True, run_body=b'{"n":2}', version=1))
    claimed = desk.claim_only()
    desk.defer("a", claimed.fence)
    assert (len(desk.lane("alone")), desk.lane()) == (1, [])
    assert desk.claim_only().body == b'{"n":2}'


def test_edited_content_runs_in_its_epoch_only(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1, run_body=b'{"n":2}', version=1))
    claimed = desk.claim_only()
    assert (claimed.body, claimed.version) == (b'{"n":2}', 1)
    record = desk.record()
    assert (record.body, record.run_body, record.version) == (b'{"n":1}', b'{"n":2}', 1)
    desk.fail("a", claimed.fence, None)
    desk.ledger.drained([("a", epoch + 1, "death")])

    desk.ledger.forward(order("a", epoch + 2))
    assert desk.claim_only().body == b'{"n":1}'
    assert desk.record().run_body is None
    assert desk.client.exists("dlq:run:a") == 0


def test_the_same_order_again_is_the_same_run(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1))
    fence = desk.claim_only().fence
    # Also when the epoch is barred, or the deadline over, in between: it runs already.
    assert desk.ledger.void("a", epoch + 1).exists
    late = order("a", epoch + 1, deadline_ms=START_MS - 1)
    assert desk.ledger.forward(late).status is ForwardStatus.FORWARDED
    assert (desk.record().state, desk.record().fence, desk.lane()) == (State.RUNNING, fence, [])
    desk.complete("a", fence)
    desk.ledger.drained([("a", epoch + 1, "settle")])
    assert desk.ledger.forward(order("a", epoch + 1, force=True)).status is ForwardStatus.FORWARDED
    assert desk.record().state is State.DONE


def test_a_barred_epoch_never_runs(desk: Desk) -> None:
    epoch = desk.bury("a")
    barred = desk.ledger.void("a", epoch + 3)
    assert (barred.exists, barred.state) == (False, "")
    for late in (epoch + 1, epoch + 3):
        assert desk.ledger.forward(order("a", late)).status is ForwardStatus.VOIDED
    assert desk.ledger.forward(order("a", epoch + 4)).status is ForwardStatus.FORWARDED


def test_a_bar_is_never_lowered_and_ends_after_a_day(desk: Desk) -> None:
    desk.ledger.void("a", 9)
    desk.ledger.void("a", 5)
    assert desk.client.get("dlq:void:a") == b"9"
    assert 86_000 < desk.client.ttl("dlq:void:a") <= 86_400


def test_an_epoch_that_exists_is_not_barred(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1))
    answer = desk.ledger.void("a", epoch + 1)
    assert (answer.exists, answer.state) == (True, "queued")
    assert desk.client.exists("dlq:void:a") == 0


def test_an_order_past_its_deadline_is_not_carried_out(desk: Desk) -> None:
    epoch = desk.bury("a")
    punctual = order("a", epoch + 1, deadline_ms=desk.now)
    desk.wait(1)
    assert desk.ledger.forward(punctual).status is ForwardStatus.TOO_LATE
    assert desk.record().state is State.DEAD
    desk.at(desk.now - 1)
    assert desk.ledger.forward(punctual).status is ForwardStatus.FORWARDED


def test_an_older_order_gives_way_to_what_came_after_it(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 2))
    answer = desk.ledger.forward(order("a", epoch + 1))
    assert (answer.status, answer.state) == (ForwardStatus.SUPERSEDED, "queued")
    assert desk.complete("a", desk.claim_only().fence) is Verdict.TO_OUTBOX
    desk.ledger.drained([("a", epoch + 2, "settle")])
    answer = desk.ledger.forward(order("a", epoch + 1, force=True))
    assert (answer.status, answer.state) == (ForwardStatus.SUPERSEDED, "done")


def _queued(desk: Desk) -> None:
    desk.accept("a")


def _running(desk: Desk) -> None:
    desk.accept("a")
    desk.claim()


def _retry_wait(desk: Desk) -> None:
    desk.accept("a")
    desk.fail("a", desk.claim_only().fence)


def _scheduled(desk: Desk) -> None:
    desk.accept("a", not_before_ms=START_MS + 1000)


def _dead_pending(desk: Desk) -> None:
    desk.accept("a")
    desk.kill("a")


@pytest.mark.parametrize("bring", [_queued, _running, _retry_wait, _scheduled, _dead_pending])
def test_a_message_that_is_open_is_busy(desk: Desk, bring: Callable[[Desk], None]) -> None:
    bring(desk)
    before = desk.record()
    answer = desk.ledger.forward(order("a", before.epoch + 1, death_seen=before.epoch - 1, force=True))
    assert (answer.status, answer.state) == (ForwardStatus.BUSY, before.state)
    assert desk.record() == before
    assert desk.account() == (1, 0, 0, 1)


def test_a_death_that_the_letter_has_already_is_no_obstacle(desk: Desk) -> None:
    desk.accept("a")
    desk.kill("a")
    epoch = desk.record().epoch
    assert desk.ledger.forward(order("a", epoch + 1, death_seen=epoch)).status is ForwardStatus.FORWARDED
    assert desk.ledger.outbox() == []
    assert desk.account() == (1, 0, 0, 1)
    # The drainer that was on its way comes too late, and it does no harm.
    assert desk.ledger.drained([("a", epoch, "death")]) == [False]
    assert desk.record().state is State.QUEUED


def test_a_quarantined_death_that_is_replayed_leaves_the_quarantine(desk: Desk) -> None:
    desk.accept("a")
    desk.kill("a")
    epoch = desk.record().epoch
    desk.ledger.quarantine("a", epoch, "why")
    desk.ledger.forward(order("a", epoch + 1, death_seen=epoch))
    assert desk.ledger.quarantined() == []


def test_a_replay_whose_end_is_not_recorded_is_busy(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1))
    desk.complete("a", desk.claim_only().fence)
    answer = desk.ledger.forward(order("a", epoch + 2, force=True))
    assert (answer.status, answer.state) == (ForwardStatus.BUSY, "done")


def test_a_message_that_is_done_runs_again_only_by_force(desk: Desk) -> None:
    desk.accept("a")
    desk.complete("a", desk.claim_only().fence)
    epoch = desk.record().epoch
    answer = desk.ledger.forward(order("a", epoch + 1))
    assert (answer.status, answer.state) == (ForwardStatus.ALREADY_DONE, "done")
    assert desk.account() == (1, 1, 0, 0)
    assert desk.ledger.forward(order("a", epoch + 1, force=True)).status is ForwardStatus.FORWARDED
    assert desk.account() == (1, 0, 0, 1)


def test_a_forgotten_message_runs_from_what_the_order_carries(desk: Desk) -> None:
    desk.bury("a")
    desk.client.delete("dlq:msg:a", "dlq:story:a", "dlq:body:a")
    desk.wait(10**8)
    answer = desk.ledger.forward(order("a", START_MS + 1, tags='["x"]', prior_runs=4, deadline_ms=desk.now + 1))
    assert answer.status is ForwardStatus.FORWARDED
    claimed = desk.claim_only()
    assert (claimed.type, claimed.tags, claimed.prior_runs, claimed.queued_at_ms) == ("demo", '["x"]', 4, START_MS)
    assert desk.account() == (1, 0, 0, 1)


def test_a_forgotten_message_leaves_the_account_that_it_ended_in(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1))
    desk.complete("a", desk.claim_only().fence)
    desk.ledger.drained([("a", epoch + 1, "settle")])
    assert desk.account() == (1, 1, 0, 0)
    day = desk.record().acct_day
    desk.client.delete("dlq:msg:a", "dlq:story:a", "dlq:body:a")

    desk.ledger.forward(order("a", epoch + 2, force=True, ended_done=True, acct_day=day))

    assert desk.account() == (1, 0, 0, 1)


def test_a_message_of_an_emptied_redis_is_accepted_with_its_first_replay(desk: Desk) -> None:
    desk.client.flushall()
    desk.at(START_MS)

    for number in range(3):
        desk.ledger.forward(order(f"a{number}", 7))
    assert desk.account() == (3, 0, 0, 3)
    for claimed in desk.claim():
        desk.complete(claimed.message_id, claimed.fence)
    assert desk.account() == (3, 3, 0, 0)


def test_a_message_enters_the_account_when_others_than_it_are_dead_there(desk: Desk) -> None:
    desk.bury("a")
    desk.client.delete("dlq:msg:a", "dlq:story:a", "dlq:body:a")
    desk.ledger.forward(order("a", START_MS + 1))

    desk.ledger.forward(order("b", 7))

    assert desk.account() == (2, 0, 0, 2)


def test_a_message_that_outlives_its_account_enters_it_again(desk: Desk) -> None:
    desk.accept("a")
    desk.client.delete("dlq:acct:20270115:demo")

    desk.complete("a", desk.claim_only().fence)

    assert desk.account() == (1, 1, 0, 0)


def test_an_account_that_an_earlier_version_left_below_zero_is_put_right(desk: Desk) -> None:
    desk.client.hset("dlq:acct:20270115:demo", mapping={"done": 50, "dead": -50})
    desk.client.sadd("dlq:acct:index", "20270115:demo")

    desk.bury("a")

    assert desk.account() == (51, 50, 1, 0)


def test_an_imported_letters_message_is_accepted_with_its_first_replay(desk: Desk) -> None:
    desk.ledger.forward(order("a", 7, acct_day=""))
    assert desk.record().acct_day == "20270115"
    assert desk.account() == (1, 0, 0, 1)
    desk.kill("a")
    desk.ledger.drained([("a", 7, "death")])
    desk.ledger.forward(order("a", 8, acct_day=""))
    assert desk.account() == (1, 0, 0, 1)


def test_a_late_outcome_of_the_former_epoch_has_no_say(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    desk.fail("a", fence, None)
    epoch = desk.record().epoch
    desk.ledger.forward(order("a", epoch + 1, death_seen=epoch))
    assert desk.complete("a", fence) is Verdict.ALREADY
    assert desk.record().state is State.QUEUED
    assert desk.claim_only().fence > fence
    assert desk.complete("a", fence) is Verdict.STALE


@pytest.mark.parametrize("wrong", [{"priority": "alone"}, {"type": ""}, {"replay_id": ""}, {"message_id": "a b"}])
def test_a_bad_order_is_refused_before_anything_is_written(desk: Desk, wrong: dict[str, str]) -> None:
    before = set(desk.client.keys())
    with pytest.raises(LedgerRefused):
        desk.ledger.forward(order(**{"message_id": "a", "epoch": 5, **wrong}))  # type: ignore[arg-type]
    assert set(desk.client.keys()) == before


def _everything(client: Any) -> dict[bytes, Any]:
    """What the server holds, and what of it expires, without what depends on the number of calls and on tokens."""
    read: dict[bytes, Callable[[bytes], Any]] = {
        b"hash": client.hgetall,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"string": client.get,
    }
    found = {}
    for key in client.scan_iter():
        if not key.startswith((b"dlq:bell", b"dlq:claimed:")):
            value = read[client.type(key)](key)
            if key.startswith(b"dlq:msg:"):
                value.pop(b"acceptToken", None)
            found[key] = (value, client.pttl(key) > 0)
    return found


def test_orders_sent_together_do_what_each_does_alone(desk: Desk) -> None:
    """New, forgotten, dead, unacknowledged, done, edited, repeated, banned, late and busy messages, over two lanes."""

    def prepare() -> None:
        desk.client.flushall()
        desk.at(START_MS)
        for name in ("dead", "edited", "done", "banned"):
            desk.bury(name)
        epoch = desk.record("edited").epoch
        desk.ledger.forward(order("edited", epoch + 1, run_body=b"[2]", version=1))
        desk.kill("edited")
        desk.ledger.drained([("edited", epoch + 1, "death")])
        desk.ledger.forward(order("done", desk.record("done").epoch + 1))
        for claimed in desk.claim():
            desk.complete(claimed.message_id, claimed.fence)
        desk.ledger.drained([("done", desk.record("done").epoch, "settle")])
        for name in ("pending", "kept"):
            desk.accept(name)
            desk.kill(name)
        desk.accept("busy")
        desk.ledger.void("banned", START_MS + 500)

    orders = [
        order("new", 7, priority="high"),
        order("dead", START_MS + 9, prior_runs=3),
        order("dead", START_MS + 9, prior_runs=3),
        order("dead", START_MS + 10),
        order("edited", START_MS + 9),
        order("other", 8, run_body=b"[3]", version=2, priority="low"),
        order("done", START_MS + 9),
        order("done", START_MS + 9, force=True),
        order("banned", START_MS + 20),
        order("late", 9, deadline_ms=START_MS - 1),
        order("pending", START_MS + 9, death_seen=START_MS + 1),
        order("kept", START_MS + 9, death_seen=START_MS - 1),
        order("busy", START_MS + 9),
        order("imported", 5, acct_day=""),
        order("dead", 3),
    ]
    prepare()
    alone = [desk.ledger.forward(one) for one in orders]
    expected = _everything(desk.client)

    prepare()
    together = desk.ledger.forward_many(orders)

    assert together == alone
    assert {answer.status for answer in together} == set(ForwardStatus) - {ForwardStatus.REFUSED}
    assert _everything(desk.client) == expected


def test_an_impossible_order_does_not_keep_the_others_from_running(desk: Desk) -> None:
    desk.client.set("dlq:msg:spoilt", "no record")
    bad = [order("b", 5, priority="alone"), order("a b", 5), order("c", 5, type=""), order("spoilt", 5)]

    answers = desk.ledger.forward_many([order("first", 5), *bad, order("last", 5)])

    refused = [answer.status is ForwardStatus.REFUSED for answer in answers]
    assert refused == [False, True, True, True, True, False]
    assert "invalid priority" in answers[1].state
    assert {one.message_id for one in desk.claim()} == {"first", "last"}


def test_any_number_of_orders_is_sent_in_parts(desk: Desk) -> None:
    answers = desk.ledger.forward_many([order(f"m{n}", 5, body=b"x" * (n % 3) * 300_000) for n in range(251)])

    assert [answer.status for answer in answers] == [ForwardStatus.FORWARDED] * 251
    assert len(desk.lane()) == 251
