"""Data losses of the stores: the last mark of the ledger, and every loss that was found.

Intake's marks are kept here because MongoDB and Redis rarely lose data together. The prefix names the ledger of a mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Int64
from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.loss import Loss
from dlq_app.store.mongo import Document, patiently, translated

#: Maximum of listed losses; each is an accident.
MAX_LISTED = 100
#: Less than the timeout of a health check, so that health can still answer without MongoDB.
OPEN_S = 1.0


class Losses:
    """Marks and losses of ledgers, each move one conditional update."""

    def __init__(self, marks: Collection[Document], losses: Collection[Document]) -> None:
        self._marks = marks
        self._losses = losses

    def mark(self, prefix: str) -> Mapping[str, Any] | None:
        """The last stored mark of the ledger, or None.

        Reads with a write: a former primary would answer a read with an older mark.
        """
        with translated():
            return self._marks.find_one_and_update(
                {"_id": prefix}, {"$currentDate": {"lookedAt": True}}, return_document=ReturnDocument.AFTER
            )

    def advance(self, prefix: str, token: str | None, mark: Mapping[str, Any]) -> bool:
        """Replace the mark with this token (None: there is none). False: another process was faster."""
        document = {name: Int64(value) if isinstance(value, int) else value for name, value in mark.items()}
        try:
            with translated():
                if token is None:
                    self._marks.insert_one({"_id": prefix, **document})
                    return True
                return self._marks.update_one({"_id": prefix, "token": token}, {"$set": document}).matched_count == 1
        except StoreUnavailable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return False
            raise

    def note(self, prefix: str, loss: Loss) -> None:
        """Store a loss. A known loss only grows; an acknowledged one stays acknowledged."""
        once = {"prefix": prefix, "store": loss.store, "since": loss.since, "seenAt": loss.seen_at}
        most = {"missing": Int64(loss.missing), "moves": Int64(loss.moves), "open": Int64(loss.open)}
        with translated():
            self._losses.update_one(
                {"_id": loss.id}, {"$setOnInsert": once, "$max": {"until": loss.until, **most}}, upsert=True
            )

    def open(self, prefix: str) -> list[Loss]:
        """Losses that are not acknowledged, oldest first. Answers within ``OPEN_S``, for health checks."""
        with patiently(OPEN_S):
            found = list(
                self._losses.find({"prefix": prefix, "acknowledged": None}).sort("seenAt", 1).limit(MAX_LISTED)
            )
        return [_loss(document) for document in found]

    def all(self, prefix: str) -> list[Loss]:
        """Every loss, newest first."""
        with translated():
            found = list(self._losses.find({"prefix": prefix}).sort("seenAt", -1).limit(MAX_LISTED))
        return [_loss(document) for document in found]

    def acknowledge(self, prefix: str, ids: Sequence[str], *, by: str, why: str, at: datetime) -> list[str]:
        """Acknowledge losses; returns the ids of those that were not acknowledged before."""
        note = {"$literal": {"at": at, "by": by, "why": why}}
        new = []
        for loss_id in ids:
            with translated():
                changed = self._losses.update_one(
                    {"_id": loss_id, "prefix": prefix, "acknowledged": None}, [{"$set": {"acknowledged": note}}]
                )
            if changed.modified_count:
                new.append(loss_id)
        return new


def _loss(document: Document) -> Loss:
    acknowledged = document.get("acknowledged") or {}
    return Loss(
        id=str(document["_id"]),
        store=document["store"],
        since=document.get("since"),
        until=document["until"],
        seen_at=document["seenAt"],
        missing=int(document.get("missing", 0)),
        moves=int(document.get("moves", 0)),
        open=int(document.get("open", 0)),
        acknowledged_at=acknowledged.get("at"),
        acknowledged_by=acknowledged.get("by", ""),
        reason=acknowledged.get("why", ""),
    )
