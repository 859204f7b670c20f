"""Steps with a maximum duration. A process that is stuck in one exits, so that its supervisor starts a new one.

The heartbeat of the watchdog proves only that the interpreter runs. It does not detect a thread that waits forever in a
call that releases the interpreter, such as a DNS lookup or a request without a timeout.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from processes.hard_exit import hard_exit

log = logging.getLogger(__name__)

#: A process in a longer step must not report itself alive.
STUCK_S = 30.0
#: A longer step never ends: it makes a few requests to stores, each with a timeout of seconds.
END_S = 90.0


class _Step:
    """A step in progress, and the seconds in which the process could run since it began."""

    __slots__ = ("name", "took_s")

    def __init__(self, name: str) -> None:
        self.name = name
        self.took_s = 0.0


_under_way: dict[int, _Step] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    """Mark one step of this thread: a few requests to stores, without the wait for the next step. Steps do not nest."""
    thread = threading.get_ident()
    _under_way[thread] = _Step(name)
    try:
        yield
    finally:
        del _under_way[thread]


def progressed() -> None:
    """Restart the clock of this thread's step, if it is in one. For each iteration of a loop."""
    if one := _under_way.get(threading.get_ident()):
        one.took_s = 0.0


def is_stuck() -> bool:
    """Whether a step of this process takes longer than ``STUCK_S``."""
    return any(one.took_s > STUCK_S for one in list(_under_way.values()))


def add_time(seconds: float, role: str) -> None:
    """Add the time since the last call to all steps, and exit if one takes longer than ``END_S``.

    Only these calls add time, so a stopped process or a suspended host adds none.
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
                hard_exit(1)
