"""The demo handler."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from pytest_django import Settings

from messages_app import failures, registry
from messages_app.domain.errors import MessageInvalid
from messages_app.domain.parsing import parse_envelope
from messages_app.envelope import Message
from messages_app.handlers import demo
from messages_app.rest.validation import check


def a_message(payload: Any, *, prior_runs: int = 0, seconds: float = 30) -> Message:
    now = datetime.now(UTC)
    return Message(
        id="m1", type="demo", payload=payload, attempt=1, prior_runs=prior_runs, queued_at=now,
        deadline=now + timedelta(seconds=seconds), idempotency_key="m1",
    )  # fmt: skip


def the_failure(payload: Any, **more: Any) -> failures.Failure:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what the tests look at
        demo(a_message(payload, **more))
    return failures.classify(caught.value)


@pytest.mark.parametrize("payload", [{}, {"event": "paid", "n": 1}, [1, 2], "text", 5, None, {"simulateError": False}])
def test_payloads_that_ask_for_nothing_succeed(payload: Any) -> None:
    assert demo(a_message(payload)) == {"processed": True}


@pytest.mark.parametrize("error_type", sorted(failures.KINDS))
def test_it_fails_as_told(error_type: str) -> None:
    failure = the_failure({"simulateError": True, "errorType": error_type})

    assert (failure.error_type, failure.kind) == (error_type, failures.KINDS[error_type])


def test_an_error_type_that_nobody_knows_is_an_unknown_error() -> None:
    failure = the_failure({"simulateError": True, "errorType": "MOON_PHASE", "errorMessage": "full moon"})

    assert failure.error_type == "UNKNOWN_ERROR"
    assert "full moon" in failure.reason


@pytest.mark.parametrize(("prior_runs", "fails"), [(0, True), (1, True), (2, False), (7, False)])
def test_fail_times_counts_runs_over_replays(prior_runs: int, fails: bool) -> None:
    payload = {"simulateError": True, "errorType": "NETWORK_ERROR", "failTimes": 2}

    if fails:
        assert the_failure(payload, prior_runs=prior_runs).error_type == "NETWORK_ERROR"
    else:
        assert demo(a_message(payload, prior_runs=prior_runs)) == {"processed": True}


def test_a_delay_ends_at_the_deadline() -> None:
    assert the_failure({"delayMs": 60_000}, seconds=0.01).error_type == "TIMEOUT_ERROR"


@pytest.mark.parametrize(
    "payload",
    [
        {"simulateError": "yes"},
        {"simulateError": 1},
        {"failTimes": -1},
        {"failTimes": 1.5},
        {"failTimes": True},
        {"delayMs": "100"},
        {"delayMs": -1},
        {"delayMs": 60_001},
        {"delayMs": 10**12},
        {"errorType": ["TIMEOUT_ERROR"]},
        {"errorMessage": {}},
    ],
)
def test_odd_values_are_a_validation_error(payload: dict[str, Any]) -> None:
    assert the_failure(payload).error_type == "VALIDATION_ERROR"


def test_switched_off_it_is_an_unknown_type_and_the_others_are_named(settings: Settings) -> None:
    settings.DEMO_HANDLER = False
    spec = registry.get("demo")
    assert spec is not None
    try:
        apps.get_app_config("messages_app").ready()

        with pytest.raises(MessageInvalid) as refused:
            check(parse_envelope('{"payload": 1}'))
    finally:
        registry._specs["demo"] = spec

    assert "demo has no handler; known types: http.deliver" in str(refused.value.errors)
