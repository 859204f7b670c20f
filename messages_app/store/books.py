"""The accounts of all days, for readers that look every few seconds."""

from __future__ import annotations

from typing import Final

from messages_app.domain.records import AccountRow
from messages_app.store.ledger import ledger
from wire.cached import Cached

#: Seconds for which the accounts of earlier days are kept.
BOOKS_S: Final = 30.0

_all_accounts = Cached(lambda: ledger().accounting(), BOOKS_S)


def books() -> list[AccountRow]:
    """The accounts of all days, read once in ``BOOKS_S``; only the last two days in between.

    Raises ``StoreUnavailable``.
    """
    rows, recent = _all_accounts(), ledger().accounting(2)
    days = {row.day for row in recent}
    return [row for row in rows if row.day not in days] + recent


def forget() -> None:
    """Read all of them at the next call."""
    _all_accounts.forget()
