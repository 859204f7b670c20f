"""Answers that are kept for a short time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Cached(Generic[P, T]):
    """A function whose answers are kept for a while, by argument. Errors are not kept.

    Of threads that ask the same at once, one asks and the others wait for its answer.
    """

    def __init__(
        self, ask: Callable[P, T], keep_s: float | Callable[[T, float], float], *, max_answers: int = 100
    ) -> None:
        """``keep_s``: seconds, or a function of the answer and of the seconds that it took.

        More than ``max_answers`` are not kept: then all are forgotten.
        """
        self._ask = ask
        self.keep_s = keep_s
        self._max_answers = max_answers
        self._kept: dict[Hashable, tuple[float, T]] = {}
        self._locks: dict[Hashable, threading.Lock] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        key = (args, *kwargs.items())
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        with self._locks.setdefault(key, threading.Lock()):
            kept = self._kept.get(key)
            began = time.monotonic()
            if kept is not None and began < kept[0]:
                return kept[1]
            answer = self._ask(*args, **kwargs)
            ended = time.monotonic()
            keep_s = self.keep_s(answer, ended - began) if callable(self.keep_s) else self.keep_s
            if key not in self._kept and len(self._locks) > self._max_answers:
                self.forget()
            self._kept[key] = (ended + keep_s, answer)
            return answer

    def forget(self) -> None:
        """Ask again at the next call."""
        self._kept.clear()
        self._locks.clear()
