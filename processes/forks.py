"""Children that are forked from a process of ours: they do their own work and never go on with that of the process."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import suppress
from datetime import UTC, datetime

#: Names the descriptor of the lock that the supervisor of ``make up`` shares with the processes that it starts.
LOCK_VARIABLE = "UP_LOCK_FD"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_lock: int | None = None
_registered = False
_masks = threading.local()


def protect() -> None:
    """Take from every child that is forked from now on what belongs to this process alone.

    A child gives up the supervisor's lock, else it would block the next start. It ends on the signals that this process
    handles, else ``multiprocessing`` and a supervisor could not end it. May be called more than once.
    """
    global _lock, _registered
    number = os.environ.pop(LOCK_VARIABLE, "")
    if number.isdigit():
        with suppress(OSError):
            os.set_inheritable(int(number), False)  # for children that are not forked by Python
            _lock = int(number)
    if not _registered:
        _registered = True
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_give_up)


def _block() -> None:
    """Hold signals back: Python forgets those that reach a child before it has replaced the handlers."""
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _give_up() -> None:
    global _lock
    if _lock is not None:
        with suppress(OSError):
            os.close(_lock)
        _lock = None
    for number in _SIGNALS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    _unblock()


def leave_if_forked(owner: int, error: BaseException | None = None) -> None:
    """End this process at once unless its id is ``owner``: a child came back from the code that forked it.

    Nothing is flushed, closed or sent: the process ``owner`` shares every socket and has every buffer. ``error``: what
    the child raised; it gives the exit code, as for a program.
    """
    pid = os.getpid()
    if pid == owner:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
    how = "returned" if error is None else type(error).__name__
    say("warning", "forked_child_ended", pid=pid, parent=owner, how=how, exit_code=code)
    os._exit(code)


def say(level: str, event: str, **fields: object) -> None:
    """A line of the log, without ``logging``, whose locks another thread of the parent may have held."""
    line = {"event": event, **fields, "level": level, "time": datetime.now(UTC).isoformat()}
    with suppress(OSError):
        os.write(2, json.dumps(line).encode() + b"\n")
