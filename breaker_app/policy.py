"""The policy of a circuit breaker: its thresholds and times, checked when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

from wire.fields import integer, nullable, number, one_of
from wire.policy import InvalidValue, Readers, read_table, validate

#: The place of a value that comes from no file.
WHERE: Final = "breaker policy"


class WhenOpen(StrEnum):
    """What intake does with messages while their breaker is OPEN."""

    REJECT = "reject"
    HOLD = "hold"


def _whole_seconds(value: object) -> int:
    ms = integer(1_000, 600_000)(value)
    if ms % 1_000:
        raise ValueError("must be a whole number from 1000 to 600000 in steps of 1000")
    return ms


_share = number(0.001, 1)
READERS: Final[Readers] = {
    "failure_threshold": _share,
    "time_window_ms": _whole_seconds,
    "minimum_requests": integer(1, 1_000_000),
    "open_timeout_ms": integer(1, 3_600_000),
    "half_open_max_requests": integer(1, 1_000),
    "half_open_success_threshold": _share,
    "permit_lease_ms": integer(1, 86_400_000),
    "slow_call_ms": nullable(integer(1, 3_600_000)),
    "slow_call_threshold": nullable(_share),
    "when_open": lambda value: WhenOpen(one_of(WhenOpen)(value)),
}


@dataclass(frozen=True)
class BreakerPolicy:
    """The rules of one breaker. Sent with every request and never stored, so a deployment takes effect at once.

    Raises ``PolicyError`` for a value of the wrong type or out of range.
    """

    #: Share of failures in the window at which it opens (>=), from 0.001 to 1, in steps of 0.001.
    failure_threshold: float = 0.5
    #: How long an outcome counts, in ms: whole seconds, at most ten minutes. Counted in buckets of one second.
    time_window_ms: int = 60_000
    #: Minimum number of outcomes in the window; with fewer it never opens.
    minimum_requests: int = 10
    #: Minimum time in OPEN, in ms.
    open_timeout_ms: int = 30_000
    #: Maximum number of probes in one half-open period.
    half_open_max_requests: int = 10
    #: Share of those probes that must succeed for it to close.
    half_open_success_threshold: float = 0.8
    #: How long a probe may take before another call gets its permit, in ms. Never shorter than the timeout of the
    #: handlers that use the breaker.
    permit_lease_ms: int = 60_000
    #: A call that takes longer, in ms, is slow. None: off; requires ``slow_call_threshold``.
    slow_call_ms: int | None = None
    #: Share of slow calls in the window at which it opens.
    slow_call_threshold: float | None = None
    #: What intake does while it is OPEN.
    when_open: WhenOpen = WhenOpen.REJECT

    def __post_init__(self) -> None:
        validate(self, READERS, WHERE)
        if (self.slow_call_ms is None) != (self.slow_call_threshold is None):
            missing = "slow_call_ms" if self.slow_call_ms is None else "slow_call_threshold"
            raise InvalidValue(WHERE, missing, None, "slow_call_ms and slow_call_threshold need each other")

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], where: str = WHERE, base: BreakerPolicy | None = None
    ) -> BreakerPolicy:
        """The policy that ``values`` describes; other keys are as in ``base``. Raises ``PolicyError``."""
        try:
            return replace(base or cls(), **read_table(values, READERS, where))
        except InvalidValue as error:
            raise error.at(where) from error

    def as_dict(self) -> dict[str, Any]:
        """All values by key, in the order of the policy file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def is_slow(self, took_ms: float) -> bool:
        """Whether a call of this duration is slow; False if slow calls are off."""
        return self.slow_call_ms is not None and took_ms > self.slow_call_ms

    @cached_property
    def wire(self) -> tuple[int, ...]:
        """The arguments of the scripts: whole numbers, shares per mille, 0 for rules that are off."""
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
