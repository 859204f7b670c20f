"""Claims and outcomes: who may run a message, and whose word counts."""

from __future__ import annotations

import json
import threading

import pytest
import redis

from dlq_app.domain.ports import ForwardStatus
from messages_app.domain.errors import LedgerRefused
from messages_app.domain.records import Completed, Deferred, Failed, State, Verdict
from messages_app.store.ledger import Ledger
from messages_app.tests.ledgers import START_MS, Desk, acceptance, order, token

pytestmark = pytest.mark.redis


# -- claim


def test_a_claim_hands_out_what_to_run_with_a_fence_and_a_lease(desk: Desk) -> None:
    desk.accept("a", priority="low", body=b"[1]", source="shop", tags='["t"]', max_retries=2)
    desk.wait(70)
    claimed = desk.claim_only()

    assert (claimed.message_id, claimed.epoch, claimed.attempt, claimed.fence) == ("a", START_MS, 0, desk.now)
    assert (claimed.type, claimed.body, claimed.priority, claimed.source) == ("demo", b"[1]", "low", "shop")
    assert (claimed.tags, claimed.max_retries, claimed.prior_runs, claimed.replay_id) == ('["t"]', 2, 0, "")
    assert (claimed.queued_at_ms, claimed.claimed_at_ms) == (START_MS, START_MS + 70)
    record = desk.record()
    assert (record.state, record.owner, record.lease_until_ms) == (State.RUNNING, "w1", desk.now + 30_000)
    assert desk.client.keys("rq:job:*") == []
    assert desk.claim() == []


def test_lanes_are_served_in_strict_order(desk: Desk) -> None:
    for message_id, priority in (("l1", "low"), ("n1", "normal"), ("h1", "high"), ("n2", "normal"), ("h2", "high")):
        desk.accept(message_id, priority=priority)

    assert [claimed.message_id for claimed in desk.claim(limit=4)] == ["h1", "h2", "n1", "n2"]
    assert [claimed.message_id for claimed in desk.claim(limit=4)] == ["l1"]


@pytest.mark.parametrize("limit", [1, 7, 40])
def test_every_twentieth_message_is_of_the_lowest_lane(desk: Desk, limit: int) -> None:
    desk.ledger.accept_many([acceptance(f"h{number}", priority="high") for number in range(80)])
    desk.ledger.accept_many([acceptance(f"l{number}", priority="low") for number in range(80)])

    first: list[str] = []
    while len(first) < 80:
        first += [claimed.priority for claimed in desk.claim(limit=min(limit, 80 - len(first)))]
    assert (first.count("high"), first.count("low")) == (76, 4)


def test_a_claim_ends_where_its_payloads_would_be_too_much(desk: Desk) -> None:
    for number in range(4):
        desk.accept(f"m{number}", body=b"x" * 400)

    assert [claimed.message_id for claimed in desk.claim(max_bytes=900)] == ["m0", "m1"]
    assert [claimed.message_id for claimed in desk.claim(max_bytes=10)] == ["m2"]
    assert [claimed.message_id for claimed in desk.claim()] == ["m3"]


def test_the_same_token_again_gives_the_same_messages(desk: Desk) -> None:
    desk.accept("a")
    desk.accept("b")
    first = desk.claim(token="t")
    desk.accept("c")
    desk.wait(5)

    assert desk.claim(token="t") == first
    # What has ended meanwhile, or runs under another fence, is no longer part of it.
    desk.complete("a", first[0].fence)
    assert [claimed.message_id for claimed in desk.claim(token="t")] == ["b"]
    desk.lose("b")
    (again,) = [claimed for claimed in desk.claim(token="u") if claimed.message_id == "b"]
    assert [claimed.fence for claimed in desk.claim(token="t")] == []
    assert desk.record("b").fence == again.fence


def test_a_claim_of_nothing_may_be_repeated_as_a_new_one(desk: Desk) -> None:
    assert desk.claim(token="t") == []
    desk.accept("a")
    assert len(desk.claim(token="t")) == 1


def _push(desk: Desk, job: str, lane: str = "normal") -> None:
    desk.client.rpush(f"rq:queue:{lane}", job)


def test_a_doubled_wake_up_runs_nothing_twice(desk: Desk) -> None:
    desk.accept("a")
    (job,) = desk.lane()
    _push(desk, job.decode())

    assert len(desk.claim()) == 1
    assert desk.claim() == []
    assert desk.lane() == []


def test_a_late_wake_up_does_not_start_a_message_that_waits_for_its_retry(desk: Desk) -> None:
    desk.accept("a")
    (job,) = desk.lane()
    desk.fail("a", desk.claim_only().fence)
    _push(desk, job.decode())

    assert desk.claim() == []
    assert desk.record().state is State.RETRY_WAIT


def test_a_wake_up_of_a_former_attempt_has_no_effect(desk: Desk) -> None:
    desk.accept("a")
    desk.fail("a", desk.claim_only().fence, 0)
    desk.ledger.due()
    desk.client.delete("rq:queue:normal")
    _push(desk, f"m-a-{START_MS}-0-1")

    assert desk.claim() == []
    _push(desk, f"m-a-{START_MS}-1-9")
    assert desk.claim_only().attempt == 1


def test_a_wake_up_of_a_former_epoch_has_no_effect(desk: Desk) -> None:
    epoch = desk.bury("a")
    desk.ledger.forward(order("a", epoch + 1))
    desk.client.delete("rq:queue:normal")
    _push(desk, f"m-a-{epoch}-0-1")

    assert desk.claim() == []


def test_a_wake_up_of_an_unknown_message_is_dropped(desk: Desk) -> None:
    _push(desk, "m-nobody-1-0-1")
    assert desk.claim() == []
    assert desk.lane() == []


def test_jobs_of_others_are_kept_out_of_the_way(desk: Desk) -> None:
    desk.client.hset("rq:job:theirs", "data", "x")
    _push(desk, "theirs")
    desk.accept("a")

    answer = desk.ledger.claim(token=token(), limit=5, owner="w", holding=0)
    assert ([claimed.message_id for claimed in answer.records], answer.lanes_empty) == (["a"], True)
    assert desk.lane("foreign") == [b"theirs"]
    assert desk.client.hget("rq:job:theirs", "data") == b"x"
    assert desk.client.sismember("rq:queues", "rq:queue:foreign")
    assert desk.ledger.figures().foreign == 1


def test_a_heap_of_stale_wake_ups_is_worked_off_in_parts(desk: Desk) -> None:
    desk.client.rpush("rq:queue:normal", *(f"m-x-1-0-{number}" for number in range(500)))
    desk.accept("a")

    assert desk.claim(limit=1) == []
    assert 0 < len(desk.lane()) < 501
    while not (found := desk.claim(limit=1)):
        assert desk.lane()
    assert found[0].message_id == "a"


def test_fences_rise_with_the_clock_and_when_the_clock_stands(desk: Desk) -> None:
    desk.accept("a")
    first = desk.claim_only()
    desk.defer("a", first.fence)
    second = desk.claim_only()
    assert second.fence == first.fence + 1

    # The server fell back to a state in which the message had never been claimed: the clock is still ahead.
    desk.defer("a", second.fence)
    desk.client.hset("dlq:msg:a", "fence", 0)
    desk.wait(10)
    assert desk.claim_only().fence == desk.now > second.fence


def test_two_processes_never_share_a_message(redis_client: redis.Redis) -> None:
    ledger = Ledger(redis_client)
    ledger.accept_many([acceptance(f"m{number}") for number in range(200)])
    held: list[str] = []

    def run(owner: str) -> None:
        while records := ledger.claim(token=f"{owner}-{token()}", limit=7, owner=owner, holding=1).records:
            held.extend(claimed.message_id for claimed in records)

    threads = [threading.Thread(target=run, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == sorted(f"m{number}" for number in range(200))


# -- one at a time, for RQ's own worker


def test_one_wake_up_claims_its_message_once(desk: Desk) -> None:
    desk.accept("a")
    claimed = desk.ledger.claim_one("a", START_MS, 0, token="t", owner="rq")

    assert claimed is not None
    assert desk.ledger.claim_one("a", START_MS, 0, token="t", owner="rq") == claimed
    assert desk.ledger.claim_one("a", START_MS, 0, token="u", owner="rq") is None
    assert desk.complete("a", claimed.fence) is Verdict.APPLIED
    assert desk.ledger.claim_one("a", START_MS, 0, token="t", owner="rq") is None


def test_one_wake_up_that_does_not_fit_claims_nothing(desk: Desk) -> None:
    desk.accept("a")
    assert desk.ledger.claim_one("a", START_MS + 1, 0, token=token(), owner="rq") is None
    assert desk.ledger.claim_one("a", START_MS, 1, token=token(), owner="rq") is None
    assert desk.ledger.claim_one("b", START_MS, 0, token=token(), owner="rq") is None


# -- alone


def _lose_twice(desk: Desk, message_id: str = "poison") -> None:
    desk.accept(message_id)
    for _ in range(2):
        desk.claim(limit=1)
        desk.lose(message_id)


def test_a_message_lost_twice_is_claimed_alone_by_a_process_that_holds_nothing(desk: Desk) -> None:
    _lose_twice(desk)
    desk.accept("other", priority="high")
    assert desk.lane("alone") == [f"m-poison-{START_MS}-0-3".encode()]

    busy = desk.ledger.claim(token=token(), limit=5, owner="w", holding=1)
    assert ([claimed.message_id for claimed in busy.records], busy.alone_waiting) == (["other"], 1)
    desk.accept("another", priority="high")
    idle = desk.ledger.claim(token=token(), limit=5, owner="w", holding=0)
    assert [(claimed.message_id, claimed.alone) for claimed in idle.records] == [("poison", True)]
    assert idle.lanes_empty is False


def test_a_doubled_wake_up_does_not_let_it_out_of_its_lane(desk: Desk) -> None:
    _lose_twice(desk)
    _push(desk, f"m-poison-{START_MS}-0-1")
    assert desk.claim(holding=1) == []
    assert desk.record("poison").state is State.QUEUED


def test_handed_back_it_waits_alone_again(desk: Desk) -> None:
    _lose_twice(desk)
    desk.defer("poison", desk.claim_only().fence)
    assert desk.lane("normal") == []
    assert len(desk.lane("alone")) == 1


def test_rqs_own_worker_may_run_it_too(desk: Desk) -> None:
    _lose_twice(desk)
    claimed = desk.ledger.claim_one("poison", START_MS, 0, token=token(), owner="rq")
    assert claimed is not None
    assert claimed.alone
    assert desk.client.zcard("dlq:waiting:alone") == 0


# -- the bell


def test_the_bell_rings_for_work_and_falls_silent_without(desk: Desk) -> None:
    for number in range(20):
        desk.accept(f"m{number}")
    assert desk.client.llen("dlq:bell") == 16
    desk.claim(limit=19)
    desk.client.delete("dlq:bell")
    desk.claim(limit=0)
    assert desk.client.llen("dlq:bell") == 1  # one message is left: the next sleeper has to know
    desk.claim(limit=1)
    assert desk.client.llen("dlq:bell") == 0


def test_the_bell_does_not_ring_busy_processes_for_what_runs_alone(desk: Desk) -> None:
    _lose_twice(desk)
    desk.client.delete("dlq:bell")
    desk.claim(holding=1)
    assert desk.client.llen("dlq:bell") == 0


def test_waiting_for_work_ends_with_a_wake_up(desk: Desk) -> None:
    waiter = threading.Thread(target=_wait_until_woken, args=(desk,), daemon=True)
    waiter.start()
    desk.accept("a")
    waiter.join(20)
    assert not waiter.is_alive()


def _wait_until_woken(desk: Desk) -> None:
    """Waits as a worker does, again and again; a wait that was woken has taken the bell, one that ended has not."""
    while not desk.client.exists("dlq:msg:a") or desk.client.llen("dlq:bell"):
        desk.ledger.wait_for_work(1.0)


# -- renew


def test_a_renewed_lease_is_longer_but_never_past_its_cap(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    desk.wait(10_000)
    assert desk.ledger.renew([("a", fence, START_MS + 60_000)]) == set()
    assert desk.record().lease_until_ms == START_MS + 40_000
    desk.wait(29_000)
    assert desk.ledger.renew([("a", fence, START_MS + 60_000)]) == set()
    assert desk.record().lease_until_ms == START_MS + 60_000
    assert desk.ledger.renew([("a", fence, START_MS)]) == set()
    assert desk.record().lease_until_ms == START_MS + 60_000


def test_leases_that_are_lost_are_named(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    desk.lose("a")
    assert desk.record().state is State.QUEUED
    assert desk.ledger.renew([("a", fence, START_MS * 2), ("nobody", 1, START_MS * 2)]) == {"a", "nobody"}
    second = desk.claim_only().fence
    assert desk.ledger.renew([("a", fence, START_MS * 2), ("a", second, START_MS * 2)]) == {"a"}
    assert desk.record().lease_until_ms == desk.now + 30_000
    desk.complete("a", second)
    assert desk.ledger.renew([("a", second, START_MS * 2)]) == {"a"}
    assert desk.client.zcard("dlq:due:running") == 0


# -- complete


def test_done_is_counted_kept_for_a_day_and_its_payload_for_an_hour(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    desk.wait(30)
    assert desk.complete("a", fence, '{"ok":true}') is Verdict.APPLIED

    record = desk.record()
    assert (record.state, record.result, record.finished_at_ms) == (State.DONE, '{"ok":true}', desk.now)
    assert (record.attempts, record.outbox, record.lease_until_ms) == ('{"number":1}', "", None)
    assert desk.account() == (1, 1, 0, 0)
    assert 86_000 < desk.client.ttl("dlq:msg:a") <= 86_400
    desk.wait(3_600_000 - 1)
    assert desk.ledger.expire_payloads(10) == 0
    assert desk.record().body == b'{"n":1}'
    desk.wait(1)
    assert desk.ledger.expire_payloads(10) == 1
    assert (desk.record().body, desk.record().attempts) == (None, "")
    assert desk.client.exists("dlq:story:a", "dlq:body:a", "dlq:ended") == 0
    desk.wait(10**8)
    assert desk.ledger.due().moved == 0


def test_a_success_is_in_the_record_until_its_payload_expires(desk: Desk) -> None:
    desk.accept("a")
    (claimed,) = desk.claim(owner='w"1')
    desk.fail("a", claimed.fence, 0)
    desk.wait(1)
    desk.ledger.due()
    (claimed,) = desk.claim(owner='w"1')

    done = Completed(message_id="a", fence=claimed.fence, result="", ran=f"{START_MS + 5} {START_MS + 7}")
    assert desk.flush(done) is Verdict.APPLIED

    assert desk.client.get("dlq:story:a").count(b"\n") == 1, "only the failure"
    failure, success = json.loads(f"[{desk.record().attempts}]")
    assert failure == {"number": 1}
    assert success == {
        "number": 2, "startedAt": "2027-01-15T08:00:00.005Z", "endedAt": "2027-01-15T08:00:00.007Z",
        "outcome": "succeeded", "errorType": None, "errorReason": None, "retryDelayMs": None, "worker": 'w"1',
    }  # fmt: skip
    assert desk.record().result == ""
    desk.wait(3_600_000)
    desk.ledger.expire_payloads(10)
    assert desk.record().attempts == ""


def test_the_success_before_a_replay_is_not_one_of_its_attempts(desk: Desk) -> None:
    desk.accept("a")
    claimed = desk.claim_only()
    desk.flush(Completed(message_id="a", fence=claimed.fence, result="", ran=f"{START_MS} {START_MS}"))
    epoch = desk.record().epoch + 1
    assert desk.ledger.forward(order("a", epoch, force=True)).status is ForwardStatus.FORWARDED
    assert desk.client.hget("dlq:msg:a", "ran") is None
    desk.client.hset("dlq:msg:a", "ran", f"{START_MS} {START_MS}")  # as an earlier version leaves it

    desk.complete("a", desk.claim_only().fence)

    assert desk.record().attempts == '{"number":1}'


# -- expire


def test_a_payload_that_is_used_again_does_not_expire(desk: Desk) -> None:
    for name in ("again", "replayed", "accepted", "done"):
        desk.accept(name)
    for claimed in desk.claim():
        desk.complete(claimed.message_id, claimed.fence)
    desk.wait(1000)
    for name in ("again", "replayed"):
        desk.ledger.forward(order(name, desk.record(name).epoch + 1, force=True))
    desk.complete("replayed", next(one.fence for one in desk.claim() if one.message_id == "replayed"))
    desk.client.delete("dlq:msg:accepted")  # as after a day
    desk.accept("accepted")

    desk.wait(3_600_000)

    assert desk.ledger.expire_payloads(10) == 4
    assert desk.client.exists("dlq:body:done") == 0
    for name in ("again", "replayed", "accepted"):
        assert desk.client.exists(f"dlq:body:{name}", f"dlq:story:{name}") == 2


def test_a_payload_without_a_record_expires(desk: Desk) -> None:
    desk.accept("a")
    desk.complete("a", desk.claim_only().fence)
    desk.client.delete("dlq:msg:a")
    desk.wait(3_600_000)

    assert desk.ledger.expire_payloads(10) == 1

    assert desk.client.exists("dlq:body:a", "dlq:story:a") == 0


def test_payloads_expire_no_later_than_their_record(redis_client: redis.Redis) -> None:
    desk = Desk.open(redis_client, record_ttl_ms=5_000, body_ttl_ms=60_000)
    desk.accept("a")
    desk.complete("a", desk.claim_only().fence)
    desk.wait(5_000)

    assert desk.ledger.expire_payloads(10) == 1


def test_payloads_expire_in_the_order_of_their_ends_and_at_most_so_many(desk: Desk) -> None:
    for number in range(6):
        desk.accept(f"m{number}")
        desk.complete(f"m{number}", desk.claim_only().fence)
        desk.wait(1000)
    desk.wait(3_600_000 - 3_000)

    assert [desk.ledger.expire_payloads(2) for _ in range(3)] == [2, 2, 0]
    assert [desk.client.exists(f"dlq:body:m{number}") for number in range(6)] == [0, 0, 0, 0, 1, 1]


def test_what_cannot_be_read_holds_up_no_other_payload(desk: Desk) -> None:
    for name in ("odd", "a"):
        desk.accept(name)
    for claimed in desk.claim():
        desk.complete(claimed.message_id, claimed.fence)
    desk.client.delete("dlq:msg:odd")
    desk.client.lpush("dlq:msg:odd", "x")
    desk.client.lpush("dlq:ended", "no entry of ours")
    desk.wait(3_600_000)

    assert desk.ledger.expire_payloads(10) == 2

    assert desk.client.exists("dlq:body:a", "dlq:ended") == 0
    assert desk.client.exists("dlq:body:odd") == 1


def test_a_repeated_outcome_is_applied_once(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    assert desk.complete("a", fence) is Verdict.APPLIED
    assert desk.complete("a", fence) is Verdict.ALREADY
    assert desk.record().attempts == '{"number":1}'
    assert desk.account() == (1, 1, 0, 0)


def test_a_repeated_failure_uses_up_one_retry(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    assert desk.fail("a", fence) is Verdict.APPLIED
    assert desk.fail("a", fence) is Verdict.ALREADY
    assert (desk.record().attempt, desk.record().prior_runs) == (1, 1)


def test_a_lost_run_has_no_say_any_more(desk: Desk) -> None:
    desk.accept("a")
    fence = desk.claim_only().fence
    desk.lose("a")
    assert desk.complete("a", fence) is Verdict.STALE
    second = desk.claim_only()
    for verdict in (desk.complete("a", fence), desk.fail("a", fence), desk.defer("a", fence)):
        assert verdict is Verdict.STALE
    record = desk.record()
    assert (record.state, record.fence, record.attempt) == (State.RUNNING, second.fence, 0)
    assert desk.account() == (1, 0, 0, 1)


def test_outcomes_are_judged_each_by_its_own_fence(desk: Desk) -> None:
    for message_id in "abcde":
        desk.accept(message_id)
    fences = {claimed.message_id: claimed.fence for claimed in desk.claim()}

    verdicts = desk.ledger.flush(
        [
            Failed(message_id="a", fence=fences["a"], delay_ms=None, error="{}", attempt_json="{}"),
            Completed(message_id="b", fence=fences["b"] + 1, result="1", attempt_json="{}"),
            Deferred(message_id="c", fence=fences["c"], delay_ms=100, why="breaker"),
            Completed(message_id="d", fence=fences["d"], result="1", attempt_json="{}"),
            Failed(message_id="e", fence=fences["e"], delay_ms=-1, error="{}", attempt_json="{}"),
            Completed(message_id="nobody", fence=1, result="1", attempt_json="{}"),
            Failed(message_id="e", fence=fences["e"], delay_ms=50, error="{}", attempt_json="{}"),
        ]
    )
    assert verdicts == ["to_outbox", "stale", "applied", "applied", "refused", "stale", "applied"]
    assert [desk.record(message_id).state for message_id in "abcde"] == [
        "dead_pending", "running", "scheduled", "done", "retry_wait",
    ]  # fmt: skip


def test_an_outcome_that_cannot_be_written_is_refused_alone(desk: Desk, redis_client: redis.Redis) -> None:
    for message_id in ("a1", "a2", "b1", "b2", "b3", "c1", "c2"):
        desk.accept(message_id)
    fences = {claimed.message_id: claimed.fence for claimed in desk.claim()}
    for message_id in ("a1", "b1", "c1"):
        redis_client.delete(f"dlq:story:{message_id}")
        redis_client.hset(f"dlq:story:{message_id}", "of", "another kind")
    redis_client.hset("dlq:msg:b2", "maxRetries", "many")
    before = {message_id: redis_client.hgetall(f"dlq:msg:{message_id}") for message_id in ("a1", "b1", "b2", "c1")}

    verdicts = desk.ledger.flush(
        [
            Completed(message_id="a1", fence=fences["a1"], result="1", attempt_json="{}"),
            Completed(message_id="a2", fence=fences["a2"], result="1", attempt_json="{}"),
            *(
                Failed(message_id=message_id, fence=fences[message_id], delay_ms=5, error="{}", attempt_json="{}")
                for message_id in ("b1", "b2", "b3")
            ),
            Deferred(message_id="c1", fence=fences["c1"], delay_ms=0, why="shutdown", attempt_json="{}"),
            Deferred(message_id="c2", fence=fences["c2"], delay_ms=0, why="shutdown", attempt_json="{}"),
        ]
    )

    assert verdicts == ["refused", "applied", "refused", "refused", "applied", "refused", "applied"]
    for message_id, record in before.items():
        assert redis_client.hgetall(f"dlq:msg:{message_id}") == record
    assert [desk.record(message_id).state for message_id in ("a2", "b3", "c2")] == ["done", "retry_wait", "queued"]
    assert desk.account() == (7, 1, 0, 6)
    # The others have left the index of what runs.
    assert sorted(redis_client.zrange("dlq:due:running", 0, -1)) == [b"a1", b"b1", b"b2", b"c1"]


# -- fail


def test_a_failure_waits_and_the_last_one_is_given_up(desk: Desk) -> None:
    desk.accept("a", max_retries=2)
    for attempt, delay in ((0, 1000), (1, 2000)):
        claimed = desk.claim_only()
        assert (claimed.attempt, claimed.prior_runs) == (attempt, attempt)
        assert desk.fail("a", claimed.fence, delay) is Verdict.APPLIED
        record = desk.record()
        assert (record.state, record.attempt, record.due_at_ms) == (State.RETRY_WAIT, attempt + 1, desk.now + delay)
        desk.wait(delay - 1)
        assert desk.ledger.due().moved == 0
        desk.wait(1)
        assert desk.ledger.due().moved == 1
    assert desk.fail("a", desk.claim_only().fence, 4000) is Verdict.TO_OUTBOX

    record = desk.record()
    assert (record.state, record.attempt, record.prior_runs, record.outbox) == (State.DEAD_PENDING, 2, 3, "death")
    assert (record.last_error, record.attempts) == ('{"e":1}', ",".join(['{"number":1}'] * 3))
    assert desk.account() == (1, 0, 0, 1)
    assert desk.client.ttl("dlq:msg:a") == desk.client.ttl("dlq:body:a") == -1


def test_a_failure_without_a_wait_is_given_up_at_once(desk: Desk) -> None:
    desk.accept("a")
    assert desk.fail("a", desk.claim_only().fence, None) is Verdict.TO_OUTBOX
    assert desk.record().state is State.DEAD_PENDING


def test_an_attempt_with_line_breaks_stays_one_attempt(desk: Desk) -> None:
    desk.accept("a")
    outcome = Failed(
        message_id="a", fence=desk.claim_only().fence, delay_ms=0, error="{}", attempt_json='{\n"number": 1\n}'
    )
    desk.flush(outcome)
    assert desk.record().attempts == '{ "number": 1 }'


# -- defer


def test_handed_back_at_once_it_is_first_in_its_lane_and_unspent(desk: Desk) -> None:
    desk.accept("a")
    desk.accept("b")
    (claimed,) = desk.claim(limit=1)
    assert desk.defer("a", claimed.fence, 0, "prefetch") is Verdict.APPLIED
    record = desk.record()
    assert (record.state, record.attempt, record.deferrals, record.deferred_since_ms) == (State.QUEUED, 0, 0, None)
    assert (record.owner, record.started_at_ms, record.attempts) == ("", None, "")
    assert [again.message_id for again in desk.claim()] == ["a", "b"]


def test_a_refusal_waits_is_counted_and_starts_a_clock(desk: Desk) -> None:
    desk.accept("a")
    assert desk.defer("a", desk.claim_only().fence, 700, "breaker") is Verdict.APPLIED
    record = desk.record()
    assert (record.state, record.attempt, record.due_at_ms) == (State.SCHEDULED, 0, START_MS + 700)
    desk.wait(700)
    desk.ledger.due()
    claimed = desk.claim_only()
    assert (claimed.attempt, claimed.deferrals, claimed.deferred_since_ms) == (0, 1, START_MS)
    desk.defer("a", claimed.fence, 0, "breaker")
    second = desk.claim_only()
    assert (second.deferrals, second.deferred_since_ms) == (2, START_MS)
    # A run that was let through ends the clock.
    desk.fail("a", second.fence, 0)
    desk.ledger.due()
    assert desk.claim_only().deferred_since_ms is None


def test_refusals_leave_traces_but_not_without_end(desk: Desk) -> None:
    desk.accept("a")
    long = '{"why":"' + "x" * 30_000 + '"}'
    for _ in range(6):
        desk.flush(
            Deferred(message_id="a", fence=desk.claim_only().fence, delay_ms=0, why="breaker", attempt_json=long)
        )
    assert desk.record().attempts.count('"why"') == 3
    desk.complete("a", desk.claim_only().fence)
    assert desk.record().attempts.endswith('{"number":1}')


def test_nothing_passes_a_claim_without_a_token(desk: Desk) -> None:
    with pytest.raises(LedgerRefused):
        desk.claim(token="")


def test_a_message_that_is_broken_in_the_store_does_not_take_its_neighbours_along(desk: Desk) -> None:
    for name in ("a", "b", "c"):
        desk.accept(name)
    desk.client.set("dlq:story:b", "{")

    assert [claimed.message_id for claimed in desk.claim()] == ["a", "c"]
