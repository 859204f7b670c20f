"""Handlers behind a circuit breaker."""

from __future__ import annotations

import contextlib
import io
import json
import time
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django_rq.management.commands import rqworker
from pytest_django import Settings

from breaker_app.breaker import CircuitBreaker, Permit, State
from breaker_app.conf import breaker_for, known_names, policy_for
from messages_app.domain.clients import Client
from messages_app.domain.records import Completed, Deferred, Failed, Outcome
from messages_app.domain.slow_calls import SLOW_S, SlowCallLimit
from messages_app.envelope import Message
from messages_app.failures import PermanentError, TransientError
from messages_app.rest import intake
from messages_app.rest.replies import Reply
from messages_app.services import IntakePort
from messages_app.tests.handling import a_claimed, handling
from messages_app.work.protection import Protection, announce_breakers, open_for_ms
from messages_app.work.runner import MAX_HELD_MS, Attempt, Runner

pytestmark = pytest.mark.redis


@pytest.fixture
def breaker(redis_client: redis.Redis) -> CircuitBreaker:
    return breaker_for("orders-db")


def run(type: str, *, roll: float = 0.5, **differing: Any) -> Outcome | None:
    attempt = Attempt(a_claimed(type=type, **differing), time.monotonic())
    outcome = Runner("w-1", lambda: roll).run(attempt)
    if outcome is not None and outcome.call_report is not None:
        outcome.call_report.send()
    return outcome


def raising(error: Exception) -> Any:
    def function(message: Message) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "counted"),
    [
        (None, (1, 0)),
        (TransientError("later"), (1, 1)),
        (TimeoutError("slow"), (1, 1)),
        (RuntimeError("odd"), (1, 1)),
        (PermanentError("never"), (0, 0)),
        (PermissionError("no"), (0, 0)),
    ],
)
def test_what_the_downstream_is_blamed_for(
    breaker: CircuitBreaker, error: Exception | None, counted: tuple[int, int]
) -> None:
    with handling(raising(error) if error else lambda message: None, breaker="orders-db") as type:
        run(type)

    seen = breaker.peek()
    assert (seen.total, seen.failures) == counted


def test_a_refused_message_waits_and_keeps_its_retries(breaker: CircuitBreaker) -> None:
    breaker.force(State.OPEN, actor="user:olga", reason="test")
    ran: list[Message] = []

    with handling(ran.append, breaker="orders-db") as type:
        outcome = run(type, roll=0.5)

    assert isinstance(outcome, Deferred)
    assert ran == []
    assert (outcome.why, outcome.attempt_json) == ("breaker", "")
    assert 36_500 < outcome.delay_ms <= 37_500


def test_while_forced_open_it_waits_for_the_breakers_own_period(breaker: CircuitBreaker) -> None:
    breaker.force(State.FORCED_OPEN, actor="user:olga", reason="test")

    with handling(lambda message: None, breaker="orders-db") as type:
        outcome = run(type, roll=0)

    assert isinstance(outcome, Deferred)
    assert outcome.delay_ms == 30_000
    assert open_for_ms("orders-db") == 30_000


@pytest.mark.parametrize(
    ("state", "retry_after_ms", "roll", "wait_ms"),
    [
        (State.OPEN, 400, 0.0, 1_000),
        (State.OPEN, 29_000, 0.0, 29_000),
        (State.OPEN, 29_000, 1.0, 44_000),
        (State.HALF_OPEN, 10, 0.0, 1_000),
        (State.HALF_OPEN, 10_000, 0.5, 17_500),
        (State.HALF_OPEN, 59_999, 0.0, 30_000),
        (State.FORCED_OPEN, -1, 1.0, 45_000),
    ],
)
def test_how_long_a_refused_message_waits(
    breaker: CircuitBreaker, state: State, retry_after_ms: int, roll: float, wait_ms: int
) -> None:
    guard = Protection("orders-db", Attempt(a_claimed(), time.monotonic()))
    guard._permit = Permit(False, state, 1, retry_after_ms, "t")

    assert guard.wait_ms(lambda: roll) == wait_ms


def test_after_a_day_of_refusals_a_message_is_given_up(breaker: CircuitBreaker) -> None:
    breaker.force(State.FORCED_OPEN, actor="user:olga", reason="test")
    claimed_at = a_claimed().claimed_at_ms

    with handling(lambda message: None, breaker="orders-db") as type:
        held = run(type, deferred_since_ms=claimed_at - MAX_HELD_MS)
        given_up = run(type, deferred_since_ms=claimed_at - MAX_HELD_MS - 1)

    assert isinstance(held, Deferred)
    assert isinstance(given_up, Failed)
    assert given_up.delay_ms is None
    assert '"errorType":"CIRCUIT_OPEN_TOO_LONG"' in given_up.error


def test_what_hangs_is_held_back_unspent_and_leaves_threads_to_others(breaker: CircuitBreaker) -> None:
    slow_calls = SlowCallLimit(2)
    slow_calls.enter("orders-db")
    slow_calls.leave("orders-db", failed=True, took_s=SLOW_S)
    slow_calls.enter("orders-db")  # one thread is in a call
    runner = Runner("w-1", lambda: 0.5, slow_calls=slow_calls)
    ran: list[str] = []

    def outcome_of(type: str) -> Outcome | None:
        return runner.run(Attempt(a_claimed(type=type), time.monotonic()))

    with handling(lambda message: ran.append(message.type), breaker="orders-db") as type:
        held = outcome_of(type)
        with handling(lambda message: ran.append(message.type), type="test.other", breaker="mail") as other:
            assert isinstance(outcome_of(other), Completed)
        slow_calls.leave("orders-db")
        assert isinstance(outcome_of(type), Completed)

    assert isinstance(held, Deferred)
    assert (held.why, held.delay_ms, held.attempt_json, held.call_report) == ("breaker", 3_000, "", None)
    assert ran == ["test.other", "test.type"]


@pytest.mark.parametrize("ends", ["returns", "fails", "is refused", "breaks"])
def test_every_place_is_left_again(breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    slow_calls = SlowCallLimit(4)
    if ends == "is refused":
        breaker.force(State.FORCED_OPEN, actor="user:olga", reason="test")
    if ends == "breaks":
        monkeypatch.setattr("messages_app.attempt.report.result", raising(RuntimeError("ours")))
    handler = raising(TransientError("down")) if ends == "fails" else lambda message: None

    with handling(handler, breaker="orders-db") as type, contextlib.suppress(RuntimeError):
        Runner("w-1", slow_calls=slow_calls).run(Attempt(a_claimed(type=type), time.monotonic()))

    assert slow_calls._running == {}


def test_while_the_store_is_away_the_process_protects_what_fails_by_itself(settings: Settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    calls: list[str] = []

    def fails(message: Message) -> None:
        calls.append(message.id)
        raise TransientError("down")

    with handling(fails, breaker="orders-db") as type:
        outcomes = [run(type, roll=0, message_id=f"m{number}") for number in range(14)]

    assert calls == [f"m{number}" for number in range(10)]
    assert all(isinstance(outcome, Failed) for outcome in outcomes[:10])
    held = outcomes[10:]
    assert all(isinstance(outcome, Deferred) and outcome.why == "breaker" for outcome in held)
    assert all(isinstance(outcome, Deferred) and outcome.attempt_json == "" for outcome in held), "no attempt is spent"


def test_a_closed_breaker_lets_everything_through(breaker: CircuitBreaker) -> None:
    with handling(lambda message: "ok", breaker="orders-db") as type:
        assert isinstance(run(type), Completed)

    assert open_for_ms("orders-db") is None


def test_a_time_out_counts_against_the_downstream_and_a_shutdown_does_not(breaker: CircuitBreaker) -> None:
    for why, counted in (("shutdown", (0, 0)), ("timeout", (1, 1))):
        current: list[Attempt] = []

        def cut(message: Message, why: str = why, current: list[Attempt] = current) -> None:
            assert current[0].interrupt(why)
            while True:
                time.sleep(0.001)

        with handling(cut, breaker="orders-db") as type:
            current.append(Attempt(a_claimed(type=type, message_id=why), time.monotonic()))
            outcome = Runner("w-1").run(current[0])
        assert outcome is not None
        assert outcome.call_report is not None
        outcome.call_report.send()
        seen = breaker.peek()
        assert (seen.total, seen.failures) == counted


def by_destination(payload: Any) -> str:
    return f"to:{payload['to']}"


def test_each_destination_has_a_breaker_of_its_own(redis_client: redis.Redis) -> None:
    breaker_for("to:a").force(State.OPEN, actor="user:olga", reason="test")
    port = IntakePort()

    with handling(lambda message: None, breaker=by_destination, breakers=lambda: ("to:a", "to:b")) as type:
        outcomes = {to: run(type, body=b'{"to":"%s"}' % to.encode()) for to in ("a", "b", "c")}
        waits = {to: port.retry_after_ms(type, b'{"to":"%s"}' % to.encode()) for to in ("a", "b", "c")}
        named = [port.breaker_of(type, body) for body in (b'{"to":"b"}', b"{", b"[]")]

    assert isinstance(outcomes["a"], Deferred)
    assert isinstance(outcomes["b"], Completed)
    assert isinstance(outcomes["c"], Completed)
    assert waits["a"] is not None
    assert 29_000 < waits["a"] <= 30_000
    assert (waits["b"], waits["c"]) == (None, None)
    assert named == ["to:b", None, None]


def test_every_name_that_can_be_chosen_is_announced(redis_client: redis.Redis) -> None:
    with handling(lambda message: None, breaker=by_destination, breakers=lambda: ("to:a", "to:b"), timeout=70):
        announce_breakers()

    assert {"to:a", "to:b"} <= set(known_names())
    assert policy_for("to:b").permit_lease_ms == 80_000


def test_rqs_own_worker_leases_probes_for_as_long_as_its_handlers_may_take(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases: list[int] = []
    monkeypatch.setattr(
        rqworker.Command, "handle", lambda *_, **__: leases.append(policy_for("slow-api").permit_lease_ms)
    )

    with handling(lambda message: None, breaker="slow-api", timeout=70):
        call_command("rqworker")

    assert leases == [80_000]
    assert "slow-api" in known_names()


def test_intake_refuses_only_what_goes_to_the_destination_that_fails(redis_client: redis.Redis) -> None:
    breaker_for("to:x").force(State.OPEN, actor="user:olga", reason="test")

    with handling(lambda message: None, breaker=by_destination, breakers=lambda: ("to:x", "to:y")) as type:
        for to, status in (("x", 503), ("y", 202)):
            reply = submit(type, to)
            assert reply.status == status, reply.body


def submit(type: str, to: str) -> Reply:
    body = json.dumps({"type": type, "payload": {"to": to}}).encode()
    head = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
    return intake.submit(head, io.BytesIO(body).read, Client(label="key:test", rate_key="test"))


def test_a_breaker_forced_open_is_not_reported_as_failing(redis_client: redis.Redis) -> None:
    breaker_for("to:forced").force(State.FORCED_OPEN, actor="user:olga", reason="test")

    with handling(lambda message: None, breaker=by_destination, breakers=lambda: ("to:forced",)) as type:
        reply = submit(type, "forced")

    problem = json.loads(reply.body)
    assert (reply.status, problem["code"]) == (503, "circuit_open")
    assert dict(reply.headers)["Retry-After"] == "30"
    assert "breaker to:forced is open, so test.type messages are rejected; try again in 30 s." in problem["detail"]
    assert "GET /api/breakers/to:forced shows why" in problem["detail"]
