"""Settings of messages: retry policies, error tables, numbers of the worker."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from messages_app.domain.delivery_policy import DeliveryPolicy
from messages_app.domain.retry_policy import RetryPolicies, RetryPolicy
from wire.errors import PolicyError

#: In Redis' memory; on its disk; on its disk and on that of a replica.
DURABILITIES = ("everysec", "fsync", "replica")
#: The name of ``replica`` in earlier versions.
_REPLICATED = "replicated"


def retry_file() -> str:
    """The file of the retry policies, as errors name it."""
    return str(settings.POLICIES.file("retry"))


@cache
def retry_policies() -> RetryPolicies:
    """All retry policies. Raises ``PolicyError`` for an invalid ``settings.RETRY_POLICY``."""
    return RetryPolicies.from_mapping(getattr(settings, "RETRY_POLICY", {}), file=retry_file())


def retry_policy(message_type: str) -> RetryPolicy:
    """The retry policy of one type of message."""
    return retry_policies().of(message_type)


@cache
def delivery_policy() -> DeliveryPolicy:
    """The delivery policy. Raises ``PolicyError`` for an invalid ``settings.DELIVERY_POLICY``."""
    if problem := getattr(settings, "DELIVERY_POLICY_PROBLEM", ""):
        raise PolicyError(problem)
    file = getattr(settings, "DELIVERY_POLICY_FILE", "dlqsite/policies/delivery.toml")
    return DeliveryPolicy.from_mapping(getattr(settings, "DELIVERY_POLICY", {}), file=file)


@cache
def error_types() -> Mapping[str, str]:
    """Dotted exception class → errorType, before the built-in table: ``settings.ERROR_TYPES`` and the retry policy."""
    extra: Mapping[str, str] = getattr(settings, "ERROR_TYPES", {})
    return {**retry_policies().error_types, **extra}


@cache
def error_kinds() -> Mapping[str, str]:
    """ErrorType → transient, permanent or unknown, likewise: ``settings.ERROR_KINDS`` and the retry policy."""
    extra: Mapping[str, str] = getattr(settings, "ERROR_KINDS", {})
    return {**retry_policies().error_kinds, **extra}


def durability() -> str:
    """``settings.ACCEPT_DURABILITY``: durability of confirmed messages. Raises ``PolicyError`` if unknown."""
    value = str(getattr(settings, "ACCEPT_DURABILITY", DURABILITIES[0]))
    if value == _REPLICATED:
        return "replica"
    if value not in DURABILITIES:
        raise PolicyError(f"ACCEPT_DURABILITY is {value!r}; accepted: {', '.join(DURABILITIES)}")
    return value


def concurrency() -> int:
    """``settings.WORKER_CONCURRENCY``: maximum number of messages that a worker process runs at the same time."""
    return int(getattr(settings, "WORKER_CONCURRENCY", 10))


def shutdown_grace_s() -> float:
    """``settings.WORKER_SHUTDOWN_GRACE``: grace period of a stopping worker for running attempts, in seconds."""
    return float(getattr(settings, "WORKER_SHUTDOWN_GRACE", 10.0))


def watchdog_timeout_s() -> float:
    """``settings.WATCHDOG_TIMEOUT``: maximum time that code may block a process's interpreter, in seconds."""
    return float(getattr(settings, "WATCHDOG_TIMEOUT", 20.0))


def code_version() -> str:
    """``settings.VERSION``: the deployed version, for presence and dead letters."""
    return str(getattr(settings, "VERSION", ""))


def _forget(*, setting: str, **_: Any) -> None:
    if setting == "RETRY_POLICY":
        retry_policies.cache_clear()
    if setting in ("DELIVERY_POLICY", "DELIVERY_POLICY_FILE", "DELIVERY_POLICY_PROBLEM"):
        delivery_policy.cache_clear()
    if setting in ("RETRY_POLICY", "ERROR_TYPES", "ERROR_KINDS"):
        error_types.cache_clear()
        error_kinds.cache_clear()


setting_changed.connect(_forget)
