"""Whether a failed attempt is followed by another one, and when: pure, the dice are an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from messages_app.domain import backoff
from messages_app.failures import ErrorKind


class PolicyError(ValueError):
    """A policy file says something that cannot be followed. Names file, key, value and accepted range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How one type of message is retried. Refuses to exist with values out of range."""

    #: Attempts after the first one. 0 to 20.
    max_retries: int = 3
    #: Wait after the first failure, ms. 1 to 3 600 000.
    base_delay_ms: int = 1000
    #: What each further wait is multiplied by. 1 to 10.
    factor: float = 2.0
    #: No computed wait is longer, ms. 1 to 86 400 000.
    max_delay_ms: int = 30_000
    #: Random spread, as a part of the wait. 0 to 1.
    jitter: float = 0.2
    #: The longest wish of a downstream (``retry_after``) that is honoured, ms. 0 to 86 400 000.
    max_retry_after_ms: int = 3_600_000
    #: Time limit of one attempt whose handler names none, ms. 100 to 3 600 000.
    timeout_ms: int = 30_000

    def __post_init__(self) -> None:
        for key, (low, high, whole) in _RANGES.items():
            _check(key, getattr(self, key), low, high, whole, "RetryPolicy")

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], *, where: str, over: RetryPolicy | None = None
    ) -> RetryPolicy:  # fmt: skip
        """Build a policy from a parsed table, on top of ``over``. ``where`` names file and table in errors."""
        known = {field.name for field in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise PolicyError(f"{where}: unknown key {key!r}; known are {', '.join(sorted(known))}")
            _check(key, value, *_RANGES[key], where)
        base = {name: getattr(over, name) for name in known} if over else {}
        return cls(**{**base, **values})


#: key → (lowest, highest, whole numbers only)
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "max_retries": (0, 20, True),
    "base_delay_ms": (1, 3_600_000, True),
    "factor": (1, 10, False),
    "max_delay_ms": (1, 86_400_000, True),
    "jitter": (0, 1, False),
    "max_retry_after_ms": (0, 86_400_000, True),
    "timeout_ms": (100, 3_600_000, True),
}


def _check(key: str, value: object, low: float, high: float, whole: bool, where: str) -> None:
    accepted = f"accepted: {'whole numbers' if whole else 'numbers'} from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise PolicyError(f"{where}: {key} = {value!r}; {accepted}")
    if not math.isfinite(value) or not low <= value <= high:
        raise PolicyError(f"{where}: {key} = {value!r}; {accepted}")


@dataclass(frozen=True, slots=True)
class RetryPolicies:
    """The default and what single types have instead."""

    default: RetryPolicy
    by_type: Mapping[str, RetryPolicy]

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, file: str) -> RetryPolicies:
        """Read ``{"default": {…}, "types": {"order.created": {…}}}``; a type says only what differs."""
        unknown = set(values) - {"default", "types"}
        if unknown:
            raise PolicyError(f"{file}: unknown table {sorted(unknown)[0]!r}; known are default, types")
        default = RetryPolicy.from_mapping(_table(values, "default", file), where=f"{file} [default]")
        types = _table(values, "types", file)
        return cls(
            default,
            {
                name: RetryPolicy.from_mapping(
                    _table(types, name, f"{file} [types]"), where=f'{file} [types."{name}"]', over=default
                )
                for name in types
            },
        )

    def of(self, message_type: str) -> RetryPolicy:
        return self.by_type.get(message_type, self.default)


def _table(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = values.get(key, {})
    if not isinstance(table, Mapping):
        raise PolicyError(f"{where}: {key} = {table!r}; accepted: a table")
    return table


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
    """What follows the failure of ``attempt`` (counted from 1). The message's ``max_retries`` outranks the policy's.

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
