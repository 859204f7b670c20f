"""Threads whose unexpected end ends the process."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from processes.hard_exit import hard_exit

log = logging.getLogger(__name__)


class Essential(threading.Thread):
    """A daemon thread. If it ends unexpectedly, the process exits with code 1 and its supervisor starts a new one.

    A process that lost one of its threads looks healthy but does half of its work: it claims messages and never sends
    their outcomes, or runs them twice because their leases are not renewed. A kill at any line is safe; this is not.

    A thread ends unexpectedly if it raises, or if it returns while ``may_end`` is false.
    """

    def __init__(
        self,
        target: Callable[..., object],
        name: str,
        args: tuple[Any, ...] = (),
        *,
        may_end: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
        self._may_end = may_end

    def run(self) -> None:
        try:
            super().run()
            if not self._may_end():
                raise RuntimeError("the thread returned without a request to stop")
        except BaseException:
            if sys.is_finalizing():
                raise
            try:
                log.critical("thread_died", extra={"thread_name": self.name, "pid": os.getpid()}, exc_info=True)
            finally:
                hard_exit(1)
