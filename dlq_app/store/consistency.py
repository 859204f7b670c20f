"""Reads letters, batches and their items in pages, to compare them with each other and with intake's messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection
from pymongo.database import Database

from dlq_app.domain.letter_values import load_number
from dlq_app.domain.replay_batch import Stage
from dlq_app.domain.states import Status
from dlq_app.store import queries
from dlq_app.store.batches import StoredBatch, batch_from
from dlq_app.store.items import Tally, item_from
from dlq_app.store.mongo import APPROVALS, BATCHES, ITEMS, LETTERS, Document, database, patiently, translated

#: Documents read at once: a second of the server at most.
PAGE = 1000
#: Seconds for the few queries that read a whole collection.
SCAN_S = 300.0
_FIRST_ID = ObjectId("0" * 24)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLetter:
    """The fields of a letter that its message and its batches decide about."""

    id: ObjectId
    message_id: str
    status: str
    fence: int
    closed_epoch: int
    next_retry_at: datetime | None
    locked_at: datetime | None
    #: (epoch, has an outcome, batch id, is imported) of each listed replay.
    attempts: tuple[tuple[int, bool, str, bool], ...]


_PROJECTION = {
    "messageId": 1, "status": 1, "fence": 1, "closedEpoch": 1, "nextRetryAt": 1, "replay.lockedAt": 1,
    "replayAttempts.epoch": 1, "replayAttempts.outcome": 1, "replayAttempts.batchId": 1, "replayAttempts.imported": 1,
}  # fmt: skip


class Consistency:
    """Reads of one database. Flat memory: one page at a time."""

    def __init__(self, store: Database[Document]) -> None:
        self._letters: Collection[Document] = store[LETTERS]
        self._batches: Collection[Document] = store[BATCHES]
        self._items: Collection[Document] = store[ITEMS]
        self._approvals: Collection[Document] = store[APPROVALS]

    # -- letters

    def letters(self, since: datetime | None = None, *, only_claimed: bool = False) -> Iterator[list[SeenLetter]]:
        """All valid letters, or those changed since then, or those in a replay, in pages."""
        where: Document = {"updatedAt": {"$gte": since}} if since else {}
        if only_claimed:
            where["status"] = Status.PROCESSING.value
        after = _FIRST_ID
        while True:
            with patiently(SCAN_S):
                rows = self._letters.find({**where, "_id": {"$gt": after}}, _PROJECTION).sort("_id", 1).limit(PAGE)
                found = list(rows)
            if not found:
                return
            after = found[-1]["_id"]
            yield [letter for row in found if (letter := _seen(row))]

    def again(self, ids: Sequence[ObjectId]) -> dict[ObjectId, SeenLetter]:
        """These letters as they are now."""
        with translated():
            rows = list(self._letters.find({"_id": {"$in": list(ids)}}, _PROJECTION))
        return {letter.id: letter for row in rows if (letter := _seen(row))}

    def highest_epoch(self) -> int:
        """The highest fence or closed epoch of all letters; 0 without letters."""
        whole = {"$cond": [{"$isNumber": "$fence"}, "$fence", 0]}
        closed = {"$cond": [{"$isNumber": "$closedEpoch"}, "$closedEpoch", 0]}
        with patiently(SCAN_S):
            rows = list(self._letters.aggregate([{"$group": {"_id": None, "n": {"$max": {"$max": [whole, closed]}}}}]))
        return load_number(rows[0]["n"]) if rows else 0

    def not_letters(self) -> tuple[int, list[str]]:
        """Number of documents that are not letters, and some of their ``_id``."""
        where: Document = {"$or": queries.UNREADABLE}
        with patiently(SCAN_S):
            return self._letters.count_documents(where), [
                str(row["_id"]) for row in self._letters.find(where, {"_id": 1}).limit(PAGE)
            ]

    def twice(self) -> tuple[int, list[str]]:
        """Number of messages with more than one letter, and some of their ids. Needed only without the unique index."""
        pipeline: list[Document] = [
            {"$group": {"_id": "$messageId", "n": {"$sum": 1}}},
            {"$match": {"n": {"$gt": 1}}},
            {"$facet": {"all": [{"$count": "n"}], "some": [{"$sort": {"_id": 1}}, {"$limit": 10}]}},
        ]
        with patiently(SCAN_S):
            (found,) = self._letters.aggregate(pipeline, allowDiskUse=True)
        return (found["all"][0]["n"] if found["all"] else 0), [str(one["_id"]) for one in found["some"]]

    def by_status(self) -> dict[str, int]:
        """Number of letters by status, counted from index keys."""
        pipeline: list[Document] = [
            {"$match": {"status": {"$gte": ""}}},
            {"$group": {"_id": "$status", "n": {"$sum": 1}}},
        ]
        with patiently(SCAN_S):
            return {str(row["_id"]): int(row["n"]) for row in self._letters.aggregate(pipeline)}

    def changed_since(self, moment: datetime, limit: int) -> int:
        """Number of letters that changed since then, counted up to ``limit``."""
        with patiently(SCAN_S):
            return self._letters.count_documents({"updatedAt": {"$gte": moment}}, limit=limit)

    # -- batches

    def batches(self, since: datetime | None = None, *, only_active: bool = False) -> Iterator[StoredBatch | str]:
        """All planned batches; the id of one that cannot be read."""
        where: Document = {"stage": {"$ne": Stage.PLANNING.value}}
        if since:
            where["updatedAt"] = {"$gte": since}
        if only_active:
            where["active"] = True
        after = ""
        while True:
            with patiently(SCAN_S):
                found = list(self._batches.find({**where, "_id": {"$gt": after}}).sort("_id", 1).limit(100))
            for document in found:
                try:
                    yield batch_from(document)
                except (KeyError, TypeError, ValueError):
                    yield str(document["_id"])
            if not found:
                return
            after = found[-1]["_id"]

    def again_batch(self, batch_id: str) -> StoredBatch | None:
        with translated():
            document = self._batches.find_one({"_id": batch_id})
        return batch_from(document) if document else None

    def number_of_items(self, batch_id: str) -> int:
        with patiently(SCAN_S):
            return self._items.count_documents({"batchId": batch_id})

    def outcomes(self, batch_id: str) -> Iterator[list[tuple[str, str, str, datetime | None]]]:
        """Items of a batch whose letter lists an ended replay of it, in pages.

        Each as letter id, the item's outcome (empty: none), the letter's outcome, and when that replay ended.
        """
        after = -1
        while True:
            with patiently(SCAN_S):
                rows = list(self._items.find({"batchId": batch_id, "seq": {"$gt": after}}).sort("seq", 1).limit(PAGE))
                if not rows:
                    return
                after = int(rows[-1]["seq"])
                mine = {"$elemMatch": {"batchId": batch_id, "outcome": {"$ne": None}}}
                ended = {
                    row["_id"]: row["replayAttempts"][0]
                    for row in self._letters.find(
                        {"_id": {"$in": [row["letterId"] for row in rows]}, "replayAttempts": mine},
                        {"replayAttempts": mine},
                    )
                }
            yield [
                (
                    str(row["letterId"]),
                    item_from(row).outcome,
                    str(attempt["outcome"]),
                    _instant(attempt.get("endedAt")),
                )
                for row in rows
                if (attempt := ended.get(row["letterId"]))
            ]

    def batches_of_items(self) -> list[str]:
        """The batch ids that items name. One index key for each."""
        with patiently(SCAN_S):
            return [str(row["_id"]) for row in self._items.aggregate([{"$group": {"_id": "$batchId"}}])]

    def known_batches(self, batch_ids: Sequence[str]) -> set[str]:
        with translated():
            return {row["_id"] for row in self._batches.find({"_id": {"$in": list(batch_ids)}}, {"_id": 1})}

    def store_counts(self, seen: StoredBatch, tally: Tally) -> bool:
        """Replace the counts of an ended batch, unless it changed; return whether they were replaced."""
        counts = {f"counts.{name}": getattr(tally, name) for name in Tally.__dataclass_fields__}
        with translated():
            where = {"_id": seen.id, "active": {"$ne": True}, "updatedAt": seen.batch.updated_at}
            return self._batches.update_one(where, {"$set": counts}).modified_count == 1

    def reopen(self, seen: StoredBatch) -> bool:
        """Give an ended batch to the executors again; False if it changed. They send nothing for it."""
        where = {"_id": seen.id, "active": {"$ne": True}, "stage": seen.batch.stage.value}
        with translated():
            # Counts of items that were taken to have their outcome for good: one of them has none.
            change = {"$set": {"active": True}, "$unset": {"settled": ""}}
            return self._batches.update_one(where, change).modified_count == 1

    # -- approvals

    def reserved(self, batch_prefix: str, older_than: timedelta) -> list[tuple[str, str]]:
        """(person, batch id) of the starts of batches that are older than this, by the server's clock."""
        pipeline: list[Document] = [
            {"$unwind": "$starts"},
            {"$match": {"starts.id": {"$gte": batch_prefix, "$lt": batch_prefix + "\uffff"}}},
            {"$match": {"$expr": {"$lt": ["$starts.at", {"$subtract": ["$$NOW", _ms(older_than)]}]}}},
        ]
        with patiently(SCAN_S):
            return [(str(row["_id"]), str(row["starts"]["id"])) for row in self._approvals.aggregate(pipeline)]


def _seen(row: Mapping[str, Any]) -> SeenLetter | None:
    """None for a document that is not a letter; those are counted on their own."""
    if type(row.get("messageId")) is not str or not isinstance(row.get("status"), str):
        return None
    replay, entries = row.get("replay"), row.get("replayAttempts")
    return SeenLetter(
        id=row["_id"],
        message_id=row["messageId"],
        status=row["status"],
        fence=load_number(row.get("fence")),
        closed_epoch=load_number(row.get("closedEpoch")),
        next_retry_at=_instant(row.get("nextRetryAt")),
        locked_at=_instant(replay.get("lockedAt")) if isinstance(replay, dict) else None,
        attempts=tuple(
            (
                load_number(one.get("epoch")),
                one.get("outcome") is not None,
                str(one.get("batchId") or ""),
                bool(one.get("imported")),
            )
            for one in (entries if isinstance(entries, list) else ())
            if isinstance(one, dict)
        ),
    )


def _instant(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _ms(span: timedelta) -> int:
    return int(span.total_seconds() * 1000)


def consistency() -> Consistency:
    """The reads of the configured database."""
    return Consistency(database())
