"""Heartbeats to a program beside the process (``monitor``); without them, that program kills the process."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from processes import forks, leaner, monitor, steps
from processes.essential import Essential

log = logging.getLogger(__name__)


class Watchdog:
    """Sends heartbeats from a thread of its own, so a slow store or a long message is no silence.

    Code that holds the interpreter stops the heartbeats: a C function that does not release it, or a regular expression
    that never ends. No thread of the process runs then, so only another process can end it, by SIGKILL. Everything that
    it held is recovered as after any other kill.

    The same thread exits a process that is stuck in a step; see ``steps``.
    """

    def __init__(self, name: str, limit_s: float) -> None:
        """``limit_s``: seconds without a heartbeat after which the process is killed; less than a lease."""
        self._name = name
        self._parent = os.getppid()
        self._limit_s = limit_s
        self._every_s = min(1.0, limit_s / 10)
        self._monitor: subprocess.Popen[bytes] | None = None
        self._beats = -1
        self._is_missing = False
        self._thread = Essential(self._run, "watchdog")

    def start(self) -> None:
        """Watch this process until it ends."""
        faulthandler.register(monitor.STACKS, file=sys.__stderr__ or 2, all_threads=True, chain=False)
        if os.getpid() == 1:
            _exit_on(monitor.EXIT)
        self._begin()  # before anything can hold the interpreter
        self._thread.start()

    def _run(self) -> None:
        while True:
            self._beat()
            time.sleep(self._every_s)
            steps.add_time(self._every_s, self._name)

    def _beat(self) -> None:
        if self._monitor is None:
            self._begin()
        with suppress(BlockingIOError):  # the monitor is slow, or stopped
            try:
                if self._beats >= 0:
                    os.write(self._beats, b".")
            except BrokenPipeError:
                log.warning("watchdog_lost", extra={"role": self._name})
                self._let_go()

    def _begin(self) -> None:
        try:
            read, self._beats = os.pipe()  # neither end goes on to a program that a handler starts
            os.set_blocking(self._beats, False)
            with os.fdopen(read):
                self._monitor = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", str(Path(monitor.__file__).resolve())),
                        *(str(os.getpid()), str(self._limit_s), self._name, str(self._parent)),
                    ],
                    stdin=read, stdout=subprocess.DEVNULL, start_new_session=True,
                )  # fmt: skip
        except OSError as error:  # too many files or processes, no memory: tried again at the next beat
            self._let_go()
            if not self._is_missing:
                log.error("watchdog_missing", extra={"role": self._name, "why": str(error)})
        self._is_missing = self._monitor is None

    def _let_go(self) -> None:
        if self._beats >= 0:
            os.close(self._beats)
            self._beats = -1
        if self._monitor is not None:
            self._monitor.kill()
            self._monitor.wait()
            self._monitor = None


def _exit_on(number: int) -> None:
    """Exit on this signal, without the interpreter.

    The kernel protects the first process of a container even from SIGKILL, unless it comes from outside. It does call a
    signal handler, and one that is a C function needs no interpreter.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal(number, ctypes.cast(libc._exit, ctypes.c_void_p))


def guard(name: str, limit_s: float) -> None:
    """Watch this process and its forks until it ends. For the main thread of a role, before it starts to work."""
    leaner.settle()
    forks.protect()
    Watchdog(name, limit_s).start()
