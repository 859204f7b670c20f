"""Cursors are opaque, safe in URLs, and refused when they are not ours."""

from __future__ import annotations

import re

import pytest

from wire import cursor
from wire.cursor import NotACursor


@pytest.mark.parametrize("values", [["-lastFailedAt", 1764496800000, "é" * 20], [0], ["", -(2**63)]])
def test_a_cursor_gives_back_its_values(values: list[str | int]) -> None:
    text = cursor.encode(values)

    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert cursor.decode(text) == values


@pytest.mark.parametrize(
    "text", ["", "!", "x", "garbage", "WyJ4Il0!", "eyIkZ3QiOjF9", "W" * 1001, "WyJ4Il0\n", cursor.encode([1])[:-1]]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(NotACursor, match="is not a cursor of this list"):
        cursor.decode(text)


def test_a_cursor_of_an_older_form_is_still_read() -> None:
    assert cursor.decode("1764496800000_b-1", plain=r"([0-9]+)_(.+)") == ["1764496800000", "b-1"]
    assert cursor.decode(cursor.encode([5, "b-1"]), plain=r"([0-9]+)_(.+)") == [5, "b-1"]


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 2**63, [1]])
def test_only_whole_numbers_of_64_bits_count(value: object) -> None:
    with pytest.raises(NotACursor):
        cursor.integer(value)
