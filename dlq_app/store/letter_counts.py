"""Counters of letters that never fall, although letters are deleted: one document, moved on in steps.

A step counts what happened in a span of time that is over, and adds it together with the end of the span, in one update
that requires the end of the last step. So a step that is repeated, interrupted or done by two processes counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.replay_batch import Stage
from dlq_app.domain.states import Resolution, Status
from dlq_app.store.hinted import hinted
from dlq_app.store.indexes import CREATED, RESOLVED
from dlq_app.store.mongo import Document, patiently, translated

#: A write that began before the end of a span may still be under way: a span ends this long ago.
MARGIN = timedelta(seconds=30)
#: Maximum length of a span.
SPAN = timedelta(minutes=10)
#: Seconds for one step. Most spans have a few letters; an import may put a million into one.
STEP_LIMIT_S = 60.0
_ID = "letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """The counters. ``age_s``: seconds since the end of the last span, by the server's clock."""

    resolved: Mapping[str, int]
    #: Letters whose time for their resolution is over, and those of them that were not resolved in it.
    due: int
    missed: int
    #: Replay batches that stopped automatically.
    stopped_batches: int
    age_s: float


class LetterCounts:
    """The counters of one database. Safe for threads and processes."""

    def __init__(
        self, counts: Collection[Document], letters: Collection[Document], batches: Collection[Document]
    ) -> None:
        self._counts = counts
        self._letters = letters
        self._batches = batches

    def read(self) -> Counted | None:
        """The counters; None before the first step. Raises ``StoreUnavailable``."""
        age: list[Document] = [{"$match": {"_id": _ID}}, {"$set": {"age": {"$subtract": ["$$NOW", "$until"]}}}]
        with translated():
            found = next(iter(self._counts.aggregate(age)), None)
        if found is None:
            return None
        resolved = {one.value: int(found.get("resolved", {}).get(one.value, 0)) for one in Resolution}
        return Counted(
            resolved=resolved,
            due=int(found.get("due", 0)),
            missed=int(found.get("missed", 0)),
            stopped_batches=int(found.get("stoppedBatches", 0)),
            age_s=found["age"] / 1000,
        )

    def step(self, now: datetime, within: timedelta) -> bool:
        """Count one span; return whether another can be counted now.

        ``now``: the server's time. ``within``: the time in which a letter should be resolved; after a change, letters
        that were judged are not judged again. Raises ``StoreUnavailable`` and ``QueryTooSlow``: then repeat it.
        """
        with translated():
            mark = self._counts.find_one({"_id": _ID})
        if mark is None:
            return self._begin(now, within)
        until: datetime = mark["until"]
        judged_until: datetime = mark["judgedUntil"]
        to, judged_to = min(now - MARGIN, until + SPAN), min(now - MARGIN - within, judged_until + SPAN)
        to, judged_to = max(to, until), max(judged_to, judged_until)
        if to == until and judged_to == judged_until:
            return False
        with patiently(STEP_LIMIT_S):
            added = {f"resolved.{name}": n for name, n in self._resolved(until, to).items()}
            added["due"], added["missed"] = self._judged(judged_until, judged_to, within)
            added["stoppedBatches"] = self._batches.count_documents(
                {"stage": Stage.STOPPED.value, "stoppedAt": {"$gte": until, "$lt": to}}
            )
            self._counts.update_one(
                {"_id": _ID, "until": until, "judgedUntil": judged_until},
                {"$set": {"until": to, "judgedUntil": judged_to}, "$inc": added},
            )
        return to - until == SPAN or judged_to - judged_until == SPAN

    def _begin(self, now: datetime, within: timedelta) -> bool:
        """Count from now on. Nothing is known of letters that were deleted."""
        mark = {"_id": _ID, "until": now - MARGIN, "judgedUntil": now - MARGIN - within}
        try:
            with translated():
                self._counts.insert_one(mark)
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, DuplicateKeyError):
                raise
        return False

    def _resolved(self, since: datetime, to: datetime) -> dict[str, int]:
        pipeline: list[Document] = [
            {"$match": {"status": Status.RESOLVED.value, "resolvedAt": {"$gte": since, "$lt": to}}},
            {"$group": {"_id": "$resolution", "n": {"$sum": 1}}},
        ]
        known = {resolution.value for resolution in Resolution}
        return {row["_id"]: row["n"] for row in self._rows(pipeline, RESOLVED) if row["_id"] in known}

    def _judged(self, since: datetime, to: datetime, within: timedelta) -> tuple[int, int]:
        in_time = {
            "$and": [
                {"$eq": ["$status", Status.RESOLVED.value]},
                {"$eq": [{"$type": "$resolvedAt"}, "date"]},
                {"$lte": ["$resolvedAt", {"$add": ["$createdAt", int(within.total_seconds() * 1000)]}]},
            ]
        }
        pipeline: list[Document] = [
            {"$match": {"createdAt": {"$gte": since, "$lt": to}}},
            {"$group": {"_id": None, "due": {"$sum": 1}, "missed": {"$sum": {"$cond": [in_time, 0, 1]}}}},
        ]
        rows = self._rows(pipeline, CREATED)
        return (rows[0]["due"], rows[0]["missed"]) if rows else (0, 0)

    def _rows(self, pipeline: list[Document], index: str) -> list[Document]:
        def ask(hint: str | None) -> list[Document]:
            options: dict[str, Any] = {"hint": hint} if hint else {}
            return list(self._letters.aggregate(pipeline, **options))

        return hinted(ask, index)
