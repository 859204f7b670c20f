"""Django's database connections in the threads that run handlers: no broken one, no open transaction.

Django manages its connections at the start and end of a request, which a message is not. A thread that never opened a
connection only checks a flag.
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
    #: Whether a connection was opened in this thread and not all are closed.
    opened = False


_thread = _Thread()


def _note(**_: Any) -> None:
    _thread.opened = True


connection_created.connect(_note, dispatch_uid="messages_app.attempt.databases")


def opened() -> bool:
    """Whether this thread may have open connections."""
    return _thread.opened


def prepare() -> Collection[str]:
    """Prepare this thread's connections for an attempt; return the databases with a transaction of the caller.

    Closes old connections, and checks others before their next use with ``CONN_HEALTH_CHECKS``.
    """
    if not _thread.opened:
        return ()
    held = [connection.alias for connection in _open() if connection.in_atomic_block]
    tidy(held)
    return held


def tidy(held: Collection[str] = (), *, drop: bool = False) -> list[str]:
    """Clean up this thread's connections for the next message.

    Rolls back open transactions and returns their databases. Closes a connection on which an error occurred: it may be
    dead, and a check would cost more than a new one. ``drop`` closes all: the attempt was interrupted, perhaps between
    a query and its answer. Does not touch ``held``.
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
            # In any case the next message gets another one.
            log.info("connection_discarded", extra={"database": connection.alias, "why": type(error).__name__})
            _discard(connection)
    _thread.opened = any(connection.connection is not None for connection in _open())
    return left


def _forget_session(connection: BaseDatabaseWrapper) -> None:
    """Reset the session of a kept connection: settings, locks, temporary tables, LISTEN.

    SQLite needs no reset. The connection to a server without a reset is closed.
    """
    if connection.connection is None:
        return
    reset = getattr(connection, "reset_session", None)
    if reset is not None:
        reset()
    elif connection.vendor != "sqlite":
        connection.close()


def leave() -> list[str]:
    """``tidy`` for a thread that is about to end: closes all connections."""
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
