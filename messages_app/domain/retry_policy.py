"""Decision whether and when to retry a failed attempt. Pure: the random numbers are an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from messages_app.domain import backoff
from messages_app.failures import ERROR_TYPE_PATTERN, ErrorKind
from wire.fields import integer, number
from wire.policy import InvalidValue, Readers, read_table, refuse_unknown_tables, table, validate


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How one type of message is retried. Refuses to exist with values out of range."""

    #: Attempts after the first one. 0 to 20.
    max_retries: int = 3
    #: Wait after the first failure, ms. 1 to 3 600 000.
    base_delay_ms: int = 1000
    #: Factor of each further wait. 1 to 10.
    factor: float = 2.0
    #: Maximum computed wait, ms. 1 to 86 400 000.
    max_delay_ms: int = 30_000
    #: Jitter, as a share of the wait. 0 to 1.
    jitter: float = 0.2
    #: Maximum ``retry_after`` of a downstream service that is honoured, ms. 0 to 86 400 000.
    max_retry_after_ms: int = 3_600_000
    #: Time limit of an attempt whose handler has none, ms. 100 to 3 600 000.
    timeout_ms: int = 30_000

    def __post_init__(self) -> None:
        validate(self, _READERS, "RetryPolicy")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, where: str, base: RetryPolicy | None = None) -> RetryPolicy:
        """Build a policy from a parsed table, on top of ``base``. ``where`` names file and table in errors."""
        return replace(base or cls(), **read_table(values, _READERS, where))


_READERS: Readers = {
    "max_retries": integer(0, 20),
    "base_delay_ms": integer(1, 3_600_000),
    "factor": number(1, 10),
    "max_delay_ms": integer(1, 86_400_000),
    "jitter": number(0, 1),
    "max_retry_after_ms": integer(0, 86_400_000),
    "timeout_ms": integer(100, 3_600_000),
}


@dataclass(frozen=True, slots=True)
class RetryPolicies:
    """The default policy, those of single types, and how exceptions are classified."""

    default: RetryPolicy
    by_type: Mapping[str, RetryPolicy]
    #: Dotted exception class → error type, before the built-in table.
    error_types: Mapping[str, str] = field(default_factory=dict)
    #: Error type → transient, permanent or unknown, before the built-in table.
    error_kinds: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, file: str) -> RetryPolicies:
        """Read ``{"default": {…}, "types": {"order.created": {…}}}``; a type says only what differs.

        Also ``error_types`` and ``error_kinds``. Raises ``PolicyError``.
        """
        refuse_unknown_tables(values, ("default", "types", "error_types", "error_kinds"), file)
        default = RetryPolicy.from_mapping(table(values, "default", file), where=f"{file} [default]")
        types = table(values, "types", file)
        return cls(
            default,
            {
                name: RetryPolicy.from_mapping(
                    table(types, name, f"{file} [types]"), where=f'{file} [types."{name}"]', base=default
                )
                for name in types
            },
            _error_types(table(values, "error_types", file), f"{file} [error_types]"),
            _error_kinds(table(values, "error_kinds", file), f"{file} [error_kinds]"),
        )

    def of(self, message_type: str) -> RetryPolicy:
        return self.by_type.get(message_type, self.default)


def _error_types(values: Mapping[str, Any], where: str) -> Mapping[str, str]:
    for name, error_type in values.items():
        if "." not in name:
            raise InvalidValue(where, name, error_type, "must be for a dotted class, such as stripe.error.APIError")
        _require_error_type(error_type, where, name, error_type)
    return dict(values)


def _error_kinds(values: Mapping[str, Any], where: str) -> Mapping[str, str]:
    for error_type, kind in values.items():
        _require_error_type(error_type, where, error_type, kind)
        if kind not in tuple(ErrorKind):
            raise InvalidValue(where, error_type, kind, f"must be {', '.join(ErrorKind)}")
    return dict(values)


def _require_error_type(found: object, where: str, key: str, value: object) -> None:
    if not isinstance(found, str) or not ERROR_TYPE_PATTERN.fullmatch(found):
        raise InvalidValue(where, key, value, "must name an error type, such as BANK_CLOSED")


@dataclass(frozen=True, slots=True)
class RetryAt:
    """Another attempt, ``delay_ms`` from now."""

    delay_ms: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No further attempt: ``permanent`` or ``exhausted``."""

    why: str


def decide(
    attempt: int,
    kind: ErrorKind,
    policy: RetryPolicy,
    random: Callable[[], float],
    retry_after_ms: int | None = None,
    *,
    max_retries: int | None = None,
) -> RetryAt | GiveUp:
    """Decide what follows the failure of ``attempt``, counted from 1. ``max_retries`` overrides the policy's.

    >>> [decide(n, ErrorKind.TRANSIENT, RetryPolicy(), lambda: 0.5) for n in (1, 2, 3)]
    [RetryAt(delay_ms=1000), RetryAt(delay_ms=2000), RetryAt(delay_ms=4000)]
    >>> decide(4, ErrorKind.TRANSIENT, RetryPolicy(), lambda: 0.5)
    GiveUp(why='exhausted')
    """
    if kind is ErrorKind.PERMANENT:
        return GiveUp("permanent")
    if attempt > (policy.max_retries if max_retries is None else max_retries):
        return GiveUp("exhausted")
    wait = backoff.delay_ms(
        attempt,
        base_ms=policy.base_delay_ms,
        factor=policy.factor,
        ceiling_ms=policy.max_delay_ms,
        spread=policy.jitter,
        roll=random(),
    )
    wish = min(retry_after_ms or 0, policy.max_retry_after_ms)
    return RetryAt(max(wait, wish))
