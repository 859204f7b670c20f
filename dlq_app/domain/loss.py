"""A stretch of time that a store has forgotten. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a store once had and has no longer."""

    id: str
    #: ``redis`` or ``mongodb``.
    store: str
    #: The last state that is left; None when nothing is: the store was emptied, or is another one.
    since: datetime | None
    #: The last state that is known to have been.
    until: datetime
    seen_at: datetime
    #: Messages accepted in between, as marks half a second apart tell. MongoDB: outcomes recorded in between, as far as
    #: Redis remembers them.
    missing: int = 0
    #: Claims and outcomes in between; 0 for MongoDB.
    moves: int = 0
    #: Messages that had not ended at ``until``; 0 for MongoDB.
    open: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    reason: str = ""
