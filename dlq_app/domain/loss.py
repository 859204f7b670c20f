"""A period whose data a store has lost. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Data that a store had and has lost."""

    id: str
    #: ``redis`` or ``mongodb``.
    store: str
    #: The time of the last state that is left; None if the store was emptied or replaced.
    since: datetime | None
    #: The time of the last known state before the loss.
    until: datetime
    seen_at: datetime
    #: Messages accepted in between, according to marks half a second apart. MongoDB: outcomes recorded in between that
    #: Redis still has.
    missing: int = 0
    #: Claims and outcomes in between; 0 for MongoDB.
    moves: int = 0
    #: Messages that had not ended at ``until``; 0 for MongoDB.
    open: int = 0
    acknowledged_at: datetime | None = None
    acknowledged_by: str = ""
    reason: str = ""
