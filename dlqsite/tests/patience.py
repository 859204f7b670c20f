"""Waiting in tests: ask until it is so, within a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def eventually(
    look: Callable[[], Value | None], *, seconds: float = 10.0, every: float = 0.02, what: str = ""
) -> Value:
    """The first truthy answer of ``look``; an assertion error with its last answer when time runs out."""
    deadline = time.monotonic() + seconds
    while True:
        answer = look()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or look}; last answer {answer!r}")
        time.sleep(every)
