"""Whether something gets worse, from its minutes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from console.trends import Trend, course, pace


def hour(*tail: int) -> list[int]:
    """An hour that ends with these minutes."""
    return [0] * (60 - len(tail)) + list(tail)


@pytest.mark.parametrize(
    ("minutes", "into_s", "trend", "words"),
    [
        (hour(), 30, Trend.NONE, ""),
        (hour(3200, 0, 0, 0, 0, 0, 0), 20, Trend.OVER, "over for 5 min"),
        (hour(1600, 1600, 0, 0, 0, 0), 0, Trend.OVER, "over for 3 min"),
        (hour(3200, 0, 0, 0), 30, Trend.FALLING, "914 a minute, falling"),
        (hour(4, 30, 28, 31, 15), 30, Trend.RISING, "24 a minute, rising"),
        (hour(*[10] * 60), 60, Trend.STEADY, "10 a minute, steady"),
        (hour(*[10] * 55, 3, 2, 1, 2, 1), 60, Trend.FALLING, "1.8 a minute, falling"),
        (hour(*[10] * 50, *[40] * 10), 60, Trend.RISING, "40 a minute, rising"),
        # One letter every ten minutes goes on.
        (hour(*[1, *[0] * 9] * 6), 30, Trend.STEADY, "6 an hour, steady"),
        (hour(*[1, *[0] * 9] * 3, *[0] * 30), 30, Trend.OVER, "over for 38 min"),
        (hour(1, 0, 0), 30, Trend.STEADY, "1 in the last hour"),
    ],
)
def test_the_course_of_an_hour(minutes: Sequence[int], into_s: float, trend: Trend, words: str) -> None:
    found = course(minutes, into_s)

    assert (found.trend, found.words) == (trend, words)


def test_how_long_it_is_over_is_known_to_the_second_where_the_last_one_is() -> None:
    assert course(hour(50, 0, 0, 0, 0), 10, last_s=215).over_for_s == 215
    assert course(hour(50, 0, 0, 0, 0), 10, last_s=2).over_for_s == 190, "a replay that failed is no new letter"


def test_a_pace_has_the_unit_that_fits() -> None:
    assert [pace(value) for value in (1234.6, 9.4, 2.0, 0.5, 0.001)] == [
        "1,235 a minute", "9.4 a minute", "2 a minute", "30 an hour", "less than 1 an hour",
    ]  # fmt: skip
