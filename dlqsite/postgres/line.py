"""Limits on how long, and how many, threads of this process wait for an unresponsive PostgreSQL.

The server's own ``statement_timeout`` does not help against a server that is stopped or unreachable. Without a bound
here, each request that needs the database would hold a thread of the web server until none is left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, TypeVar

from psycopg import OperationalError
from psycopg.abc import PQGen

T = TypeVar("T")

#: Seconds after a failed connect for which no further one is tried.
PAUSE_S: Final = 1.0
#: Seconds without an answer after which a wait counts against ``Line.at_most``.
QUIET_S: Final = 0.5


class Line:
    """The waits of this process for its database server. Threads share it.

    ``at_most`` bounds the threads that wait longer than ``QUIET_S`` at the same time; None: no bound.
    """

    def __init__(self) -> None:
        self.at_most: int | None = None
        self._changed = threading.Condition()
        self._waits: list[object] = []  # the oldest first
        self._is_away = self._is_tried = False
        self._next_try = 0.0

    @contextmanager
    def connecting(self) -> Generator[None, None, None]:
        """Guard a connect. Raises OperationalError immediately if the server was unavailable a moment ago.

        While the server is away one thread at a time tries to connect.
        """
        wait = object()
        with self._changed:
            if self._is_away and (self._is_tried or time.monotonic() < self._next_try):
                raise OperationalError("the database did not answer a moment ago")
            # Several threads often connect at the same time: one too many waits for its turn first.
            if not self._changed.wait_for(self._has_room, QUIET_S):
                raise OperationalError("too many threads wait for the database")
            self._waits.append(wait)
            self._is_tried = True
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            with self._changed:
                self._is_tried = False
            self.heard(succeeded)
            self._end(wait)

    def answering(self, steps: PQGen[T], patience_s: float | None) -> PQGen[T]:
        """``steps`` of psycopg, interrupted by OperationalError when the server is silent for too long.

        Too long is ``patience_s``, or ``QUIET_S`` when too many threads have waited longer than this one.
        """
        wait = object()
        since = time.monotonic()
        try:
            event = next(steps)
            while True:
                ready = yield event
                if ready:
                    since = time.monotonic()
                else:
                    self._be_patient(wait, time.monotonic() - since, patience_s)
                event = steps.send(ready)
        except StopIteration as end:
            answer: T = end.value
            return answer
        finally:
            self._end(wait)

    def heard(self, is_there: bool) -> None:
        """Note whether the server answered just now."""
        self._is_away = not is_there
        self._next_try = time.monotonic() + PAUSE_S

    def _be_patient(self, wait: object, waited_s: float, patience_s: float | None) -> None:
        with self._changed:
            if wait not in self._waits:
                self._waits.append(wait)
            is_too_many = self.at_most is not None and self._waits.index(wait) >= self.at_most
        if patience_s is not None and waited_s >= patience_s:
            self.heard(False)
            raise OperationalError(f"the database did not answer within {patience_s:g} s")
        if is_too_many and waited_s >= QUIET_S:
            raise OperationalError("too many threads wait for the database")

    def _has_room(self) -> bool:
        return self.at_most is None or len(self._waits) < self.at_most

    def _end(self, wait: object) -> None:
        with self._changed:
            if wait in self._waits:
                self._waits.remove(wait)
                self._changed.notify()


#: The only one: a process has one PostgreSQL.
line = Line()
