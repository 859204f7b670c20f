"""Settings, read once and given meaning: retry policies, error tables, the worker's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from messages_app.domain.delivery_policy import DeliveryPolicy
from messages_app.domain.policy import RetryPolicies, RetryPolicy
from wire.errors import PolicyError

RETRY_FILE = "dlqsite/policies/retry.toml"
#: In Redis' memory; on its disk; on its disk and that of a replica.
DURABILITIES = ("everysec", "fsync", "replicated")


@cache
def retry_policies() -> RetryPolicies:
    """All retry policies. Raises PolicyError when ``settings.RETRY_POLICY`` cannot be followed."""
    return RetryPolicies.from_mapping(getattr(settings, "RETRY_POLICY", {}), file=RETRY_FILE)


def retry_policy(message_type: str) -> RetryPolicy:
    """The retry policy of one type of message."""
    return retry_policies().of(message_type)


@cache
def delivery_policy() -> DeliveryPolicy:
    """Where deliveries may go. Raises PolicyError when ``settings.DELIVERY_POLICY`` cannot be followed."""
    if problem := getattr(settings, "DELIVERY_POLICY_PROBLEM", ""):
        raise PolicyError(problem)
    file = getattr(settings, "DELIVERY_POLICY_FILE", "dlqsite/policies/delivery.toml")
    return DeliveryPolicy.from_mapping(getattr(settings, "DELIVERY_POLICY", {}), file=file)


@cache
def error_types() -> Mapping[str, str]:
    """``settings.ERROR_TYPES``: dotted exception class → errorType, before the built-in table."""
    extra: Mapping[str, str] = getattr(settings, "ERROR_TYPES", {})
    return extra


@cache
def error_kinds() -> Mapping[str, str]:
    """``settings.ERROR_KINDS``: errorType → transient, permanent or unknown, before the built-in table."""
    extra: Mapping[str, str] = getattr(settings, "ERROR_KINDS", {})
    return extra


def durability() -> str:
    """``settings.ACCEPT_DURABILITY``: how safe a confirmed message is. Raises PolicyError for an unknown word."""
    value = str(getattr(settings, "ACCEPT_DURABILITY", DURABILITIES[0]))
    if value not in DURABILITIES:
        raise PolicyError(f"ACCEPT_DURABILITY is {value!r}; accepted: {', '.join(DURABILITIES)}")
    return value


def concurrency() -> int:
    """``settings.WORKER_CONCURRENCY``: messages that one worker process runs at the same time."""
    return int(getattr(settings, "WORKER_CONCURRENCY", 10))


def shutdown_grace_s() -> float:
    """``settings.WORKER_SHUTDOWN_GRACE``: seconds for which a stopping worker lets running attempts finish."""
    return float(getattr(settings, "WORKER_SHUTDOWN_GRACE", 10.0))


def watchdog_timeout_s() -> float:
    """``settings.WATCHDOG_TIMEOUT``: seconds for which code may hold a process's interpreter."""
    return float(getattr(settings, "WATCHDOG_TIMEOUT", 20.0))


def code_version() -> str:
    """``settings.VERSION``: what is deployed, for presence and dead letters."""
    return str(getattr(settings, "VERSION", ""))


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "RETRY_POLICY":
        retry_policies.cache_clear()
    elif setting in ("DELIVERY_POLICY", "DELIVERY_POLICY_FILE", "DELIVERY_POLICY_PROBLEM"):
        delivery_policy.cache_clear()
    elif setting in ("ERROR_TYPES", "ERROR_KINDS"):
        error_types.cache_clear()
        error_kinds.cache_clear()


setting_changed.connect(_forget)
