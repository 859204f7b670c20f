"""Readers of fields from outside. Each returns the value or raises ``ValueError`` with what is allowed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from wire import instants

T = TypeVar("T")
Reader = Callable[[Any], T]
#: The field and what is wrong with it, as problems and error bodies list them.
FieldError = dict[str, str]

MAX_FIELD_NAME = 64
UNSTORABLE = "must not contain U+0000 or half of a surrogate pair"


def field_error(field: object, message: str) -> FieldError:
    """What is wrong with ``field``, whose name may be any text that a client sent."""
    return {"field": str(field)[:MAX_FIELD_NAME].encode("utf-8", "backslashreplace").decode(), "message": message}


def unknown_field(field: object, known: Iterable[str], kind: str = "field") -> FieldError:
    """The error for a field that nothing reads."""
    return field_error(field, f"unknown {kind}; known are {', '.join(known)}")


def summary(errors: Sequence[FieldError]) -> str:
    """The first five errors on one line. An error without a field is about the whole value."""
    return "; ".join(": ".join(filter(None, (error["field"], error["message"]))) for error in errors[:5])


def is_storable(value: str) -> bool:
    """Whether a store can hold this text: no U+0000, no half of a surrogate pair."""
    if "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def storable(value: str) -> str:
    if not is_storable(value):
        raise ValueError(UNSTORABLE)
    return value


def text(limit: int, *, empty: bool = True) -> Reader[str]:
    """A text of at most ``limit`` characters that a store can hold."""

    def read(value: object) -> str:
        if not isinstance(value, str) or len(value) > limit or not (value or empty):
            raise ValueError(f"must be a text of at most {limit} characters" + ("" if empty else ", not empty"))
        return storable(value)

    return read


def matching(pattern: str | re.Pattern[str], accepted: str) -> Reader[str]:
    """A text that matches ``pattern`` from end to end."""
    compiled = re.compile(pattern)

    def read(value: object) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"must be {accepted}")
        return value

    return read


def one_of(allowed: Iterable[str]) -> Reader[str]:
    choices = tuple(allowed)

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError("must be one of " + ", ".join(choices))
        return value

    return read


def integer(low: int, high: int) -> Reader[int]:
    """A whole number of JSON."""

    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def digits(low: int, high: int) -> Reader[int]:
    """A whole number as the text of a query string or an environment variable."""

    def read(value: str) -> int:
        return integer(low, high)(int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None)

    return read


def number(low: float, high: float) -> Reader[float]:
    def read(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return read


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def instant(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError(instants.ACCEPTED)
    return instants.parse_instant(value)


def list_of(read: Reader[T], low: int, high: int, accepted: str) -> Reader[tuple[T, ...]]:
    """A list of ``low`` to ``high`` different values. ``accepted`` describes the whole list."""

    def read_all(value: object) -> tuple[T, ...]:
        try:
            if not isinstance(value, list | tuple) or not low <= len(value) <= high:
                raise ValueError
            found = tuple(read(one) for one in value)
        except ValueError:
            raise ValueError(f"must be {accepted}") from None
        if len(set(found)) < len(found):
            raise ValueError("must not have a value twice")
        return found

    return read_all


def nullable(read: Reader[T]) -> Reader[T | None]:
    return lambda value: None if value is None else read(value)


def single(values: Sequence[T]) -> T:
    """The only value of a parameter."""
    if len(values) != 1:
        raise ValueError("must be given once")
    return values[0]
