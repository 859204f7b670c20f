"""System checks of the configuration, for ``manage.py check`` and before a worker starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from breaker_app.redis_url import url_problem
from messages_app import conf, registry
from messages_app.delivery.client import secret_problem
from messages_app.domain.retry_policy import RetryPolicies
from messages_app.failures import ERROR_TYPE_PATTERN, ErrorKind
from wire.errors import PolicyError


@register("messages_app")
def check_retry_policy(**_: Any) -> list[CheckMessage]:
    """E001: the retry policy is invalid. W001: it names a type without a handler."""
    try:
        policies = conf.retry_policies()
    except PolicyError as error:
        return [Error(str(error), hint=f"Correct {conf.retry_file()}.", id="messages_app.E001")]
    return list(_unknown_types(policies))


def _unknown_types(policies: RetryPolicies) -> Iterator[CheckMessage]:
    for name in policies.by_type:
        if registry.get(name) is None:
            yield Warning(
                f'{conf.retry_file()} [types."{name}"]: no handler is registered for this type.',
                hint=f"Known types: {', '.join(registry.types())}.",
                id="messages_app.W001",
            )


@register("messages_app")
def check_delivery_policy(**_: Any) -> list[CheckMessage]:
    """E004: the delivery policy is invalid. W002: a secret that it names is missing or malformed."""
    try:
        policy = conf.delivery_policy()
    except PolicyError as error:
        return [Error(str(error), hint="Correct the file; its keys are explained there.", id="messages_app.E004")]
    # Not an error: a test installation with the policy of production has none of its secrets.
    return [
        Warning(
            f'{policy.file} [hosts."{host.name}"]: {wrong}',
            hint="Until then deliveries to this host fail. Set it to whsec_ and 24 to 64 random bytes in base64.",
            id="messages_app.W002",
        )
        for host in policy.hosts.values()
        for variable in host.secrets
        if (wrong := secret_problem(variable)) is not None
    ]


@register("messages_app")
def check_error_tables(**_: Any) -> list[CheckMessage]:
    """E002: ERROR_TYPES or ERROR_KINDS is malformed."""
    found: list[CheckMessage] = []
    try:
        conf.retry_policies()
    except PolicyError:
        return []  # E001 says it
    for name, error_type in conf.error_types().items():
        if not isinstance(error_type, str) or not ERROR_TYPE_PATTERN.fullmatch(error_type) or "." not in name:
            found.append(
                Error(
                    f"ERROR_TYPES: {name!r} = {error_type!r}; accepted: dotted class = {ERROR_TYPE_PATTERN.pattern}",
                    id="messages_app.E002",
                )
            )
    for error_type, kind in conf.error_kinds().items():
        if kind not in tuple(ErrorKind):
            found.append(
                Error(
                    f"ERROR_KINDS: {error_type!r} = {kind!r}; accepted: {', '.join(ErrorKind)}", id="messages_app.E002"
                )
            )
    return found


@register("messages_app")
def check_worker_numbers(**_: Any) -> list[CheckMessage]:
    """E003: the worker's numbers are out of range."""
    found: list[CheckMessage] = []
    for name, read, low, high in (
        ("WORKER_CONCURRENCY", conf.concurrency, 1, 500),
        ("WORKER_SHUTDOWN_GRACE", conf.shutdown_grace_s, 0, 600),
        ("WATCHDOG_TIMEOUT", conf.watchdog_timeout_s, 2, 28),
    ):
        try:
            value = read()
        except (TypeError, ValueError):
            value = None
        if value is None or not low <= value <= high:
            found.append(Error(f"{name} is out of range; accepted: {low} to {high}", id="messages_app.E003"))
    return found


@register("messages_app")
def check_store(**_: Any) -> list[CheckMessage]:
    """E005: REDIS_URL is not a valid address. E006: ACCEPT_DURABILITY has an unknown value."""
    found: list[CheckMessage] = []
    if wrong := url_problem(settings.REDIS_URL):
        found.append(Error(wrong, hint="See docs/settings.md.", id="messages_app.E005"))
    try:
        conf.durability()
    except PolicyError as error:
        found.append(Error(str(error), hint="See docs/operations.md#durability.", id="messages_app.E006"))
    return found
