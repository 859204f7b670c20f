"""The dead letters in MongoDB. Each move is one conditional update; a lost race is a result, not an error.

Modules: ``reading`` (lists, counts), ``groupings``, ``outcomes`` (deaths, successful replays), ``claims`` (replays),
``moves`` (operators), ``leases`` (workers), ``letter_counts`` (counters), ``losses`` (data losses), ``transfer``
(exports, imports, deletion), ``approvals`` (limits per person).
"""

from __future__ import annotations

from datetime import datetime

from dlq_app.store.approvals import Approvals, Start
from dlq_app.store.batches import Batches, StoredBatch
from dlq_app.store.claims import BatchLetter, ClaimOrder, Claims
from dlq_app.store.groupings import GroupingLetters
from dlq_app.store.items import Items, Tally
from dlq_app.store.leases import Leases
from dlq_app.store.letter_counts import LetterCounts
from dlq_app.store.losses import Losses
from dlq_app.store.mongo import APPROVALS, BATCHES, COUNTS, ITEMS, LEASES, LETTERS, LOSSES, MARKS, database
from dlq_app.store.moves import Moves, Selection
from dlq_app.store.outcome_updates import LetterState
from dlq_app.store.outcomes import Inserted, Outcomes, Written
from dlq_app.store.pages import Page
from dlq_app.store.reading import MAX_NAMED
from dlq_app.store.search_words import Refreshed, SearchWords
from dlq_app.store.store_clock import StoreClock
from dlq_app.store.transfer import IMPORTED, MIN_AGE, UNCHANGED, Transfer
from processes.once import OncePerProcess


class Letters(GroupingLetters, Outcomes, Claims, Transfer, Moves, SearchWords):
    """All queries and moves of the letters in one collection."""


def letters() -> Letters:
    """The letters of the configured database. Cheap: the process has one client."""
    return Letters(database()[LETTERS], database(retries=False)[LETTERS])


def batches() -> Batches:
    """The replay batches of the configured database."""
    return Batches(database()[BATCHES])


def items() -> Items:
    """The letters of replay batches in the configured database."""
    return Items(database()[LETTERS], database()[ITEMS])


def leases() -> Leases:
    """The leases of the configured database."""
    return Leases(database()[LEASES])


def approvals() -> Approvals:
    """Letters that people started within the last hour, in the configured database."""
    return Approvals(database()[APPROVALS])


def letter_counts() -> LetterCounts:
    """The counters of letters in the configured database."""
    return LetterCounts(database()[COUNTS], database()[LETTERS], database()[BATCHES])


def losses() -> Losses:
    """Marks of the ledger, and losses, in the configured database."""
    return Losses(database()[MARKS], database()[LOSSES])


@OncePerProcess
def _clock() -> StoreClock:
    return StoreClock(lambda: letters().server_now())


def now() -> datetime:
    """MongoDB's time, which letters use. Rarely queries it, and can then raise ``StoreUnavailable``."""
    return _clock().now()


__all__ = [
    "IMPORTED",
    "MAX_NAMED",
    "MIN_AGE",
    "UNCHANGED",
    "Approvals",
    "BatchLetter",
    "Batches",
    "ClaimOrder",
    "Inserted",
    "Items",
    "Leases",
    "LetterCounts",
    "LetterState",
    "Letters",
    "Losses",
    "Page",
    "Refreshed",
    "Selection",
    "Start",
    "StoredBatch",
    "Tally",
    "Written",
    "approvals",
    "batches",
    "items",
    "leases",
    "letter_counts",
    "letters",
    "losses",
    "now",
]
