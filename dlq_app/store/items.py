"""Items: the letters of replay batches, one document each. An outcome is written once, as a copy of the letter's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.write_concern import WriteConcern

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.letter import POISON, DeadLetter
from dlq_app.domain.replay_batch import FAILED, OUTCOME_FILTERS, SKIPPED, SUCCEEDED, BatchItem, BatchOrder
from dlq_app.domain.states import WAITING, Status
from dlq_app.store import queries
from dlq_app.store.documents import HEAVY, letters_from
from dlq_app.store.mongo import ITEMS, LETTERS, Document, patiently, translated

#: Time limit of planning: the request that started the batch must still be answered.
PLAN_LIMIT_S = 45.0
#: Time limit of a scan of all letters, for a dry run or a count.
SCAN_LIMIT_S = 20.0
#: Maximum count of late arrivals.
MAX_LATE = 10_000
_PAGE = 5000
_WAITING = {"status": {"$in": sorted(status.value for status in WAITING)}}
#: The order of a plan: oldest failure first.
_ORDER = {"lastFailedAt": 1, "_id": 1}
_POISON: Document = {"errorType": POISON}
_NOT_POISON: Document = {"errorType": {"$ne": POISON}}
_WITHOUT_HEAVY = dict.fromkeys(HEAVY, 0)


@dataclass(frozen=True, slots=True)
class Tally:
    """Numbers of items in a range of a plan."""

    sent: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    #: Without an outcome.
    open: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.sent + other.sent,
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.skipped + other.skipped,
            self.open + other.open,
        )


@dataclass(frozen=True, slots=True)
class PlanGroup:
    """Letters that match an order, by error type and type."""

    error_type: str
    type: str
    count: int


class Items:
    def __init__(self, letters: Collection[Document], items: Collection[Document]) -> None:
        self._letters = letters
        self._items = items
        # Marks and outcomes repeat the letters: if a crash of the server loses them, they are written again. So writes
        # do not wait for the journal. The write that finishes a batch does, which makes all earlier ones durable.
        self._marks = items.with_options(write_concern=WriteConcern(w=1, j=False))

    # -- before

    def plan_groups(self, order: BatchOrder, batches: Sequence[str] = ()) -> list[PlanGroup]:
        """The letters of a plan made now, by error type and type. Reads every letter that matches.

        ``batches``, here and below: ids of the unfinished batches; no other batch takes their letters.
        """
        pipeline = [
            *self._chosen(order, batches),
            {"$group": {"_id": {"e": "$errorType", "t": "$type"}, "n": {"$sum": 1}}},
            {"$sort": {"n": -1, "_id": 1}},
        ]
        with patiently(SCAN_LIMIT_S):
            rows = list(self._letters.aggregate(pipeline))
        return [PlanGroup(str(row["_id"].get("e", "")), str(row["_id"].get("t", "")), row["n"]) for row in rows]

    def sample(self, order: BatchOrder, size: int, batches: Sequence[str] = ()) -> list[DeadLetter]:
        """The first letters of a plan made now, without payload and stack."""
        pipeline = [*self._chosen(replace(order, limit=size), batches), {"$project": _WITHOUT_HEAVY}]
        with patiently(SCAN_LIMIT_S):
            return letters_from(list(self._letters.aggregate(pipeline)))

    def left_out(self, order: BatchOrder, batches: Sequence[str] = ()) -> dict[str, int]:
        """Letters that match an order and would not be in its plan, by reason."""
        wanted = _matching(order)
        with patiently(SCAN_LIMIT_S):
            found = {
                "resolved": self._count(wanted, {"status": Status.RESOLVED.value}),
                "in_flight": self._count(wanted, {"status": Status.PROCESSING.value}),
                "in_batch": self._count_held(wanted, batches) if batches else 0,
            }
            found["unreadable"] = self._unreadable(order)
            found["poison"] = 0 if order.poison else self._poison(order, batches)
            if order.limit is not None:
                left = found["unreadable"] + found["in_batch"] + found["poison"]
                waiting = self._count(wanted, _WAITING) - left
                found["limit"] = max(0, waiting - order.limit)
            if order.ids:
                rows = self._letters.find(wanted, {"messageId": 1})
                # Both ids of a letter may be given.
                known = {name for row in rows for name in (str(row["_id"]), row.get("messageId"))}
                found["not_found"] = sum(one not in known for one in order.ids)
        return {why: count for why, count in found.items() if count > 0}

    def _unreadable(self, order: BatchOrder) -> int:
        """Matching documents that are not valid letters. A few index lookups if there are none."""
        with patiently(SCAN_LIMIT_S):
            return self._count(_matching(order), _WAITING, {"$or": queries.UNREADABLE})

    def _poison(self, order: BatchOrder, batches: Sequence[str]) -> int:
        """Waiting letters whose message probably kills its process, without those that another batch has."""
        if not self._has_poison(order):
            return 0
        poisonous = {"$and": [_matching(order), _POISON]}
        held = self._count_held(poisonous, batches) if batches else 0
        return self._count(poisonous, _WAITING, *self._readable(order)) - held

    def _has_poison(self, order: BatchOrder) -> bool:
        with patiently(SCAN_LIMIT_S):
            where = {"$and": [_matching(order), _WAITING, _POISON]}
            return self._letters.count_documents(where, limit=1) > 0

    def _readable(self, order: BatchOrder) -> list[Document]:
        """The condition that excludes them. Only if there are some: it makes the server read every letter."""
        return [{"$nor": queries.UNREADABLE}] if self._unreadable(order) else []

    def _chosen(self, order: BatchOrder, batches: Sequence[str], *, is_sorted: bool = False) -> list[Document]:
        """Pipeline stages that select the letters of a plan: matching, waiting, valid, in no other plan."""
        # Only if there are some, so that the usual plan is found as before. One that comes in between is skipped later.
        poison = [] if order.poison or not self._has_poison(order) else [_NOT_POISON]
        stages: list[Document] = [{"$match": {"$and": [_matching(order), _WAITING, *poison, *self._readable(order)]}}]
        if is_sorted or order.limit is not None:
            stages.append({"$sort": _ORDER})
        if batches:
            stages += [*_with_items(batches), {"$match": {"held": []}}, {"$unset": ["held", "itemIds"]}]
        if order.limit is not None:
            stages.append({"$limit": order.limit})
        return stages

    def _count(self, *conditions: Document) -> int:
        return self._letters.count_documents({"$and": list(conditions)})

    def _count_held(self, wanted: Document, batches: Sequence[str]) -> int:
        pipeline: list[Document] = [
            {"$match": {"$and": [wanted, _WAITING]}},
            {"$project": {"_id": 1}},
            *_with_items(batches),
            {"$match": {"held": {"$ne": []}}},
            {"$count": "n"},
        ]
        return next((int(row["n"]) for row in self._letters.aggregate(pipeline)), 0)

    # -- the plan

    def plan(self, batch_id: str, order: BatchOrder, batches: Sequence[str] = ()) -> int:
        """Store an item for every letter that matches now; return their number. Keeps a few thousand in memory.

        Only for a batch without items. If it is killed or times out, items of an unpublished batch remain. On a replica
        set all letters are read at one point in time; elsewhere a letter that fails again meanwhile may come twice, and
        the plan is rejected with ``StoreUnavailable``.
        """
        # Not with $merge: it writes one document after the other and takes four times as long.
        pipeline = [*self._chosen(order, batches, is_sorted=True), {"$project": {"messageId": 1}}]
        total = 0
        with patiently(PLAN_LIMIT_S), self._instant() as session:
            found = self._letters.aggregate(pipeline, session=session, batchSize=_PAGE, allowDiskUse=True)
            for rows in _pages(found, _PAGE):
                items = [_new_item(batch_id, total + place, row) for place, row in enumerate(rows)]
                self._items.insert_many(items, ordered=False)
                total += len(items)
        return total

    @contextmanager
    def _instant(self) -> Iterator[ClientSession | None]:
        """A session that reads at one point in time; None where the server does not support it."""
        client = self._letters.database.client
        if "setName" not in client.admin.command("hello"):
            yield None
            return
        with client.start_session(snapshot=True) as session:
            yield session

    def remove(self, batch_id: str) -> None:
        """Delete all items of a batch, a few thousand at a time."""
        while True:
            with translated():
                found = [row["_id"] for row in self._items.find({"batchId": batch_id}, {"_id": 1}).limit(_PAGE)]
                if not found:
                    return
                self._items.delete_many({"_id": {"$in": found}})

    def late_arrivals(self, batch_id: str, criteria: LetterCriteria, planned_at: datetime) -> int:
        """Letters that match and were created after the plan; at most ``MAX_LATE``."""
        pipeline: list[Document] = [
            {"$match": {"$and": [queries.matching(criteria), {"createdAt": {"$gte": planned_at}}]}},
            {"$limit": MAX_LATE + 1},
            {"$project": {"item": {"$concat": [batch_id, ":", {"$toString": "$_id"}]}}},
            # A letter created during planning may be in the plan.
            {"$lookup": {"from": ITEMS, "localField": "item", "foreignField": "_id", "as": "planned"}},
            {"$match": {"planned": []}},
            {"$count": "n"},
        ]
        with translated():
            rows = list(self._letters.aggregate(pipeline))
        return min(int(rows[0]["n"]), MAX_LATE) if rows else 0

    # -- under way

    def open_items(self, batch_id: str, begin: int, end: int) -> list[BatchItem]:
        """The items from place ``begin`` to before ``end`` that have no outcome, in order."""
        where = {"batchId": batch_id, "seq": {"$gte": begin, "$lt": end}, "outcome": None}
        with translated():
            return [item_from(row) for row in self._items.find(where).sort("seq", 1)]

    def in_flight(self, batch_id: str, after: int, before: int, limit: int) -> list[BatchItem]:
        """Items that were sent and have no outcome, between the places ``after`` and ``before``, in order."""
        return self._open(batch_id, True, {"$gt": after, "$lt": before}, limit)

    def unsent(self, batch_id: str, before: int, limit: int) -> list[BatchItem]:
        """Items before position ``before`` of the plan that an executor took but neither sent nor skipped, in order."""
        return self._open(batch_id, False, {"$lt": before}, limit)

    def _open(self, batch_id: str, sent: bool, places: Document, limit: int) -> list[BatchItem]:
        where = {"batchId": batch_id, "outcome": None, "sent": sent, "seq": places}
        with translated():
            return [item_from(row) for row in self._items.find(where).sort("seq", 1).limit(limit)]

    def first_open(self, batch_id: str) -> int | None:
        """The first place without an outcome; None if there is none."""
        with translated():
            first = self._items.find_one({"batchId": batch_id, "outcome": None}, {"seq": 1}, sort=[("seq", 1)])
        return int(first["seq"]) if first else None

    def tally(self, batch_id: str, begin: int, end: int) -> Tally:
        """Counts of the items from place ``begin`` to before ``end``."""
        if begin >= end:
            return Tally()
        pipeline: list[Document] = [
            {"$match": {"batchId": batch_id, "seq": {"$gte": begin, "$lt": end}}},
            {"$group": {"_id": {"o": "$outcome", "s": "$sent"}, "n": {"$sum": 1}}},
        ]
        with translated():
            rows = list(self._items.aggregate(pipeline))
        counts = dict.fromkeys(("sent", "succeeded", "failed", "skipped", "open"), 0)
        for row in rows:
            counts[_column(row["_id"].get("o"))] += row["n"]
            counts["sent"] += row["n"] if row["_id"].get("s") else 0
        return Tally(**counts)

    def mark_sent(self, batch_id: str, letter_ids: Sequence[str]) -> None:
        """Mark items as sent, unless they have an outcome."""
        self._update(batch_id, letter_ids, {"sent": True})

    def mark_unsent(self, batch_id: str, letter_ids: Sequence[str]) -> None:
        """Undo ``mark_sent``: the letters have no trace of a replay, so they are dispatched again."""
        self._update(batch_id, letter_ids, {"sent": False})

    def record_outcomes(self, batch_id: str, outcomes: Mapping[str, tuple[str, str]]) -> int:
        """Store (outcome, error type) by letter id where there is none yet; return how many were stored."""
        alike: dict[tuple[str, str], list[str]] = {}
        for letter_id, outcome in outcomes.items():
            alike.setdefault(outcome, []).append(letter_id)
        written = 0
        for (ended, error_type), letter_ids in alike.items():
            change: Document = {"outcome": ended, "errorType": error_type}
            if not ended.startswith("skipped:"):
                change["sent"] = True  # the executor may have been killed before it marked the item
            written += self._update(batch_id, letter_ids, change)
        return written

    def record_untaken(self, batch_id: str, begin: int, outcome: str) -> int:
        """Store one outcome for all items from place ``begin`` on: they will never be taken."""
        where = {"batchId": batch_id, "seq": {"$gte": begin}, "outcome": None}
        with patiently(SCAN_LIMIT_S):
            return self._items.update_many(where, {"$set": {"outcome": outcome, "errorType": ""}}).modified_count

    def _update(self, batch_id: str, letter_ids: Sequence[str], change: Mapping[str, Any]) -> int:
        if not letter_ids:
            return 0
        where = {"_id": {"$in": [item_id(batch_id, letter_id) for letter_id in letter_ids]}, "outcome": None}
        with translated():
            return self._marks.update_many(where, {"$set": dict(change)}).modified_count

    # -- for users

    def page(self, batch_id: str, outcome: str | None, after: int, limit: int) -> list[BatchItem]:
        """Items after place ``after``, in order; ``outcome`` is one of ``OUTCOME_FILTERS``."""
        where: Document = {"batchId": batch_id, "seq": {"$gt": after}}
        if outcome is not None:
            stored = [value or None for value in OUTCOME_FILTERS[outcome]]
            where["outcome"] = {"$in": stored}
        with translated():
            return [item_from(row) for row in self._items.find(where).sort("seq", 1).limit(limit)]

    def errors(self, batch_id: str) -> list[tuple[str, int]]:
        """The ten most frequent error types of failed letters, most frequent first."""
        pipeline: list[Document] = [
            {"$match": {"batchId": batch_id, "outcome": {"$in": list(FAILED)}}},
            {"$group": {"_id": "$errorType", "n": {"$sum": 1}}},
            {"$sort": {"n": -1, "_id": 1}},
            {"$limit": 10},
        ]
        with patiently(SCAN_LIMIT_S):
            return [(row["_id"] or "", row["n"]) for row in self._items.aggregate(pipeline)]

    def report(self, batch_id: str) -> list[tuple[str, str, int]]:
        """How many items have each (outcome, error type), most first."""
        pipeline: list[Document] = [
            {"$match": {"batchId": batch_id}},
            {"$group": {"_id": {"o": "$outcome", "e": "$errorType"}, "n": {"$sum": 1}}},
            {"$sort": {"n": -1, "_id": 1}},
        ]
        with patiently(SCAN_LIMIT_S):
            rows = list(self._items.aggregate(pipeline))
        return [(row["_id"].get("o") or "", row["_id"].get("e") or "", row["n"]) for row in rows]


def _new_item(batch_id: str, seq: int, row: Document) -> Document:
    return {
        "_id": item_id(batch_id, str(row["_id"])),
        "batchId": batch_id,
        "seq": seq,
        "letterId": row["_id"],
        "messageId": row.get("messageId", ""),
        "sent": False,
        "outcome": None,
    }


def _pages(rows: Iterable[Document], size: int) -> Iterator[list[Document]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def item_id(batch_id: str, letter_id: str) -> str:
    """``_id`` of an item. Unique: a letter is in a plan only once."""
    return f"{batch_id}:{letter_id}"


def item_from(row: Document) -> BatchItem:
    return BatchItem(
        batch_id=row["batchId"],
        seq=int(row["seq"]),
        letter_id=str(row["letterId"]),
        message_id=str(row.get("messageId", "")),
        sent=bool(row.get("sent")),
        outcome=row.get("outcome") or "",
        error_type=row.get("errorType") or "",
    )


def _column(outcome: str | None) -> str:
    if outcome is None:
        return "open"
    if outcome == SUCCEEDED:
        return "succeeded"
    return "failed" if outcome in FAILED else "skipped"


def _matching(order: BatchOrder) -> Document:
    """The letters that an order selects, in any status."""
    if order.ids:
        object_ids = [ObjectId(one) for one in order.ids if ObjectId.is_valid(one)]
        return {"$or": [{"_id": {"$in": object_ids}}, {"messageId": {"$in": list(order.ids)}}]}
    return queries.matching(order.criteria or LetterCriteria())


def _with_items(batches: Sequence[str]) -> list[Document]:
    """Pipeline stages that add ``held`` to each letter: its items without an outcome in these batches."""
    # A document of another program may have an _id of any type: it is in no plan.
    letter_id = {"$convert": {"input": "$_id", "to": "string", "onError": "", "onNull": ""}}
    item_ids = [{"$concat": [f"{batch_id}:", letter_id]} for batch_id in batches]
    is_open = [{"$match": {"outcome": None}}, {"$project": {"_id": 1}}]
    return [
        {"$set": {"itemIds": item_ids}},
        {
            "$lookup": {
                "from": ITEMS, "localField": "itemIds", "foreignField": "_id", "pipeline": is_open, "as": "held",
            }
        },
    ]  # fmt: skip


__all__ = ["LETTERS", "SKIPPED", "Items", "PlanGroup", "Tally", "item_from", "item_id"]
