"""The numbers a breaker decides by, checked when they are read. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from breaker_app.errors import PolicyError, UnknownKey


class WhenOpen(StrEnum):
    """What intake does with messages whose breaker is OPEN."""

    REJECT = "reject"
    HOLD = "hold"


#: Accepted values of each whole number: smallest, largest, and the step it has to be a multiple of.
_RANGES: Final[Mapping[str, tuple[int, int, int]]] = {
    "time_window_ms": (1_000, 600_000, 1_000),
    "minimum_requests": (1, 1_000_000, 1),
    "open_timeout_ms": (1, 3_600_000, 1),
    "half_open_max_requests": (1, 1_000, 1),
    "permit_lease_ms": (1, 86_400_000, 1),
    "slow_call_ms": (1, 3_600_000, 1),
}
_SHARES: Final = ("failure_threshold", "half_open_success_threshold", "slow_call_threshold")
_OPTIONAL: Final = ("slow_call_ms", "slow_call_threshold")


@dataclass(frozen=True)
class BreakerPolicy:
    """How one breaker decides. Sent along with every question and never stored: a deployment takes effect at once.

    Raises ``PolicyError`` for a value of the wrong type or out of range.
    """

    #: Share of failures in the window at which it trips (>=), above 0 up to 1, in steps of 0.001.
    failure_threshold: float = 0.5
    #: How long an outcome counts, in ms; whole seconds, up to ten minutes. Counted in buckets of one second.
    time_window_ms: int = 60_000
    #: Outcomes in the window below which it never trips.
    minimum_requests: int = 10
    #: How long it stays OPEN at least, in ms.
    open_timeout_ms: int = 30_000
    #: Probes admitted in one half-open period, in total.
    half_open_max_requests: int = 10
    #: Share of those probes that have to succeed for it to close.
    half_open_success_threshold: float = 0.8
    #: How long a probe may take before its permit is given to somebody else, in ms. Never shorter than the time limit
    #: of the handlers that use the breaker.
    permit_lease_ms: int = 60_000
    #: A call that takes longer than this many ms is slow. Off when None; goes together with the next.
    slow_call_ms: int | None = None
    #: Share of slow calls in the window at which it trips.
    slow_call_threshold: float | None = None
    #: What intake does while it is OPEN.
    when_open: WhenOpen = WhenOpen.REJECT

    def __post_init__(self) -> None:
        for key, value in self.as_dict().items():
            if value is None and key in _OPTIONAL:
                continue
            if key in _SHARES:
                _check_share(key, value)
            elif key in _RANGES:
                _check_number(key, value)
        if (self.slow_call_ms is None) != (self.slow_call_threshold is None):
            missing = "slow_call_ms" if self.slow_call_ms is None else "slow_call_threshold"
            raise PolicyError(key=missing, value=None, accepted="slow_call_ms and slow_call_threshold, both or neither")
        try:
            object.__setattr__(self, "when_open", WhenOpen(self.when_open))
        except ValueError as error:
            accepted = " or ".join(f'"{choice}"' for choice in WhenOpen)
            raise PolicyError(key="when_open", value=self.when_open, accepted=accepted) from error

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> BreakerPolicy:
        """The policy that ``values`` describes; what is missing keeps its default. Raises ``PolicyError``."""
        known = [field.name for field in fields(cls)]
        for key, value in values.items():
            if key not in known:
                raise UnknownKey(key=key, value=value, accepted="one of " + ", ".join(known))
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """Every value by its key, in the order of the policy file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def is_slow(self, took_ms: float) -> bool:
        """Whether a call that took so long counts as slow; never when slow calls are off."""
        return self.slow_call_ms is not None and took_ms > self.slow_call_ms

    @cached_property
    def wire(self) -> tuple[int, ...]:
        """The numbers as the scripts take them: whole numbers only, shares per mille, 0 for what is off."""
        return (
            per_mille(self.failure_threshold),
            self.time_window_ms // 1_000,
            self.minimum_requests,
            self.open_timeout_ms,
            self.half_open_max_requests,
            per_mille(self.half_open_success_threshold),
            self.permit_lease_ms,
            per_mille(self.slow_call_threshold or 0),
        )


def per_mille(share: float) -> int:
    """``share`` in thousandths, so that rates are compared without floats.

    >>> per_mille(0.5), per_mille(0.8), per_mille(0.29)
    (500, 800, 290)
    """
    return round(share * 1_000)


def _check_share(key: str, value: object) -> None:
    accepted = "a number from 0.001 to 1"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PolicyError(key=key, value=value, accepted=accepted)
    if not (0.001 <= value <= 1):
        raise PolicyError(key=key, value=value, accepted=accepted)


def _check_number(key: str, value: object) -> None:
    low, high, step = _RANGES[key]
    accepted = f"a whole number from {low} to {high}" + (f" in steps of {step}" if step > 1 else "")
    if isinstance(value, bool) or not isinstance(value, int):
        raise PolicyError(key=key, value=value, accepted=accepted)
    if not low <= value <= high or value % step:
        raise PolicyError(key=key, value=value, accepted=accepted)
