"""Threads without which their process must not go on."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)


class Essential(threading.Thread):
    """A daemon thread whose unasked end ends the process with exit code 1, so that its supervisor starts a new one.

    A process that has lost one of its threads looks alive and does half of its work: it claims messages whose outcomes
    nobody sends, or runs them twice because nobody renews their leases. To be killed at any line is safe; that is not.

    A thread that raises has ended unasked. One that returns has, too, unless ``may_end`` is true by then.
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
                raise RuntimeError("the thread returned, and nobody had asked it to stop")
        except BaseException:
            if sys.is_finalizing():
                raise
            try:
                log.critical("thread_died", extra={"thread_name": self.name, "pid": os.getpid()}, exc_info=True)
            finally:
                os._exit(1)
