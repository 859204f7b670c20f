"""The letters that each person started within the last hour: one document per person, one conditional update per start.

Uses the server's clock. Entries older than the window do not count, and the next start removes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter_values import safe_text
from dlq_app.store.mongo import Document, translated


@dataclass(frozen=True, slots=True)
class Start:
    """One start: its id, its letters, and when."""

    id: str
    count: int
    at: datetime


class Approvals:
    """Letters that people started, summed over a sliding window."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._approvals = collection

    def reserve(self, who: str, start_id: str, count: int, *, size: int, window: timedelta) -> Sequence[Start] | None:
        """Reserve a start if the person's sum stays within ``size``; else return the starts that prevent it.

        Atomic: of two concurrent starts the second counts the first. A repeated ``start_id`` counts once, with the
        larger number.
        """
        mine = {"$eq": ["$$this.id", {"$literal": start_id}]}
        wanted = {"$max": [{"$literal": count}, {"$max": "$mine.count"}]}
        entry = {"id": {"$literal": start_id}, "count": wanted, "at": "$$NOW"}
        fits = {"$lte": [{"$add": [{"$sum": "$others.count"}, wanted]}, size]}
        change: list[Document] = [
            {"$set": {"starts": _recent(window)}},
            {
                "$set": {
                    "mine": {"$filter": {"input": "$starts", "cond": mine}},
                    "others": {"$filter": {"input": "$starts", "cond": {"$not": [mine]}}},
                }
            },
            {"$set": {"starts": {"$cond": [fits, {"$concatArrays": ["$others", [entry]]}, "$starts"]}}},
            {"$unset": ["mine", "others"]},
        ]
        starts = self._starts(self._update(who, change))
        if any(one.id == start_id and one.count >= count for one in starts):
            return None
        return [one for one in starts if one.id != start_id]

    def _update(self, who: str, change: list[Document]) -> Document | None:
        try:
            with translated():
                return self._approvals.find_one_and_update(
                    {"_id": safe_text(who)}, change, upsert=True, return_document=ReturnDocument.AFTER
                )
        except StoreUnavailable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return self._update(who, change)  # another process inserted it concurrently
            raise

    def release(self, who: str, start_id: str, *, kept: int) -> None:
        """Reduce a start to its real number of letters; 0 removes it."""
        with translated():
            if kept:
                self._approvals.update_one(
                    {"_id": safe_text(who)},
                    {"$min": {"starts.$[mine].count": kept}},
                    array_filters=[{"mine.id": start_id}],
                )
            else:
                self._approvals.update_one({"_id": safe_text(who)}, {"$pull": {"starts": {"id": start_id}}})

    def starts(self, who: str, *, window: timedelta) -> Sequence[Start]:
        """The person's starts within the window, oldest first."""
        with translated():
            return self._starts(self._approvals.find_one({"_id": safe_text(who)}, {"starts": _recent(window)}))

    @staticmethod
    def _starts(document: Document | None) -> list[Start]:
        found = [Start(one["id"], int(one["count"]), one["at"]) for one in (document or {}).get("starts") or ()]
        return sorted(found, key=lambda one: one.at)


def _recent(window: timedelta) -> dict[str, Any]:
    since = {"$subtract": ["$$NOW", round(window.total_seconds() * 1000)]}
    return {"$filter": {"input": {"$ifNull": ["$starts", []]}, "cond": {"$gt": ["$$this.at", since]}}}
