"""Retry decisions and the policy that they follow."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from messages_app import conf
from messages_app.domain.retry_policy import GiveUp, RetryAt, RetryPolicies, RetryPolicy, decide
from messages_app.failures import ErrorKind
from messages_app.work.runner import classified
from wire.errors import PolicyError

POLICY = RetryPolicy()


def half() -> float:
    return 0.5


@pytest.mark.parametrize("attempt", [1, 2, 3, 4])
def test_a_permanent_failure_is_given_up_at_once(attempt: int) -> None:
    assert decide(attempt, ErrorKind.PERMANENT, POLICY, half) == GiveUp("permanent")


@pytest.mark.parametrize("kind", [ErrorKind.TRANSIENT, ErrorKind.UNKNOWN])
def test_three_retries_make_four_attempts(kind: ErrorKind) -> None:
    decisions = [decide(attempt, kind, POLICY, half) for attempt in (1, 2, 3, 4)]

    assert decisions == [RetryAt(1000), RetryAt(2000), RetryAt(4000), GiveUp("exhausted")]


def test_a_message_that_allows_no_retry_is_given_up_after_one_attempt() -> None:
    assert decide(1, ErrorKind.TRANSIENT, POLICY, half, max_retries=0) == GiveUp("exhausted")


@pytest.mark.parametrize(("wish", "delay"), [(None, 1000), (200, 1000), (45_000, 45_000), (10**9, 3_600_000)])
def test_a_longer_wish_of_the_downstream_wins_within_its_bound(wish: int | None, delay: int) -> None:
    assert decide(1, ErrorKind.TRANSIENT, POLICY, half, wish) == RetryAt(delay)


@given(
    attempt=st.integers(1, 30),
    kind=st.sampled_from(list(ErrorKind)),
    roll=st.floats(0, 1, exclude_max=True),
    wish=st.none() | st.integers(0, 10**12),
)
def test_every_failure_is_retried_within_bounds_or_given_up(
    attempt: int, kind: ErrorKind, roll: float, wish: int | None
) -> None:
    decision = decide(attempt, kind, POLICY, lambda: roll, wish)

    if kind is ErrorKind.PERMANENT or attempt > 3:
        assert isinstance(decision, GiveUp)
    else:
        assert isinstance(decision, RetryAt)
        assert min(wish or 0, POLICY.max_retry_after_ms) <= decision.delay_ms
        assert decision.delay_ms <= max(POLICY.max_delay_ms, min(wish or 0, POLICY.max_retry_after_ms))


def test_a_type_says_only_what_differs() -> None:
    policies = RetryPolicies.from_mapping(
        {"default": {"max_delay_ms": 9000}, "types": {"order.created": {"max_retries": 5}}}, file="retry.toml"
    )

    assert policies.of("order.created") == RetryPolicy(max_delay_ms=9000, max_retries=5)
    assert policies.of("other") == RetryPolicy(max_delay_ms=9000)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"default": {"max_retries": 21}}, ["retry.toml [default]", "max_retries = 21", "0 to 20"]),
        ({"default": {"max_retries": 2.5}}, ["max_retries = 2.5", "a whole number"]),
        ({"default": {"max_retries": True}}, ["max_retries = True"]),
        ({"default": {"jitter": float("nan")}}, ["jitter = nan", "0 to 1"]),
        ({"default": {"base_delay_ms": "1s"}}, ["base_delay_ms = '1s'"]),
        ({"default": {"max_retry": 3}}, ["unknown key 'max_retry'", "max_retries"]),
        ({"types": {"x": {"factor": 0}}}, ['retry.toml [types."x"]', "factor = 0", "1 to 10"]),
        ({"types": {"x": 3}}, ["x = 3", "a table"]),
        ({"defaults": {}}, ["unknown table 'defaults'"]),
    ],
)
def test_it_names_file_key_value_and_range(values: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        RetryPolicies.from_mapping(values, file="retry.toml")

    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_the_shipped_file_is_the_default_policy() -> None:
    assert conf.retry_policy("demo") == RetryPolicy()


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("RETRY_POLICY", {"default": {"jitter": 2}}, "messages_app.E001"),
        ("RETRY_POLICY", {"types": {"nobody.handles": {"max_retries": 1}}}, "messages_app.W001"),
        ("RETRY_POLICY", {"error_types": {"some.Class": "not a type"}}, "messages_app.E001"),
        ("RETRY_POLICY", {"error_types": {"Class": "SOME_ERROR"}}, "messages_app.E001"),
        ("RETRY_POLICY", {"error_kinds": {"SOME_ERROR": "temporary"}}, "messages_app.E001"),
        ("RETRY_POLICY", {"error_kinds": {"some": "transient"}}, "messages_app.E001"),
        ("ERROR_TYPES", {"some.Class": "not a type"}, "messages_app.E002"),
        ("ERROR_KINDS", {"SOME_ERROR": "temporary"}, "messages_app.E002"),
        ("WORKER_CONCURRENCY", 0, "messages_app.E003"),
    ],
)
def test_configuration_mistakes_are_system_checks(setting: str, value: object, expected: str) -> None:
    assert expected not in [message.id for message in run_checks(tags=["messages_app"])]

    with override_settings(**{setting: value}):
        assert expected in [message.id for message in run_checks(tags=["messages_app"])]


def test_a_policy_classifies_exceptions_of_libraries(settings: Settings) -> None:
    settings.RETRY_POLICY = {
        "error_types": {"builtins.LookupError": "SOLD_OUT"},
        "error_kinds": {"SOLD_OUT": "permanent"},
    }

    failure = classified(KeyError("shoe"))
    assert (failure.error_type, failure.kind) == ("SOLD_OUT", ErrorKind.PERMANENT)

    settings.ERROR_TYPES = {"builtins.KeyError": "OTHER"}
    assert classified(KeyError("shoe")).error_type == "OTHER"
