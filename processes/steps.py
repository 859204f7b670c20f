"""Steps that must come to an end. A process that is stuck in one is ended, so that its supervisor starts a new one.

The watchdog beats from a thread of its own and proves only that the interpreter runs. It does not see a thread that
waits without end in a call that releases the interpreter, such as a name look-up or a store that has no time-out.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

#: A process should no longer report itself alive when a step has taken so long.
STUCK_S = 30.0
#: A step that takes longer never ends: it makes a few calls to stores, and each of them has a limit of seconds.
END_S = 90.0


class _Step:
    """One step under way, and the seconds of it that the process really had."""

    __slots__ = ("name", "took_s")

    def __init__(self, name: str) -> None:
        self.name = name
        self.took_s = 0.0


_under_way: dict[int, _Step] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    """Do one step of this thread's work, a few calls to stores. Waiting for the next is none. Steps do not nest."""
    thread = threading.get_ident()
    _under_way[thread] = _Step(name)
    try:
        yield
    finally:
        del _under_way[thread]


def goes_on() -> None:
    """Report progress of this thread's step, if any: its time starts again. Call it in each turn of a loop."""
    if one := _under_way.get(threading.get_ident()):
        one.took_s = 0.0


def is_stuck() -> bool:
    """Whether a step of this process has taken longer than ``STUCK_S``."""
    return any(one.took_s > STUCK_S for one in list(_under_way.values()))


def grow(seconds: float, role: str) -> None:
    """Add ``seconds`` to every running step, and end the process if a step has taken longer than ``END_S``.

    Only the time of these calls counts, not the time in which the process was stopped or its host slept.
    """
    for one in list(_under_way.values()):
        before_s, one.took_s = one.took_s, one.took_s + seconds
        if before_s <= STUCK_S < one.took_s:
            log.error("step_slow", extra={"role": role, "step": one.name, "took_s": round(one.took_s)})
        if one.took_s > END_S:
            try:
                log.critical("step_stuck", extra={"role": role, "step": one.name, "took_s": round(one.took_s)})
                faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
            finally:
                os._exit(1)
