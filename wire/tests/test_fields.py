"""Readers of fields: the value, or an error that says what is allowed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from wire import fields
from wire.fields import Reader

ACCEPTED: list[tuple[Reader[Any], object, object]] = [
    (fields.text(3), "abc", "abc"),
    (fields.text(3), "", ""),
    (fields.text(3), "🙂é", "🙂é"),
    (fields.matching("[a-z]+", "letters"), "abc", "abc"),
    (fields.one_of(("a", "b")), "b", "b"),
    (fields.integer(0, 9), 9, 9),
    (fields.digits(0, 99), "07", 7),
    (fields.number(0, 1), 1, 1.0),
    (fields.boolean, False, False),
    (fields.single, ["x"], "x"),
]
REFUSED: list[tuple[Reader[Any], list[object], str]] = [
    (fields.text(3), ["abcd", 1, None, []], "must be a text of at most 3 characters"),
    (fields.text(3, empty=False), [""], "must be a text of at most 3 characters, not empty"),
    (fields.text(3), ["\0", "\ud800"], "must not contain U+0000 or half of a surrogate pair"),
    (fields.matching("[a-z]+", "letters"), ["abc\n", "", 1, None], "must be letters"),
    (fields.one_of(("a", "b")), ["c", "", None, ["a"]], "must be one of a, b"),
    (fields.integer(0, 9), [10, -1, 1.0, True, "1", None], "must be a whole number from 0 to 9"),
    (fields.digits(0, 99), ["100", "-1", "", "1.0", "٣", "9" * 5000], "must be a whole number from 0 to 99"),
    (fields.number(0.01, 1), [0, 1.1, True, "1", float("nan")], "must be a number from 0.01 to 1"),
    (fields.boolean, [0, "true", None], "must be true or false"),
    (
        fields.instant,
        [1, None, "2026-11-24"],
        "must be an ISO 8601 instant with its zone, such as 2026-11-24T03:12:00Z",
    ),
    (fields.single, [[], ["a", "b"]], "must be given once"),
]


@pytest.mark.parametrize(("read", "value", "found"), ACCEPTED)
def test_a_reader_returns_the_value(read: Reader[Any], value: object, found: object) -> None:
    assert read(value) == found


@pytest.mark.parametrize(("read", "values", "message"), REFUSED)
def test_a_reader_says_what_is_allowed(read: Reader[Any], values: list[object], message: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            read(value)


def test_a_field_is_named_in_characters_that_every_answer_can_hold() -> None:
    assert fields.field_error("a" * 100, "no")["field"] == "a" * 64
    assert fields.unknown_field("\ud800", ("a", "b")) == {
        "field": "\\ud800",
        "message": "unknown field; known are a, b",
    }


def test_a_summary_names_five_errors() -> None:
    errors = [fields.field_error(name, "wrong") for name in ("", *"abcdef")]

    assert fields.summary(errors) == "wrong; a: wrong; b: wrong; c: wrong; d: wrong"
