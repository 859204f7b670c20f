"""What time alone moves, and the outbox: retries, lost runs, lost wake-ups, acknowledged outcomes."""

from __future__ import annotations

import json

import pytest
import redis

from messages_app.domain.records import State, Verdict
from messages_app.tests.ledgers import START_MS, Desk, order, token

pytestmark = pytest.mark.redis


# -- due


def test_the_next_due_time_is_told(desk: Desk) -> None:
    assert desk.ledger.due().next_ms is None
    desk.accept("a", not_before_ms=START_MS + 900)
    desk.accept("b")
    assert desk.ledger.due().next_ms == START_MS + 900
    desk.fail("b", desk.claim_only().fence, 300)
    due = desk.ledger.due()
    assert (due.next_ms, due.now_ms, due.moved) == (START_MS + 300, START_MS, 0)


def test_a_lost_run_goes_back_with_its_attempt_unspent(desk: Desk) -> None:
    desk.accept("a")
    desk.claim(owner="host:7")
    desk.wait(29_999)
    assert desk.ledger.due().moved == 0
    desk.wait(1)
    due = desk.ledger.due()
    assert (due.moved, due.recovered, due.given_up) == (1, 1, 0)

    record = desk.record()
    assert (record.state, record.attempt, record.recoveries) == (State.QUEUED, 0, 1)
    assert json.loads(record.attempts) == {
        "number": 1,
        "startedAt": "2027-01-15T08:00:00.000Z",
        "endedAt": "2027-01-15T08:00:30.000Z",
        "outcome": "lost",
        "errorType": "WORKER_LOST",
        "errorReason": "The process that ran it stopped answering.",
        "retryDelayMs": None,
        "worker": "host:7",
    }
    assert desk.claim_only().recoveries == 1


def test_the_third_loss_is_the_last(desk: Desk) -> None:
    desk.accept("a")
    for _ in range(3):
        desk.claim(owner='w"\n')
        desk.lose("a")

    record = desk.record()
    assert (record.state, record.recoveries, record.outbox) == (State.DEAD_PENDING, 3, "death")
    error = json.loads(record.last_error)
    assert (error["errorType"], error["errorKind"], error["worker"]) == ("WORKER_LOST", "unknown", 'w"\n')
    assert len(json.loads(f"[{record.attempts}]")) == 3
    assert [entry.record.message_id for entry in desk.ledger.outbox()] == ["a"]
    assert desk.account() == (1, 0, 0, 1)
    desk.wait(10**6)
    assert desk.ledger.due().moved == 0


def test_an_index_that_is_behind_its_record_moves_nothing(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    desk.wait(20_000)
    desk.ledger.renew([("a", fence, START_MS * 2)])
    desk.client.zadd("dlq:due:running", {"a": START_MS})  # as after a fall-back of the index alone
    desk.wait(10_000)
    due = desk.ledger.due()
    assert (due.moved, desk.record().state, due.next_ms) == (0, State.RUNNING, START_MS + 50_000)


def test_an_entry_that_stands_for_nothing_is_cleared_away(desk: Desk) -> None:
    desk.accept("a")
    desk.complete("a", desk.claim_only().fence)
    desk.client.zadd("dlq:due:running", {"a": 1})
    desk.client.zadd("dlq:due:retry_wait", {"a": 1, "nobody": 1})
    due = desk.ledger.due()
    assert (due.moved, due.next_ms, desk.record().state) == (0, None, State.DONE)


def test_what_cannot_be_moved_stays_overdue_and_holds_up_nobody(desk: Desk, redis_client: redis.Redis) -> None:
    for message_id in "abc":
        desk.accept(message_id)
    assert len(desk.claim()) == 3
    redis_client.delete("dlq:story:a", "dlq:msg:b")
    redis_client.hset("dlq:story:a", "of", "another kind")
    redis_client.set("dlq:msg:b", "of another kind")
    before = redis_client.hgetall("dlq:msg:a")
    for message_id in "abc":
        redis_client.zadd("dlq:due:running", {message_id: 1})
    redis_client.hset("dlq:msg:a", "leaseUntil", 1)
    redis_client.hset("dlq:msg:c", "leaseUntil", 1)

    due = desk.ledger.due()

    assert (due.moved, due.recovered) == (1, 1)
    assert desk.record("c").state is State.QUEUED
    assert redis_client.hgetall("dlq:msg:a") == {**before, b"leaseUntil": b"1"}
    assert desk.ledger.figures().overdue == 2
    again = desk.ledger.due()
    assert (again.moved, (again.next_ms or 0) > again.now_ms) == (0, True)


def test_upkeep_works_in_parts(desk: Desk) -> None:
    for number in range(7):
        desk.accept(f"m{number}", not_before_ms=START_MS + 1)
    desk.wait(1)
    assert [desk.ledger.due(limit=3).moved for _ in range(4)] == [3, 3, 1, 0]


def test_a_lost_wake_up_is_pushed_again_when_its_lane_is_empty(desk: Desk) -> None:
    desk.accept("a")
    desk.client.delete("rq:queue:normal")
    desk.wait(9_999)
    assert desk.ledger.due().woken_again == 0
    desk.wait(1)
    assert desk.ledger.due().woken_again == 1
    assert desk.lane() == [f"m-a-{START_MS}-0-2".encode()]
    assert desk.client.keys("rq:job:*") == [f"rq:job:m-a-{START_MS}-0-2".encode()]
    assert desk.claim_only().message_id == "a"


def test_a_lost_wake_up_is_pushed_again_when_a_younger_one_was_claimed(desk: Desk) -> None:
    desk.accept("a")
    desk.client.lpop("rq:queue:normal")
    desk.wait(1)
    desk.accept("b")
    desk.accept("c")
    desk.claim(limit=1)
    desk.wait(10_000)
    assert desk.ledger.due().woken_again == 1
    assert sorted(claimed.message_id for claimed in desk.claim()) == ["a", "c"]


def test_a_wake_up_that_rqs_own_worker_claimed_counts_as_progress(desk: Desk) -> None:
    desk.accept("a")
    desk.client.lpop("rq:queue:normal")
    desk.wait(1)
    desk.accept("b")
    desk.accept("c")
    desk.ledger.claim_one("b", desk.now, 0, token=token(), owner="rq")
    desk.wait(10_000)
    assert desk.ledger.due().woken_again == 1


def test_a_long_queue_that_waits_for_workers_is_left_alone(desk: Desk) -> None:
    for number in range(50):
        desk.accept(f"m{number}")
        desk.wait(1)
    desk.claim(limit=10)
    desk.wait(3_600_000)
    assert desk.ledger.due().woken_again == 0
    assert len(desk.lane()) == 40 + 10  # the rest, and those whose leases ended


def test_a_clock_that_was_set_back_makes_no_message_look_overtaken(desk: Desk) -> None:
    desk.accept("first")
    desk.claim_only()
    desk.at(START_MS - 3_600_000)
    desk.accept("a")
    desk.wait(20_000)

    assert desk.ledger.due().woken_again == 0
    assert len(desk.lane()) == 1


def test_a_message_in_the_index_of_another_lane_is_woken_in_its_own_once(desk: Desk) -> None:
    desk.accept("a")
    desk.client.delete("rq:queue:normal")
    desk.client.rename("dlq:waiting:normal", "dlq:waiting:high")
    desk.wait(20_000)

    assert desk.ledger.due().woken_again == 1
    assert desk.ledger.due().woken_again == 0
    assert len(desk.lane()) == 1
    assert desk.client.zcard("dlq:waiting:high") == 0


def test_a_handed_back_message_does_not_make_the_others_look_overtaken(desk: Desk) -> None:
    desk.accept("a")
    desk.accept("b")
    (claimed,) = desk.claim(limit=1)
    desk.wait(15_000)
    desk.defer("a", claimed.fence)
    desk.claim(limit=1)
    assert desk.ledger.due().woken_again == 0


def test_an_old_doubled_wake_up_does_not_make_the_others_look_overtaken(desk: Desk) -> None:
    desk.accept("a")
    (job,) = desk.lane()
    desk.client.delete("rq:queue:normal")
    desk.wait(10_000)
    desk.ledger.due()
    desk.client.lpush("rq:queue:normal", job)
    desk.accept("b")
    desk.accept("c")
    desk.client.zadd("dlq:waiting:normal", {"c": START_MS})
    desk.claim(limit=1)
    desk.wait(1)
    assert desk.ledger.due().woken_again == 0


# -- the outbox


def test_a_death_is_marked_once_its_letter_is_written(desk: Desk) -> None:
    desk.accept("a")
    desk.kill("a")
    (entry,) = desk.ledger.outbox()
    assert (entry.kind, entry.record.body, entry.record.last_error) == ("death", b'{"n":1}', '{"e":1}')

    assert desk.ledger.drained([("a", entry.record.epoch, "death")]) == [True]
    record = desk.record()
    assert (record.state, record.outbox, desk.ledger.outbox()) == (State.DEAD, "", [])
    assert desk.account() == (1, 0, 1, 0)
    assert 86_000 < desk.client.ttl("dlq:msg:a") <= 86_400
    assert 86_000 < desk.client.ttl("dlq:body:a") <= 86_400
    assert desk.ledger.drained([("a", entry.record.epoch, "death")]) == [False]
    assert desk.account() == (1, 0, 1, 0)


def test_only_the_epoch_that_was_written_is_marked(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1))
    desk.kill("a")
    assert desk.ledger.drained([("a", epoch, "death"), ("nobody", 1, "death")]) == [False, False]
    assert desk.record().state is State.DEAD_PENDING


def test_only_what_has_ended_so_is_marked(desk: Desk) -> None:
    desk.accept("a")
    epoch = desk.record().epoch
    assert desk.ledger.drained([("a", epoch, "death")]) == [False]
    desk.kill("a")
    assert desk.ledger.drained([("a", epoch, "settle"), ("a", epoch, "nonsense")]) == [False, False]
    assert desk.record().state is State.DEAD_PENDING
    assert desk.account() == (1, 0, 0, 1)


def test_an_outbox_entry_without_an_outcome_is_cleared_away(desk: Desk) -> None:
    desk.client.zadd("dlq:outbox", {"nobody": 1})
    assert desk.ledger.outbox() == []
    desk.ledger.drained([("nobody", 1, "death")])
    assert desk.client.zcard("dlq:outbox") == 0


def test_a_replays_end_is_kept_until_its_letter_has_it(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1, run_body=b"[2]", version=1))
    assert desk.complete("a", desk.claim_only().fence) is Verdict.TO_OUTBOX

    (entry,) = desk.ledger.outbox()
    assert (entry.kind, entry.record.replay_id, entry.record.state) == ("settle", f"r{epoch + 1}", State.DONE)
    assert desk.client.ttl("dlq:msg:a") == desk.client.ttl("dlq:story:a") == desk.client.ttl("dlq:body:a") == -1
    assert desk.ledger.drained([("a", epoch + 1, "settle")]) == [True]
    assert (desk.record().state, desk.record().outbox) == (State.DONE, "")
    assert 86_000 < desk.client.ttl("dlq:msg:a") <= 86_400
    assert 3_500 < desk.client.ttl("dlq:run:a") <= 3_600
    assert desk.account() == (1, 1, 0, 0)


@pytest.mark.parametrize("ends_well", [True, False])
def test_an_outcome_that_was_forgotten_is_put_up_again(desk: Desk, ends_well: bool) -> None:
    epoch = desk.bury("a") + 1
    desk.ledger.forward(order("a", epoch))
    fence = desk.claim_only().fence
    if ends_well:
        desk.complete("a", fence)
    else:
        desk.fail("a", fence)
    kind = "settle" if ends_well else "death"
    desk.ledger.drained([("a", epoch, kind)])
    before = desk.account()

    assert desk.ledger.resettle("a", epoch)
    assert [entry.kind for entry in desk.ledger.outbox()] == [kind]
    assert desk.client.ttl("dlq:msg:a") == -1
    assert desk.ledger.drained([("a", epoch, kind)]) == [True]
    assert desk.account() == before


def test_nothing_is_put_up_again_that_has_not_ended_there(desk: Desk) -> None:
    desk.accept("a")
    epoch = desk.record().epoch
    assert not desk.ledger.resettle("a", epoch)
    desk.complete("a", desk.claim_only().fence)
    assert not desk.ledger.resettle("a", epoch)
    assert not desk.ledger.resettle("a", epoch + 1)
    assert not desk.ledger.resettle("nobody", 1)
    assert desk.ledger.outbox() == []


def test_what_mongodb_can_never_take_is_set_aside_and_can_come_back(desk: Desk) -> None:
    desk.accept("a")
    desk.kill("a")
    epoch = desk.record().epoch
    assert not desk.ledger.quarantine("a", epoch + 1, "no")
    assert desk.ledger.quarantine("a", epoch, 'too deep: "é"')

    assert desk.ledger.outbox() == []
    (entry,) = desk.ledger.quarantined()
    assert (entry.message_id, entry.epoch, entry.why, entry.at_ms) == ("a", epoch, 'too deep: "é"', START_MS)
    assert (desk.record().state, desk.client.ttl("dlq:msg:a")) == (State.DEAD_PENDING, -1)
    assert desk.ledger.figures().quarantined == 1
    assert desk.ledger.release_quarantined("a")
    assert not desk.ledger.release_quarantined("a")
    assert [entry.record.message_id for entry in desk.ledger.outbox()] == ["a"]
    assert desk.ledger.quarantined() == []


def test_entries_that_stand_for_nothing_do_not_hold_up_the_outbox(desk: Desk) -> None:
    desk.client.zadd("dlq:outbox", {f"ghost-{number}": number for number in range(100)})
    desk.accept("a")
    desk.kill("a")

    assert desk.ledger.outbox() == []
    assert [entry.record.message_id for entry in desk.ledger.outbox()] == ["a"]


def test_large_outcomes_are_read_a_few_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("messages_app.store.ledger.OUTBOX_CHUNK", 2)
    monkeypatch.setattr("messages_app.store.ledger.OUTBOX_BYTES", 1000)
    for number in range(6):
        desk.accept(f"m{number}", body=b'"' + b"x" * 400 + b'"')
        desk.kill(f"m{number}")
        desk.wait(1)

    assert [entry.record.message_id for entry in desk.ledger.outbox()] == ["m0", "m1", "m2", "m3"]
