"""Queries with an index hint. Without the index they are slower, but do not fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pymongo.errors import OperationFailure

Answer = TypeVar("Answer")

NO_SUCH_INDEX = 2


def hinted(ask: Callable[[str | None], Answer], index: str) -> Answer:
    """``ask(index)``, or ``ask(None)`` without a hint when the collection has no index of that name."""
    try:
        return ask(index)
    except OperationFailure as error:
        if error.code != NO_SUCH_INDEX:
            raise
    return ask(None)
