"""Tasks that are repeated for as long as a process lives: an error ends a turn, never the task."""

from __future__ import annotations

import logging
from collections.abc import Callable

from wire.errors import ServiceError, StoreUnavailable


class OutageLog:
    """Logs an outage once when it begins and once when it ends."""

    def __init__(self, log: logging.Logger, begins: str, ends: str, **extra: object) -> None:
        """``begins`` and ``ends``: the events of the log; ``extra``: fields of both."""
        self.log = log
        self.extra = extra
        self._begins, self._ends = begins, ends
        #: Empty while there is no outage.
        self.why = ""

    def failed(self, error: Exception, **extra: object) -> None:
        if not self.why:
            self.why = str(error) or type(error).__name__
            self.log.warning(self._begins, extra={**self.extra, **extra, "why": self.why})

    def succeeded(self) -> None:
        if self.why:
            self.why = ""
            self.log.info(self._ends, extra=self.extra)


class Turns:
    """Repeats a task and survives its errors. The pause after an error doubles with each further one."""

    def __init__(
        self, task: Callable[[], float], outage: OutageLog, *, broken: str, min_pause_s: float = 0.25,
        max_pause_s: float, expected: type[ServiceError] = StoreUnavailable,
    ) -> None:  # fmt: skip
        """``task`` returns the seconds until it is due again. ``expected`` is an outage.

        Any other error is logged as ``broken``, with its stack.
        """
        self._task = task
        self.outage = outage
        self._broken = broken
        self._min_pause_s, self._max_pause_s = min_pause_s, max_pause_s
        self._expected = expected
        self._pause_s = 0.0

    def turn(self) -> float:
        """Do the task once and return the seconds until the next turn. Never raises an ``Exception``."""
        min_pause_s = self._min_pause_s
        try:
            wait_s = self._task()
        except self._expected as error:
            self.outage.failed(error)
        except Exception:
            # The pause keeps a task that always fails from spinning.
            min_pause_s = max(min_pause_s, 1.0)
            self.outage.log.exception(self._broken, extra=self.outage.extra)
        else:
            self._pause_s = 0.0
            self.outage.succeeded()
            return wait_s
        self._pause_s = min(max(2 * self._pause_s, min_pause_s), self._max_pause_s)
        return self._pause_s
