"""Children that are forked from one of our processes: they must not continue the work of their parent."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import suppress
from datetime import UTC, datetime

#: The file descriptor of the lock that the supervisor of ``make up`` shares with the processes that it starts.
LOCK_VARIABLE = "UP_LOCK_FD"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

_lock: int | None = None
_registered = False
_masks = threading.local()


def protect() -> None:
    """Prepare future forks: a child releases the lock and the signal handlers of this process.

    With the supervisor's lock it would block the next start. With the signal handlers, ``multiprocessing`` and a
    supervisor could not end it. May be called more than once.
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
    """Block signals: Python loses those that reach a child before it has replaced the handlers."""
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


def exit_if_forked(owner: int, error: BaseException | None = None) -> None:
    """Exit at once unless the id of this process is ``owner``: a child returned from the code that forked it.

    Nothing is flushed, closed or sent: the sockets and buffers belong to ``owner``. ``error`` is the exception of the
    child; it determines the exit code, as for a program.
    """
    pid = os.getpid()
    if pid == owner:
        return
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code & 0xFF if isinstance(error.code, int) else int(error.code is not None)
    how = "returned" if error is None else type(error).__name__
    write_log_line("warning", "forked_child_ended", pid=pid, parent=owner, how=how, exit_code=code)
    os._exit(code)


def write_log_line(level: str, event: str, **fields: object) -> None:
    """Write a line of the log without ``logging``, whose locks a thread of the parent may hold."""
    line = {"event": event, **fields, "level": level, "time": datetime.now(UTC).isoformat()}
    with suppress(OSError):
        os.write(2, json.dumps(line).encode() + b"\n")
