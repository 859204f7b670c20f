"""One object per process."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, update_wrapper
from typing import Generic, TypeVar

T = TypeVar("T")


class OncePerProcess(Generic[T]):
    """Decorate a function so that it runs once in each process; every call returns the same object.

    A child that is forked gets an object of its own, since a connection must not be used on both sides of a fork. It
    keeps those of its parent: to delete them could close what the parent still uses.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        update_wrapper(self, make)
        self._made = cache(lambda process_id: make())
        #: Forget the objects, for tests that change settings.
        self.cache_clear = self._made.cache_clear

    def __call__(self) -> T:
        return self._made(os.getpid())
