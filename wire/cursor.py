"""Cursors of lists: opaque texts that name the last entry of a page."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

MAX_CURSOR = 1000
_CURSOR = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_CURSOR}}}")


class NotACursor(ValueError):
    """This text is not a cursor of the list that it was given to."""

    def __init__(self) -> None:
        super().__init__("is not a cursor of this list")


def encode(values: Sequence[str | int]) -> str:
    """A cursor that holds ``values``, safe in a URL."""
    text = json.dumps(values, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def check(text: str) -> str:
    """``text`` when it has the form of a cursor. Raises ``NotACursor``."""
    if not _CURSOR.fullmatch(text):
        raise NotACursor
    return text


def decode(text: str, *, plain: str = "") -> list[Any]:
    """The values in a cursor; their types are not checked. Raises ``NotACursor``.

    ``plain``: a pattern of cursors that were issued before this encoding, with one group for each value.
    """
    if plain and (found := re.fullmatch(plain, text)):
        return list(found.groups())
    try:
        values = json.loads(base64.urlsafe_b64decode(check(text) + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError) as error:
        raise NotACursor from error
    if not isinstance(values, list):
        raise NotACursor
    return values


def integer(value: object) -> int:
    """A whole number of 64 bits in a cursor. Raises ``NotACursor``."""
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise NotACursor
    return value
