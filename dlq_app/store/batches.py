"""Replay batches in MongoDB. Every change is one conditional update of the batch's document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError
from pymongo.write_concern import WriteConcern

from dlq_app.domain.batch_rules import CATCH_UP, Move
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, StoreUnavailable
from dlq_app.domain.letter_values import safe_text
from dlq_app.domain.replay_batch import FINAL, BatchCounts, BatchOrder, Canary, ReplayBatch, Stage
from dlq_app.store.items import Tally
from dlq_app.store.mongo import Document, translated

#: An executor has this time for a chunk; after it any other may take the chunk over.
CHUNK_TIME = timedelta(seconds=60)
#: A plan that takes longer is abandoned: its request has timed out long before.
ABANDONED_AFTER = timedelta(minutes=10)
_KEPT_HISTORY = 100


@dataclass(frozen=True, slots=True)
class Chunk:
    """Letters that an executor has taken: from place ``begin`` to before ``end``."""

    owner: str
    token: str
    begin: int
    end: int
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch and the fields that only executors need."""

    batch: ReplayBatch
    next_seq: int
    chunk: Chunk | None
    next_send_at: datetime | None
    #: Every item before this place has its outcome; ``settled`` are their counts. Outcomes never change.
    settled_to: int
    settled: Tally
    planned_at: datetime | None
    #: False once the last item of a final batch has its outcome.
    active: bool

    @property
    def id(self) -> str:
        return self.batch.id


class Batches:
    """Stages, chunks and counts of batches."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._batches = collection
        # Chunks and progress: if a crash of the server loses them, they are taken and counted again.
        self._notes = collection.with_options(write_concern=WriteConcern(w=1, j=False))

    # -- making and reading

    def insert(self, batch_id: str, order: BatchOrder, *, actor: str, now: datetime) -> bool:
        """Insert a batch in stage ``planning``; False if its id exists."""
        document: Document = {
            "_id": batch_id,
            "stage": Stage.PLANNING.value,
            "active": True,
            "name": safe_text(order.name, 200),
            "reason": safe_text(order.reason, 2000),
            "filter": order.criteria.as_filter() if order.criteria is not None else None,
            "idsGiven": bool(order.ids),
            "limit": order.limit,
            "ratePerSecond": order.rate_per_second,
            "canary": {"size": order.canary.size, "minSuccess": order.canary.min_success} if order.canary else None,
            "maxFailures": order.max_failures,
            "maxFailureRate": order.max_failure_rate,
            "poison": order.poison,
            "requestedBy": safe_text(actor, 200),
            "resumeTo": None,
            "pausedBy": "",
            "stopReason": "",
            "stopErrors": [],
            "waiting": "",
            "total": 0,
            "nextSeq": 0,
            "chunk": None,
            "nextSendAt": None,
            "canaryPassed": False,
            "settled": {"to": 0, **_counts(Tally())},
            "counts": _counts(Tally()),
            "lateArrivals": 0,
            "history": [],
            "createdAt": now,
            "plannedAt": now,
            "scheduledAt": order.scheduled_at,
            "startedAt": None,
            "finishedAt": None,
            "updatedAt": now,
        }
        try:
            with translated():
                self._batches.insert_one(document)
        except StoreUnavailable as error:
            if isinstance(error.__cause__, DuplicateKeyError):
                return False
            raise
        return True

    def mark_planned(self, batch_id: str, total: int) -> bool:
        """Finish planning; False if the batch is not in stage ``planning`` any more."""
        change = [
            {
                "$set": {
                    "stage": Stage.PLANNED.value,
                    "total": total,
                    "counts.open": total,
                    "updatedAt": "$$NOW",
                }
            }
        ]
        with translated():
            return (
                self._batches.update_one({"_id": batch_id, "stage": Stage.PLANNING.value}, change).modified_count == 1
            )

    def remove(self, batch_id: str, stages: Sequence[Stage]) -> bool:
        with translated():
            where = {"_id": batch_id, "stage": {"$in": [stage.value for stage in stages]}}
            return self._batches.delete_one(where).deleted_count == 1

    def get(self, batch_id: str) -> StoredBatch | None:
        with translated():
            document = self._batches.find_one({"_id": batch_id})
        return batch_from(document) if document else None

    def active(self, limit: int = 100) -> list[StoredBatch]:
        """Batches with work for an executor, oldest first; includes those being planned."""
        with translated():
            return [batch_from(row) for row in self._batches.find({"active": True}).sort("createdAt", 1).limit(limit)]

    def page(self, stages: Sequence[str], limit: int, after: tuple[datetime, str] | None) -> list[StoredBatch]:
        """Planned batches, newest first, starting after (createdAt, id)."""
        wanted = list(stages) or [stage.value for stage in Stage if stage is not Stage.PLANNING]
        where: Document = {"stage": {"$in": wanted}}
        if after:
            at, batch_id = after
            where["createdAt"] = {"$lte": at}
            where["$nor"] = [{"createdAt": at, "_id": {"$gte": batch_id}}]
        with translated():
            found = self._batches.find(where, {"history": 0}).sort([("createdAt", -1), ("_id", -1)]).limit(limit)
            return [batch_from(row) for row in found]

    def unfinished_ids(self, limit: int = 1000) -> list[str]:
        """Ids of the batches with letters without an outcome; the ``limit`` oldest."""
        with translated():
            found = self._batches.find({"active": True}, {"_id": 1}).sort("createdAt", 1).limit(limit)
            return [row["_id"] for row in found]

    def unfinished_by_stage(self) -> dict[str, int]:
        """Number of batches in each stage that can still change, planning excluded."""
        counts = {stage.value: 0 for stage in Stage if stage not in FINAL and stage is not Stage.PLANNING}
        stages: list[Document] = [
            {"$match": {"stage": {"$in": list(counts)}}},
            {"$group": {"_id": "$stage", "n": {"$sum": 1}}},
        ]
        with translated():
            return counts | {row["_id"]: row["n"] for row in self._batches.aggregate(stages)}

    def ended_since(self, instant: datetime, limit: int) -> list[StoredBatch]:
        """Finished and stopped batches whose last outcome came at ``instant`` or later, oldest first."""
        stages = [Stage.FINISHED.value, Stage.STOPPED.value]
        where = {"finishedAt": {"$gte": instant}, "stage": {"$in": stages}}
        with translated():
            found = self._batches.find(where, {"history": 0}).sort("finishedAt", 1).limit(limit)
            return [batch_from(row) for row in found]

    def ended_before(self, instant: datetime, limit: int) -> list[str]:
        """Ids of batches whose last outcome came before ``instant``."""
        with translated():
            found = self._batches.find({"finishedAt": {"$lt": instant}}, {"_id": 1}).sort("finishedAt", 1).limit(limit)
            return [row["_id"] for row in found]

    # -- moves

    def move(
        self,
        seen: StoredBatch,
        move: Move,
        *,
        who: str,
        why: str = "",
        tally: Tally | None = None,
        errors: Sequence[tuple[str, int]] = (),
        guard_place: bool = True,
    ) -> StoredBatch | None:
        """Change the stage of the batch; None if the batch is not in the stage of ``seen`` any more.

        ``errors``: error types with their number of letters. ``guard_place``: also require that no letter has been
        taken since; a user's change does not.
        """
        batch = seen.batch
        entry = {"at": "$$NOW", "who": {"$literal": safe_text(who, 200)}, "what": move.to.value}
        entry["why"] = {"$literal": safe_text(why or move.stop_reason, 2000)}
        changed: Document = {
            "stage": move.to.value,
            "resumeTo": move.resume_to.value if move.resume_to else None,
            "pausedBy": move.paused_by,
            "stopReason": {"$literal": safe_text(move.stop_reason, 2000)},
            "stopErrors": {"$literal": [{"errorType": safe_text(name, 200), "count": count} for name, count in errors]},
            "waiting": "",
            "updatedAt": "$$NOW",
            "history": {"$slice": [{"$concatArrays": [{"$ifNull": ["$history", []]}, [entry]]}, -_KEPT_HISTORY]},
            # Letters that were not sent during a pause are not caught up on.
            "nextSendAt": None,
        }
        if move.canary_passed:
            changed["canaryPassed"] = True
        if batch.stage is Stage.PLANNED and move.to is not Stage.CANCELLED:
            changed["startedAt"] = "$$NOW"
        if tally is not None:
            changed["counts"] = _counts(tally)
        if move.to is Stage.STOPPED:
            changed["stoppedAt"] = "$$NOW"
        if move.to is Stage.FINISHED:
            changed |= {"finishedAt": "$$NOW", "active": "$$REMOVE", "chunk": None}
        where: Document = {"_id": seen.id, "stage": batch.stage.value, "pausedBy": batch.paused_by}
        if guard_place:
            where["nextSeq"] = seen.next_seq
        with translated():
            document = self._batches.find_one_and_update(
                where, [{"$set": changed}], return_document=ReturnDocument.AFTER
            )
        return batch_from(document) if document else None

    def mark_finished(self, batch_id: str, tally: Tally, late_arrivals: int | None) -> None:
        """Every letter of a batch in a final stage has its outcome."""
        changed: Document = {"counts": _counts(tally), "waiting": "", "chunk": None, "active": "$$REMOVE"}
        if late_arrivals is not None:
            changed["lateArrivals"] = late_arrivals
        changed |= {"finishedAt": {"$ifNull": ["$finishedAt", "$$NOW"]}, "updatedAt": "$$NOW"}
        with translated():
            self._batches.update_one({"_id": batch_id}, [{"$set": changed}])

    def record_progress(
        self, seen: StoredBatch, *, tally: Tally, settled_to: int, settled: Tally, waiting: str, late: int | None = None
    ) -> None:
        """Store the counts. ``settled`` only grows: a write with an older value changes nothing."""
        changed: Document = {"counts": _counts(tally), "waiting": safe_text(waiting, 300)}
        if late is not None:
            changed["lateArrivals"] = late
        where: Document = {"_id": seen.id, "active": True}
        if settled_to > seen.settled_to:
            where["settled.to"] = seen.settled_to
            changed["settled"] = {"to": settled_to, **_counts(settled)}
        with translated():
            self._notes.update_one(where, {"$set": changed, "$currentDate": {"updatedAt": True}})

    def record_waiting(self, batch_id: str, waiting: str) -> None:
        """Store what the batch waits for, in words."""
        with translated():
            self._notes.update_one({"_id": batch_id, "active": True}, {"$set": {"waiting": safe_text(waiting, 300)}})

    # -- chunks

    def take_chunk(
        self, seen: StoredBatch, count: int, *, owner: str, token: str, finished: str = ""
    ) -> StoredBatch | None:
        """Take the next ``count`` letters for ``owner``; None if another executor was first or the rate forbids it.

        One conditional update keeps the rate for any number of executors. ``finished``: token of the owner's previous
        chunk, if it is finished and still stored; it is released by the same update.
        """
        batch = seen.batch
        rate = batch.rate_per_second
        end = seen.next_seq + count
        changed: Document = {
            "chunk": {
                "owner": {"$literal": owner},
                "token": {"$literal": token},
                "from": seen.next_seq,
                "to": end,
                "until": {"$add": ["$$NOW", int(CHUNK_TIME.total_seconds() * 1000)]},
            },
            "nextSeq": end,
        }
        where: Document = {
            "_id": seen.id,
            "stage": batch.stage.value,
            "pausedBy": batch.paused_by,
            "nextSeq": seen.next_seq,
            "$or": [{"chunk": None}, {"chunk.token": finished}] if finished else [{"chunk": None}],
        }
        if rate is not None:
            gap = count * 1000 / rate
            catch_up = min(CATCH_UP.total_seconds() * 1000, gap)
            from_last = {"$add": [{"$ifNull": ["$nextSendAt", "$$NOW"]}, gap]}
            changed["nextSendAt"] = {"$max": [from_last, {"$add": ["$$NOW", gap - catch_up]}]}
            where["$expr"] = {"$lte": [{"$ifNull": ["$nextSendAt", "$$NOW"]}, "$$NOW"]}
        with translated():
            document = self._notes.find_one_and_update(where, [{"$set": changed}], return_document=ReturnDocument.AFTER)
        return batch_from(document) if document else None

    def take_over_chunk(self, seen: StoredBatch, *, owner: str, token: str, owner_ended: bool = False) -> Chunk | None:
        """Become the owner of a chunk that has expired, or of any if ``owner_ended``; None if it has changed."""
        if seen.chunk is None:
            return None
        where: Document = {"_id": seen.id, "chunk.token": seen.chunk.token}
        if not owner_ended:
            where["$expr"] = {"$lt": ["$chunk.until", "$$NOW"]}
        until = {"$add": ["$$NOW", int(CHUNK_TIME.total_seconds() * 1000)]}
        changed: Document = {
            "chunk.owner": {"$literal": owner},
            "chunk.token": {"$literal": token},
            "chunk.until": until,
        }
        with translated():
            document = self._notes.find_one_and_update(where, [{"$set": changed}], return_document=ReturnDocument.AFTER)
        return batch_from(document).chunk if document else None

    def release_chunk(self, batch_id: str, token: str) -> None:
        with translated():
            self._notes.update_one({"_id": batch_id, "chunk.token": token}, {"$set": {"chunk": None}})

    def server_now(self) -> datetime:
        with translated():
            now: datetime = self._batches.database.client.admin.command("hello")["localTime"]
        return now.replace(tzinfo=UTC)


def batch_from(document: Document) -> StoredBatch:
    canary, chunk, settled = document.get("canary"), document.get("chunk"), document.get("settled") or {}
    counts = _tally(document.get("counts") or {})
    total = int(document.get("total") or 0)
    batch = ReplayBatch(
        id=document["_id"],
        name=document.get("name", ""),
        reason=document.get("reason", ""),
        stage=Stage(document["stage"]),
        resume_to=Stage(document["resumeTo"]) if document.get("resumeTo") else None,
        paused_by=document.get("pausedBy", ""),
        stop_reason=document.get("stopReason", ""),
        total=total,
        late_arrivals=int(document.get("lateArrivals") or 0),
        counts=counts_of(counts, total),
        rate_per_second=document.get("ratePerSecond"),
        canary=Canary(int(canary["size"]), int(canary["minSuccess"])) if canary else None,
        max_failures=document.get("maxFailures"),
        max_failure_rate=document.get("maxFailureRate"),
        poison=document.get("poison") is not False,
        requested_by=document.get("requestedBy", ""),
        criteria=_criteria(document.get("filter")),
        ids_given=bool(document.get("idsGiven")),
        limit=document.get("limit"),
        created_at=document["createdAt"],
        scheduled_at=document.get("scheduledAt"),
        started_at=document.get("startedAt"),
        finished_at=document.get("finishedAt"),
        updated_at=document.get("updatedAt") or document["createdAt"],
        waiting=document.get("waiting", ""),
        stop_errors=[(one["errorType"], one["count"]) for one in document.get("stopErrors") or ()],
        history=tuple(document.get("history") or ()),
    )
    return StoredBatch(
        batch=batch,
        next_seq=int(document.get("nextSeq") or 0),
        chunk=Chunk(chunk["owner"], chunk["token"], int(chunk["from"]), int(chunk["to"]), chunk["until"])
        if chunk
        else None,
        next_send_at=document.get("nextSendAt"),
        settled_to=int(settled.get("to") or 0),
        settled=_tally(settled),
        planned_at=document.get("plannedAt"),
        active=bool(document.get("active")),
    )


def counts_of(tally: Tally, total: int) -> BatchCounts:
    """The counts that users see, from the tally of a plan's taken items."""
    return BatchCounts(
        sent=tally.sent,
        succeeded=tally.succeeded,
        failed=tally.failed,
        skipped=tally.skipped,
        remaining=max(0, total - tally.succeeded - tally.failed - tally.skipped),
    )


def _counts(tally: Tally) -> Document:
    return {
        "sent": tally.sent,
        "succeeded": tally.succeeded,
        "failed": tally.failed,
        "skipped": tally.skipped,
        "open": tally.open,
    }


def _tally(stored: Mapping[str, Any]) -> Tally:
    return Tally(*(int(stored.get(name) or 0) for name in ("sent", "succeeded", "failed", "skipped", "open")))


def _criteria(stored: Any) -> LetterCriteria | None:
    if stored is None:
        return None
    try:
        return LetterCriteria.parse(stored)
    except CriteriaInvalid:
        return None  # stored by another version; the plan does not need it
