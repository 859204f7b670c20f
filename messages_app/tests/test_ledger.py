"""Acceptance, reading, accounts and the server: what stands in the ledger, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from messages_app.domain.errors import LedgerRefused, StoreUnavailable
from messages_app.domain.records import AcceptStatus, RateLimit, State
from messages_app.jobs import WakeUpJob
from messages_app.rest.status import status_body
from messages_app.store.ledger import Ledger
from messages_app.store.ledger_server import Terms
from messages_app.tests import mutants
from messages_app.tests.ledgers import START_MS, Desk, acceptance, order
from messages_app.work.ended import settled_of

pytestmark = pytest.mark.redis


def test_every_guard_can_be_left_out_by_a_mutation_run() -> None:
    lines = [line for _, line in mutants.guards()]
    assert len(lines) == len(set(lines)) > 30
    assert all(mutants.without(line) for line in lines)


# -- accept


def test_an_accepted_message_stands_with_everything_it_came_with(desk: Desk) -> None:
    answer = desk.accept("a", priority="high", source="shop", client="key:k", tags='["é"]', body='{"x":"é"}'.encode())

    assert (answer.status, answer.state, answer.queued_at_ms) == (AcceptStatus.ACCEPTED, State.QUEUED, START_MS)
    record = desk.record()
    assert (record.state, record.epoch, record.attempt, record.fence) == (State.QUEUED, START_MS, 0, 0)
    assert (record.type, record.priority, record.source, record.client, record.tags) == (
        "demo", "high", "shop", "key:k", '["é"]',
    )  # fmt: skip
    assert record.body == '{"x":"é"}'.encode()
    assert (record.acct_day, record.max_retries, record.attempts, record.outbox) == ("20270115", 3, "", "")
    assert desk.account() == (1, 0, 0, 1)
    assert desk.client.ttl("dlq:msg:a") == -1


@pytest.mark.parametrize("traceparent", ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"])
def test_its_trace_goes_with_it_to_each_attempt_and_into_a_replay(desk: Desk, traceparent: str) -> None:
    desk.accept("a", traceparent=traceparent)
    desk.accept("b")

    assert {claimed.message_id: claimed.traceparent for claimed in desk.claim(2)} == {"a": traceparent, "b": ""}
    assert desk.record("a").traceparent == traceparent
    assert (b"traceparent" in desk.client.get("dlq:story:a")) is bool(traceparent)


def test_its_wake_up_is_a_job_that_rq_can_load(desk: Desk) -> None:
    desk.accept("a-b_c", priority="low")

    assert desk.lane("low") == [f"m-a-b_c-{START_MS}-0-1".encode()]
    job = WakeUpJob.fetch(f"m-a-b_c-{START_MS}-0-1", connection=desk.client)
    assert (job.func_name, job.args, job.kwargs) == ("messages_app.jobs.process", ["a-b_c", START_MS, 0], {})
    assert (job.origin, job.get_status(), job.description) == ("low", "queued", "a-b_c")
    assert job.enqueued_at == datetime.fromtimestamp(START_MS / 1000, UTC)


def test_the_same_request_again_is_accepted_again_and_changes_nothing(desk: Desk) -> None:
    limit = RateLimit(client="c", limit=2)
    request = acceptance("a")
    first = desk.ledger.accept(request, limit)
    again = desk.ledger.accept(request, limit)

    assert first.status is again.status is AcceptStatus.ACCEPTED
    assert len(desk.lane()) == 1
    assert desk.account() == (1, 0, 0, 1)
    # The repetition took none of the client's two places.
    assert desk.ledger.accept(acceptance("b"), limit).status is AcceptStatus.ACCEPTED


def test_the_same_id_is_a_duplicate_or_a_conflict_by_its_content(desk: Desk) -> None:
    desk.accept("a", sha256="1" * 64)
    desk.claim()

    same = desk.accept("a", sha256="1" * 64)
    other = desk.accept("a", sha256="2" * 64, body=b'{"n":2}')

    assert (same.status, same.state, same.type) == (AcceptStatus.DUPLICATE, State.RUNNING, "demo")
    assert (other.status, other.state) == (AcceptStatus.CONFLICT, State.RUNNING)
    assert desk.record().body == b'{"n":1}'
    assert desk.account() == (1, 0, 0, 1)
    assert desk.lane() == []


@pytest.mark.parametrize(("body", "status"), [(b"{}", AcceptStatus.DUPLICATE), (b"[]", AcceptStatus.CONFLICT)])
def test_a_replay_of_a_forgotten_message_is_compared_by_its_bytes(
    desk: Desk, body: bytes, status: AcceptStatus
) -> None:
    desk.ledger.forward(order("a", 5, body=b"{}"))

    assert desk.accept("a", body=body).status is status


def test_a_message_for_later_waits_for_its_time_and_not_longer(desk: Desk) -> None:
    assert desk.accept("a", not_before_ms=START_MS + 500).state is State.SCHEDULED
    assert desk.lane() == []
    assert desk.record().due_at_ms == START_MS + 500

    desk.wait(499)
    assert (desk.ledger.due().moved, desk.record().state) == (0, State.SCHEDULED)
    desk.wait(1)
    assert (desk.ledger.due().moved, desk.record().state) == (1, State.QUEUED)
    assert desk.claim_only().message_id == "a"


def test_a_time_that_is_over_is_no_reason_to_wait(desk: Desk) -> None:
    assert desk.accept("a", not_before_ms=START_MS).state is State.QUEUED


@pytest.mark.parametrize(
    "wrong",
    [
        {"message_id": "a b"},
        {"message_id": ""},
        {"message_id": "x" * 65},
        {"message_id": 'a"],0]'},
        {"priority": "alone"},
        {"type": ""},
        {"accept_token": ""},
        {"not_before_ms": -1},
        {"max_retries": -1},
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_written(desk: Desk, wrong: dict[str, Any]) -> None:
    before = set(desk.client.keys())
    with pytest.raises(LedgerRefused):
        desk.accept(**{"message_id": "a", **wrong})
    assert set(desk.client.keys()) == before


def test_many_are_accepted_in_order_and_one_refusal_touches_no_other(desk: Desk) -> None:
    desk.accept("m1", sha256="9" * 64)
    answers = desk.ledger.accept_many([acceptance(f"m{number}") for number in range(300)])

    assert [answer.message_id for answer in answers] == [f"m{number}" for number in range(300)]
    assert [answer.status for answer in answers].count(AcceptStatus.ACCEPTED) == 299
    assert answers[1].status is AcceptStatus.CONFLICT
    assert len(desk.lane()) == 300
    assert desk.account() == (300, 0, 0, 300)


def test_a_group_gets_an_answer_for_each_of_its_requests(desk: Desk) -> None:
    limit = RateLimit(client="c", limit=2)
    first = acceptance("a")
    answers = desk.ledger.accept_group(
        [
            (first, limit),
            (acceptance("a" * 65), None),
            (acceptance("a", sha256="9" * 64), limit),
            (acceptance("b"), limit),
            (acceptance("b"), None),
            (first, limit),
        ]
    )

    refused = answers.pop(1)
    assert isinstance(refused, LedgerRefused)
    told = [
        (answer.status, answer.rate and answer.rate.remaining)
        for answer in answers
        if not isinstance(answer, LedgerRefused)
    ]
    assert told == [("accepted", 1), ("conflict", 0), ("throttled", 0), ("accepted", None), ("accepted", None)]
    assert desk.account() == (2, 0, 0, 2)
    assert desk.ledger.accept_group([]) == []


def test_an_id_accepted_anew_gets_an_epoch_above_its_former_ones(desk: Desk) -> None:
    first = desk.bury("a")
    desk.ledger.forward(order("a", first + 1))
    desk.kill("a")
    desk.client.delete("dlq:msg:a", "dlq:body:a", "dlq:story:a")

    desk.wait(86_400_000)
    desk.accept("a")
    assert desk.record().epoch == desk.now > first + 1


def test_epochs_never_go_back_when_the_clock_does(desk: Desk) -> None:
    desk.accept("a")
    desk.at(START_MS - 5000)
    desk.accept("b")
    assert desk.record("b").epoch == START_MS


# -- limits


def test_a_limit_holds_in_every_window_and_says_when_it_ends(desk: Desk) -> None:
    limit = RateLimit(client="c", limit=3, window_ms=1000)

    def ask() -> tuple[AcceptStatus, int, int]:
        answer = desk.ledger.accept(acceptance(f"m{desk.now}"), limit)
        assert answer.rate is not None
        return answer.status, answer.rate.remaining, answer.rate.reset_ms

    assert ask() == (AcceptStatus.ACCEPTED, 2, 0)
    desk.wait(400)
    assert ask() == (AcceptStatus.ACCEPTED, 1, 0)
    desk.wait(400)
    assert ask() == (AcceptStatus.ACCEPTED, 0, 200)
    desk.wait(199)
    assert ask() == (AcceptStatus.THROTTLED, 0, 1)
    assert desk.ledger.get(f"m{desk.now}") is None
    desk.wait(1)
    assert ask() == (AcceptStatus.ACCEPTED, 0, 400)


def test_refusals_do_not_prolong_a_limit(desk: Desk) -> None:
    limit = RateLimit(client="c", limit=1, window_ms=1000)
    assert desk.ledger.throttle(limit)[0]
    for _ in range(5):
        desk.wait(190)
        assert not desk.ledger.throttle(limit)[0]
    desk.wait(50)
    assert desk.ledger.throttle(limit)[0]


def test_limits_are_each_clients_own(desk: Desk) -> None:
    assert desk.ledger.throttle(RateLimit(client="c", limit=1))[0]
    assert desk.ledger.throttle(RateLimit(client="d", limit=1))[0]
    allowed, rate = desk.ledger.throttle(RateLimit(client="c", limit=1))
    assert (allowed, rate.limit, rate.remaining, rate.reset_ms) == (False, 1, 0, 60_000)


# -- figures and accounts


def test_figures_count_each_message_where_it_is(desk: Desk) -> None:
    desk.accept("late", not_before_ms=START_MS + 60_000)
    desk.accept("run")
    (running,) = desk.claim()
    desk.accept("retry")
    desk.fail("retry", desk.claim_only().fence, 500)
    desk.accept("gone")
    desk.kill("gone")
    desk.wait(10_000)
    desk.accept("wait", priority="low")

    figures = desk.ledger.figures()
    assert (figures.scheduled, figures.retry_wait, figures.running, figures.overdue) == (1, 1, 1, 1)
    assert (figures.outbox, figures.outbox_oldest_ms, figures.quarantined) == (1, START_MS, 0)
    lanes = {lane.name: (lane.waiting, lane.oldest_ms) for lane in figures.lanes}
    assert lanes == {"high": (0, None), "normal": (0, None), "low": (1, desk.now), "alone": (0, None)}
    assert running.message_id == "run"


def test_accounts_are_kept_by_day_and_type_of_acceptance(desk: Desk) -> None:
    desk.accept("a", type="demo")
    desk.accept("b", type="http.deliver")
    desk.wait(86_400_000)
    for claimed in desk.claim():
        desk.complete(claimed.message_id, claimed.fence)
    desk.accept("c", type="demo")

    rows = [(row.day, row.type, row.accepted, row.done, row.dead, row.open) for row in desk.ledger.accounting(2)]
    assert rows == [
        ("20270115", "demo", 1, 1, 0, 0),
        ("20270115", "http.deliver", 1, 1, 0, 0),
        ("20270116", "demo", 1, 0, 0, 1),
    ]
    assert [row.day for row in desk.ledger.accounting(1)] == ["20270116"]
    assert 0 < desk.client.ttl("dlq:acct:20270115:demo") <= 400 * 86400


def test_accounts_that_have_expired_leave_the_index(desk: Desk) -> None:
    desk.accept("a", type="old")
    desk.accept("b", type="demo")
    ended = desk.claim()
    desk.wait(401 * 86_400_000)
    desk.client.delete("dlq:acct:20270115:old")  # expired; the other one had a message that ended later
    desk.accept("c", type="new")

    assert desk.ledger.forget_accounts() == 1

    assert desk.client.smembers("dlq:acct:index") == {b"20270115:demo", b"20280220:new"}
    assert desk.client.smembers("dlq:acct:types") == {b"demo", b"new"}
    for claimed in ended:  # after more than a year: its account comes back, and the index with it
        desk.complete(claimed.message_id, claimed.fence)
    assert b"20270115:old" in desk.client.smembers("dlq:acct:index")
    assert all(row.wrong == 0 for row in desk.ledger.accounting(500))
    assert desk.ledger.forget_accounts() == 0


@pytest.mark.parametrize("moment", ["1970-01-01", "1999-12-31", "2000-02-29", "2027-01-15", "2100-03-01", "2096-02-29"])
def test_days_are_those_of_the_calendar(desk: Desk, moment: str) -> None:
    at = datetime.fromisoformat(moment).replace(hour=23, minute=59, second=59, microsecond=999_000, tzinfo=UTC)
    desk.at(int(at.timestamp() * 1000))
    desk.accept("a")
    assert desk.record().acct_day == moment.replace("-", "")
    (job,) = desk.lane()
    found = WakeUpJob.fetch(job.decode(), connection=desk.client)
    assert (found.created_at.isoformat(), found.enqueued_at) == (f"{moment}T23:59:59.999000+00:00", found.created_at)


# -- the server


def test_an_unknown_script_is_taught_and_run(redis_client: redis.Redis) -> None:
    ledger = Ledger(redis_client)
    ledger.accept(acceptance("a"))
    redis_client.script_flush()
    assert ledger.accept(acceptance("b")).status is AcceptStatus.ACCEPTED
    redis_client.script_flush()
    assert [answer.status for answer in ledger.accept_many([acceptance("c"), acceptance("d")])] == ["accepted"] * 2
    assert len(redis_client.lrange("rq:queue:normal", 0, -1)) == 4


def test_the_clock_is_the_servers(redis_client: redis.Redis) -> None:
    seconds, _ = redis_client.time()
    assert abs(Ledger(redis_client).now_ms() - seconds * 1000) < 5000


def test_an_acceptance_can_wait_for_the_disk(redis_client: redis.Redis) -> None:
    ledger = Ledger(redis_client, terms=Terms(fsync_timeout_ms=3000))
    assert [answer.status for answer in ledger.accept_many([acceptance("a"), acceptance("b")])] == ["accepted"] * 2


def test_an_acceptance_that_is_not_on_disk_is_not_confirmed(redis_client: redis.Redis) -> None:
    ledger = Ledger(redis_client, terms=Terms(fsync_timeout_ms=50))
    redis_client.config_set("appendonly", "no")
    try:
        with pytest.raises(StoreUnavailable):
            ledger.accept(acceptance("a"))
    finally:
        redis_client.config_set("appendonly", "yes")


def test_a_server_that_may_lose_messages_is_named(redis_client: redis.Redis) -> None:
    ledger = Ledger(redis_client)
    assert ledger.require_safe_redis() == []
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    redis_client.config_set("appendonly", "no")
    try:
        assert [problem.fix for problem in ledger.require_safe_redis()] == [
            "Set appendonly yes.",
            "Set maxmemory-policy noeviction.",
        ]
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")
        redis_client.config_set("appendonly", "yes")


def test_a_full_server_takes_nothing_and_keeps_nothing_half(desk: Desk) -> None:
    desk.accept("a")
    before = {key: desk.client.dump(key) for key in desk.client.scan_iter()}
    desk.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailable) as refused:
            desk.accept("b")
        assert isinstance(refused.value.__cause__, redis.RedisError)
        with pytest.raises(StoreUnavailable):
            desk.ledger.accept(acceptance("b"), RateLimit(client="c", limit=1))
        with pytest.raises(StoreUnavailable):
            desk.claim()
    finally:
        desk.client.config_set("maxmemory", 0)
    assert {key: desk.client.dump(key) for key in desk.client.scan_iter()} == before
    assert desk.claim_only().message_id == "a"


def test_the_story_is_one_line_of_json_and_one_for_each_attempt(desk: Desk) -> None:
    desk.accept("a", source='quote " and \n break')
    desk.fail("a", desk.claim_only().fence)
    story = desk.client.get("dlq:story:a")
    assert story is not None
    accepted, attempt = story.split(b"\n")
    assert json.loads(accepted)["source"] == 'quote " and \n break'
    assert json.loads(attempt) == {"number": 1}
    assert desk.record().source == 'quote " and \n break'


def test_of_what_is_done_little_is_kept_after_an_hour(desk: Desk) -> None:
    desk.accept("a", client="key:shop", tags='["t"]')
    desk.complete("a", desk.claim_only().fence)
    desk.bury("dead")
    desk.wait(3_600_000)
    assert desk.ledger.expire_payloads(10) == 1
    assert not desk.client.exists("dlq:story:a", "dlq:body:a")

    record = desk.record("a")
    assert (record.state, record.type, record.client, record.attempt) == (State.DONE, "demo", "key:shop", 0)
    assert (record.tags, record.attempts, record.body) == ("[]", "", None)
    assert json.loads(status_body(record, None))["data"]["status"] == "done"
    assert desk.accept("a", client="key:shop").status is AcceptStatus.DUPLICATE
    assert desk.client.pttl("dlq:story:dead") > 3_600_000


def test_a_replay_that_is_done_keeps_its_client_and_nothing_of_its_story(desk: Desk) -> None:
    epoch = desk.bury("a") + 1
    desk.ledger.forward(order("a", epoch, client="key:shop"))
    desk.complete("a", desk.claim_only().fence)
    desk.ledger.drained([("a", epoch, "settle")])
    assert 0 < desk.client.pttl("dlq:story:a") <= 3_600_000
    desk.client.delete("dlq:story:a")  # as an hour later

    assert desk.record("a").client == "key:shop"
    assert desk.ledger.resettle("a", epoch)
    (entry,) = desk.ledger.outbox()
    assert settled_of(entry.record).attempts == []
