"""Waits between attempts, as properties."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages_app.domain import backoff, retry_policy

ROLLS = st.floats(0, 1, exclude_max=True)


def test_it_computes_what_its_examples_say() -> None:
    for module in (backoff, retry_policy):
        assert doctest.testmod(module).failed == 0


@given(
    attempt=st.integers(1, 5000),
    base=st.integers(1, 3_600_000),
    factor=st.floats(1, 10),
    ceiling=st.integers(1, 86_400_000),
    spread=st.floats(0, 1),
    roll=ROLLS,
)
def test_no_wait_is_negative_or_above_the_ceiling(
    attempt: int, base: int, factor: float, ceiling: int, spread: float, roll: float
) -> None:
    wait = backoff.delay_ms(attempt, base_ms=base, factor=factor, ceiling_ms=ceiling, spread=spread, roll=roll)

    assert 0 <= wait <= ceiling


@given(attempt=st.integers(1, 4), roll=ROLLS)
def test_default_waits_stay_within_a_fifth_of_one_two_four_eight_seconds(attempt: int, roll: float) -> None:
    nominal = 1000 * 2 ** (attempt - 1)

    wait = backoff.delay_ms(attempt, base_ms=1000, factor=2, ceiling_ms=30_000, spread=0.2, roll=roll)

    assert nominal * 0.8 - 1 <= wait <= nominal * 1.2 + 1


@given(spread=st.floats(0, 1), low=ROLLS, high=ROLLS)
def test_a_higher_roll_never_waits_less(spread: float, low: float, high: float) -> None:
    low, high = sorted((low, high))

    assert backoff.with_jitter(1000, spread=spread, roll=low) <= backoff.with_jitter(1000, spread=spread, roll=high)


@pytest.mark.parametrize("roll", [0.0, 0.999])
def test_the_ceiling_comes_after_the_jitter(roll: float) -> None:
    wait = backoff.delay_ms(6, base_ms=1000, factor=2, ceiling_ms=30_000, spread=0.2, roll=roll)

    assert wait == {0.0: 25_600, 0.999: 30_000}[roll]
