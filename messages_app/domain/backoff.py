"""Wait before the next attempt: pure arithmetic in milliseconds, the random number as an argument."""

from __future__ import annotations


def exponential(attempt: int, *, base_ms: float, factor: float, ceiling_ms: float) -> float:
    """``base · factor^(attempt - 1)`` for an attempt counted from 1; limited far above the ceiling.

    >>> [exponential(n, base_ms=1000, factor=2, ceiling_ms=30000) for n in (1, 2, 3, 4)]
    [1000.0, 2000.0, 4000.0, 8000.0]
    """
    try:
        return float(base_ms * factor ** (attempt - 1))
    except OverflowError:
        # Only for absurd attempt numbers. Twice the ceiling stays above it with any jitter.
        return 2.0 * ceiling_ms


def with_jitter(wait_ms: float, *, spread: float, roll: float) -> float:
    """Change a wait by up to ``± spread`` of itself; ``roll`` is a random number from [0, 1).

    >>> [with_jitter(1000, spread=0.2, roll=roll) for roll in (0.0, 0.5)]
    [800.0, 1000.0]
    """
    return wait_ms * (1.0 + spread * (2.0 * roll - 1.0))


def delay_ms(attempt: int, *, base_ms: float, factor: float, ceiling_ms: float, spread: float, roll: float) -> int:
    """The wait after ``attempt``: jitter first, the ceiling last, so that no wait exceeds the ceiling."""
    wait = with_jitter(
        exponential(attempt, base_ms=base_ms, factor=factor, ceiling_ms=ceiling_ms), spread=spread, roll=roll
    )
    return round(min(wait, ceiling_ms))
