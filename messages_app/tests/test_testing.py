"""What developers test their handlers with says what a worker would do."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.db import transaction
from pytest_django import Settings

from messages_app.envelope import Message
from messages_app.failures import ErrorKind, HandlerError, NotFoundError, RateLimitError, TransientError
from messages_app.testing import Outcome, a_message, run
from messages_app.tests.handling import a_claimed, handling
from messages_app.work.runner import Attempt, Runner


def outcome_of(function: Any, payload: Any = None, **options: Any) -> Outcome:
    with handling(function, **options) as type:
        return run(a_message(type, payload))


def raising(error: BaseException) -> Any:
    def function(message: Message) -> None:
        raise error

    return function


def test_a_message_is_as_a_worker_makes_it() -> None:
    with handling(lambda message: None, timeout=7) as type:
        message = a_message(type, {"price": 1.5, "lines": (1, 2)}, priority="high", tags=("a",))

    assert message.payload == {"price": 1.5, "lines": [1, 2]}
    assert json.loads(message.text) == message.payload
    assert (message.attempt, message.source, message.priority, message.tags) == (1, "api", "high", ("a",))
    assert message.idempotency_key == message.id
    assert 6 < (message.deadline - datetime.now(UTC)).total_seconds() <= 7


@pytest.mark.parametrize("payload", [{1j}, float("nan"), datetime.now(UTC)], ids=["set", "nan", "datetime"])
def test_a_payload_that_cannot_be_submitted_is_refused(payload: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        a_message("x", payload)


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="customer"):
        a_message("x", customer=1)


def test_a_handler_that_returns_is_done() -> None:
    done = outcome_of(lambda message: {"order": message.payload["order"]}, {"order": 7}, breaker="orders-db")

    assert done == Outcome(outcome="done", result={"order": 7}, breaker="orders-db")
    assert not done.is_letter
    assert outcome_of(lambda message: None).result is None


@pytest.mark.parametrize(
    ("error", "outcome", "error_type", "delay_ms"),
    [
        (TransientError("busy"), "transient", "SERVICE_UNAVAILABLE", 1000),
        (RateLimitError("slower", retry_after=60), "transient", "RATE_LIMIT_ERROR", 60_000),
        (NotFoundError("no order"), "permanent", "NOT_FOUND_ERROR", None),
        (HandlerError("x", error_type="BANK_CLOSED", kind=ErrorKind.TRANSIENT), "transient", "BANK_CLOSED", 1000),
        (ConnectionResetError("reset"), "transient", "NETWORK_ERROR", 1000),
        (KeyError("order"), "unknown", "UNKNOWN_ERROR", 1000),
        (SystemExit(3), "unknown", "UNKNOWN_ERROR", 1000),
    ],
)
def test_a_failure_has_the_type_and_kind_that_a_worker_finds(
    error: BaseException, outcome: str, error_type: str, delay_ms: int | None
) -> None:
    found = outcome_of(raising(error))

    assert (found.outcome, found.error_type, found.retry_delay_ms) == (outcome, error_type, delay_ms)
    assert found.is_letter == (delay_ms is None)
    assert str(error) in found.reason
    assert "test_testing.py" in found.stack


def test_the_last_attempt_makes_a_letter(settings: Settings) -> None:
    settings.RETRY_POLICY = {"types": {"test.type": {"max_retries": 1}}}
    with handling(raising(TransientError("busy"))) as type:
        first, last = (run(a_message(type, attempt=number)) for number in (1, 2))

    assert (first.retry_delay_ms, first.is_letter) == (1000, False)
    assert (last.retry_delay_ms, last.is_letter) == (None, True)


def test_a_handler_is_interrupted_at_its_limit() -> None:
    def endless(message: Message) -> None:
        while True:
            pass

    late = outcome_of(endless, timeout=0.1)

    assert (late.outcome, late.error_type) == ("transient", "TIMEOUT_ERROR")


def test_a_coroutine_is_run_to_its_end() -> None:
    async def handle(message: Message) -> str:
        await asyncio.sleep(0)
        return "later"

    assert outcome_of(handle).result == "later"


def test_work_that_never_ran_is_no_success() -> None:
    assert outcome_of(lambda message: (n for n in (1, 2))).outcome == "unknown"


def test_an_unknown_type_is_named() -> None:
    missing = run(a_message("shop.nobody"))

    assert (missing.outcome, missing.error_type) == ("permanent", "UNKNOWN_TYPE")
    assert "'shop.nobody'; there are" in missing.reason


@pytest.mark.django_db
def test_a_handler_writes_inside_the_transaction_of_the_test() -> None:
    assert outcome_of(lambda message: Group.objects.create(name="shop").name).result == "shop"
    assert Group.objects.filter(name="shop").exists()
    assert transaction.get_connection().in_atomic_block


def test_it_agrees_with_a_worker() -> None:
    """Both through the same code: the type, the kind and the delay of each are the same."""
    for error in (TransientError("busy", retry_after=9), NotFoundError("x"), ValueError("y"), TimeoutError()):
        with handling(raising(error)) as type:
            ours = run(a_message(type))
            theirs = Runner("w-1", lambda: 0.5).run(Attempt(a_claimed(type=type), time.monotonic()))

        failed = json.loads(theirs.error)  # type: ignore[union-attr]
        assert (failed["errorType"], failed["errorKind"]) == (ours.error_type, ours.outcome)
        assert theirs.delay_ms == ours.retry_delay_ms  # type: ignore[union-attr]
