"""The MongoDB client of this process, and the translation of its errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
from bson.errors import BSONError
from django.conf import settings
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import DocumentTooLarge, ExecutionTimeout, OperationFailure, PyMongoError

from dlq_app.domain.errors import NotStorable, QueryTooSlow, StoreUnavailable

Document = dict[str, Any]

LETTERS = "dead_letters"
LEASES = "dlq_leases"
BATCHES = "replay_batches"
ITEMS = "replay_items"
MARKS = "ledger_marks"
LOSSES = "ledger_losses"
APPROVALS = "dlq_approvals"
COUNTS = "dlq_counts"
FACETS = "dlq_facets"

_lock = threading.Lock()
_clients: dict[tuple[int, str, bool], MongoClient[Document]] = {}


def connect(url: str, *, retries: bool = True) -> MongoClient[Document]:
    """A client that waits 2 s for a server and 3 s for an answer; a write is done when a majority has journalled it.

    Without ``retries`` a write whose answer was lost is not repeated by the driver. That spares the server a note per
    write, about a third of what it does for an update, and is for callers who repeat by themselves.

    ``timeoutMS`` also sends ``maxTimeMS`` with every command, so the server stops when the caller has timed out.
    """
    return MongoClient(
        url,
        appname="dlq",
        connect=False,
        tz_aware=True,
        # BSON dates exceed the years of Python: one of them must not fail the whole read.
        datetime_conversion="DATETIME_AUTO",
        w="majority",
        journal=True,
        retryWrites=retries,
        retryReads=True,
        serverSelectionTimeoutMS=2000,
        connectTimeoutMS=2000,
        timeoutMS=3000,
    )


def client(*, retries: bool = True) -> MongoClient[Document]:
    """This process's client, created at its first use: a client must not be used across a fork."""
    key = (os.getpid(), settings.MONGODB_URL, retries)
    with _lock:
        if key not in _clients:
            _clients[key] = connect(settings.MONGODB_URL, retries=retries)
        return _clients[key]


def database(*, retries: bool = True) -> Database[Document]:
    """The database named by the settings."""
    return client(retries=retries)[settings.MONGODB_DATABASE]


@contextmanager
def translated() -> Iterator[None]:
    """Translate driver errors. After ``StoreUnavailable`` a write may have been applied or not."""
    try:
        yield
    except ExecutionTimeout as error:
        raise QueryTooSlow() from error
    except (DocumentTooLarge, BSONError, OverflowError, UnicodeEncodeError) as error:
        raise NotStorable(f"{type(error).__name__}: {error}"[:300]) from error
    except PyMongoError as error:
        # Only the name of the error: its text can quote the letter.
        name = (error.details or {}).get("codeName") if isinstance(error, OperationFailure) else None
        raise StoreUnavailable(f"The store of dead letters rejected the command: {name}." if name else "") from error


@contextmanager
def by_key() -> Iterator[None]:
    """Like ``translated``, for letters by id: a timeout becomes ``StoreUnavailable``, for MongoDB is slow or locked."""
    try:
        with translated():
            yield
    except QueryTooSlow as error:
        raise StoreUnavailable() from error


@contextmanager
def patiently(seconds: float) -> Iterator[None]:
    """``translated``, for the few questions that look at every letter: all of it together may take so long."""
    with pymongo.timeout(seconds), translated():
        yield


def _after_fork() -> None:
    # The lock can be held, and the sockets belong to the parent: the child starts without both.
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_after_fork)
