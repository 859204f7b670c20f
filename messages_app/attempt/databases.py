"""Django's connections to databases in the threads that run handlers: none stays broken, no transaction stays open.

Django looks after its connections when a request begins and ends; a message is none. A thread that has never opened a
connection pays a look at a flag.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Sequence
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from messages_app.failures import HandlerError

log = logging.getLogger(__name__)


class TransactionLeftOpen(HandlerError):
    """The handler returned and left a transaction open."""

    def __init__(self, databases: Sequence[str]) -> None:
        names = " and ".join(repr(name) for name in databases)
        super().__init__(
            f"The handler returned while its transaction on the database {names} was open. It was rolled back, so what "
            "it wrote there is gone: commit it, or write inside transaction.atomic()."
        )


class _Thread(threading.local):
    #: True once a connection was opened in this thread, until all are closed.
    opened = False


_thread = _Thread()


def _note(**_: Any) -> None:
    _thread.opened = True


connection_created.connect(_note, dispatch_uid="messages_app.attempt.databases")


def opened() -> bool:
    """Whether this thread may have open connections."""
    return _thread.opened


def prepare() -> Collection[str]:
    """Look after this thread's connections before an attempt; the databases whose transaction belongs to its caller.

    What is too old is closed, and what may be dead is tried before its next use where ``CONN_HEALTH_CHECKS`` says so.
    """
    if not _thread.opened:
        return ()
    held = [connection.alias for connection in _open() if connection.in_atomic_block]
    tidy(held)
    return held


def tidy(held: Collection[str] = (), *, drop: bool = False) -> list[str]:
    """Leave no connection of this thread in a state that the next message could meet.

    Returns the databases with a transaction left open; it is rolled back. A connection on which an error occurred is
    closed: it may be dead, and asking it would cost more than another. ``drop`` closes all of them: the attempt was
    interrupted, perhaps between a question and its answer. ``held`` are left alone.
    """
    left: list[str] = []
    for connection in _open():
        if connection.alias in held:
            continue
        try:
            if _in_transaction(connection):
                left.append(connection.alias)
                _discard(connection)
            elif drop or connection.errors_occurred:
                _discard(connection)
            else:
                connection.close_if_unusable_or_obsolete()
                _forget_session(connection)
        except Exception as error:
            # Whatever is wrong with it, the next message gets another.
            log.info("connection_discarded", extra={"database": connection.alias, "why": type(error).__name__})
            _discard(connection)
    _thread.opened = any(connection.connection is not None for connection in _open())
    return left


def _forget_session(connection: BaseDatabaseWrapper) -> None:
    """Leave nothing of this message in the session of a kept connection: settings, locks, temporary tables, LISTEN.

    SQLite's connections are not kept. A server that cannot be told to forget is left; the next message connects anew.
    """
    if connection.connection is None:
        return
    reset = getattr(connection, "reset_session", None)
    if reset is not None:
        reset()
    elif connection.vendor != "sqlite":
        connection.close()


def leave() -> list[str]:
    """``tidy`` in a thread that is about to end: closes everything."""
    return tidy(drop=True)


def _open() -> list[BaseDatabaseWrapper]:
    return list(connections.all(initialized_only=True))


def _in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Whether a transaction is open, from the driver's state without a query. A dead connection raises its error."""
    if connection.in_atomic_block:
        return True
    raw = connection.connection
    if raw is None:
        return False
    open_here = getattr(raw, "in_transaction", None)  # sqlite3
    if open_here is None and (info := getattr(raw, "info", None)) is not None:
        # psycopg: 0 idle, 1 active, 2 in a transaction, 3 in a failed one, 4 not connected any more
        open_here = info.transaction_status in (1, 2, 3)
    return not connection.autocommit if open_here is None else bool(open_here)


def _discard(connection: BaseDatabaseWrapper) -> None:
    """Roll back, close, and drop Django's object, because it remembers blocks that never end."""
    with contextlib.suppress(Exception):  # a dead connection has nothing to roll back
        if connection.connection is not None:
            connection.connection.rollback()
    with contextlib.suppress(Exception):
        connection.close()
    with contextlib.suppress(AttributeError):
        del connections[connection.alias]
