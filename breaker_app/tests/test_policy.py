"""The policy: what it accepts, what it says about mistakes, how names override it."""

from __future__ import annotations

import doctest
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as site
from pytest_django.fixtures import Settings
from redis import Redis

from breaker_app import conf, policy
from breaker_app.checks import check_policy
from breaker_app.policy import BreakerPolicy, WhenOpen
from wire.errors import PolicyError
from wire.policy import InvalidValue, UnknownKey


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    conf.forget()
    yield
    conf.forget()


def test_the_defaults() -> None:
    assert BreakerPolicy().wire == (500, 60, 10, 30_000, 10, 800, 60_000, 0)
    assert BreakerPolicy().when_open is WhenOpen.REJECT


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(policy).failed == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("failure_threshold", 0),
        ("failure_threshold", 1.001),
        ("failure_threshold", "0.5"),
        ("failure_threshold", True),
        ("failure_threshold", float("nan")),
        ("failure_threshold", None),
        ("time_window_ms", 0),
        ("time_window_ms", 1_500),
        ("time_window_ms", 601_000),
        ("minimum_requests", 0),
        ("minimum_requests", 1.0),
        ("open_timeout_ms", 0),
        ("half_open_max_requests", 0),
        ("half_open_max_requests", 1_001),
        ("half_open_success_threshold", -1),
        ("permit_lease_ms", 0),
        ("slow_call_ms", 0),
        ("when_open", "maybe"),
        ("when_open", []),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(key: str, value: Any) -> None:
    with pytest.raises(InvalidValue) as caught:
        BreakerPolicy.from_mapping({key: value})
    error = caught.value
    assert (error.key, error.where) == (key, "breaker policy")
    assert key in str(error)
    assert repr(value) in str(error)
    assert error.message in str(error)


@pytest.mark.parametrize("values", [{"slow_call_ms": 4_000}, {"slow_call_threshold": 0.5}])
def test_slow_calls_need_both_numbers(values: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="need each other"):
        BreakerPolicy.from_mapping(values)


def test_an_unknown_key_is_told_what_is_known() -> None:
    with pytest.raises(UnknownKey, match="failure_threshold, time_window_ms"):
        BreakerPolicy.from_mapping({"failureThreshold": 0.5})


def test_names_override_single_keys(settings: Settings) -> None:
    settings.BREAKER_POLICY = {
        "default": {"minimum_requests": 20, "open_timeout_ms": 5_000},
        "names": {"orders-db": {"open_timeout_ms": 1_000, "when_open": "hold"}},
    }
    orders, other = conf.policy_for("orders-db"), conf.policy_for("mail")
    assert (orders.minimum_requests, orders.open_timeout_ms, orders.when_open) == (20, 1_000, WhenOpen.HOLD)
    assert (other.minimum_requests, other.open_timeout_ms, other.when_open) == (20, 5_000, WhenOpen.REJECT)


@pytest.mark.redis
def test_a_lease_outlives_the_longest_handler(settings: Settings, redis_client: Redis) -> None:
    settings.BREAKER_POLICY = {}
    conf.announce({"orders-db": 30_000, "reports": 300_000})
    assert conf.policy_for("orders-db").permit_lease_ms == 60_000
    assert conf.breaker_for("reports").policy.permit_lease_ms == 310_000
    assert conf.policy_for("nobody").permit_lease_ms == 60_000


@pytest.mark.redis
def test_announced_names_are_known_to_every_process(settings: Settings, redis_client: Redis) -> None:
    settings.BREAKER_POLICY = {"names": {"z": {}}}
    conf.announce(["orders-db"])
    conf._longest_call_ms.clear()
    redis_client.sadd("cb:names", "not a name {}")
    assert conf.known_names() == ["orders-db", "z"]
    with pytest.raises(ValueError, match="not a breaker name"):
        conf.announce(["a b"])


def test_one_breaker_per_name_until_a_setting_changes(settings: Settings) -> None:
    settings.BREAKER_POLICY = {}
    first = conf.breaker_for("orders-db")
    assert conf.breaker_for("orders-db") is first
    assert conf.breaker_for("mail") is not first
    assert conf.breaker_for("orders-db", reuse_ms=250) is not first

    settings.BREAKER_POLICY = {"default": {"minimum_requests": 99}}
    assert conf.breaker_for("orders-db").policy.minimum_requests == 99


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, []),
        (
            {"default": {"minimum_requests": 0}},
            [("breaker_app.E001", "dlqsite/policies/breaker.toml [default]: minimum_requests")],
        ),
        (
            {"names": {"x": {"when_open": "no"}}},
            [("breaker_app.E001", 'dlqsite/policies/breaker.toml [names."x"]: when_open')],
        ),
        ({"names": {"a b": {}}}, [("breaker_app.E001", "'a b'")]),
        ({"names": {"x": 7}}, [("breaker_app.E001", "x = 7")]),
        ({"default": []}, [("breaker_app.E001", "default = []")]),
        ({"nmaes": {}}, [("breaker_app.E002", "nmaes")]),
        ({"default": {"treshold": 1}}, [("breaker_app.E002", "unknown key 'treshold'")]),
        (
            {"default": {"minimum_requests": 0}, "names": {"x": {"open_timeout_ms": 0}, "y": {}}},
            [("breaker_app.E001", "minimum_requests"), ("breaker_app.E001", "open_timeout_ms")],
        ),
    ],
)
def test_checks_name_file_key_value_and_range(
    settings: Settings, source: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    settings.BREAKER_POLICY = source
    found = check_policy()
    assert [message.id for message in found] == [id_ for id_, _ in expected]
    for message, (_, words) in zip(found, expected, strict=True):
        assert words in message.msg
        assert re.search("must be|known are", message.msg)


def test_a_wrong_policy_is_not_used(settings: Settings) -> None:
    settings.BREAKER_POLICY = {"default": {"minimum_requests": 0}}
    with pytest.raises(PolicyError, match=r"policies/breaker\.toml \[default\]"):
        conf.breaker_for("orders-db")


def test_the_shipped_policy_says_what_the_defaults_are() -> None:
    text = (Path(site.BASE_DIR) / "dlqsite" / "policies" / "breaker.toml").read_text(encoding="utf-8")
    default, names, mistakes = conf.read(tomllib.loads(text))
    assert mistakes == []
    assert default == BreakerPolicy()
    assert names == {"demo": replace(default, minimum_requests=20)}
