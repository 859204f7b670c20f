"""Claim letters for replays and release them. A claim sets the epoch of the message that it forwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from bson import Int64, ObjectId
from pymongo import ReturnDocument, UpdateMany, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.facets import MAX_ALL, in_force
from dlq_app.domain.letter import KEPT_REPLAYS, Claimed, DeadLetter
from dlq_app.domain.letter_values import safe_text
from dlq_app.domain.states import Status, Verb, froms, is_allowed
from dlq_app.store.documents import (
    KEPT_HISTORY,
    KEPT_VERSIONS,
    history_entry,
    letter_from,
    letters_from,
)
from dlq_app.store.many import changed_by, longer, of_this_letter
from dlq_app.store.mongo import Document, by_key, patiently

#: The sweep checks claims older than this: longer than the deadline of a forward (4 minutes).
STALE_AFTER = timedelta(minutes=5)
#: What claims and forwards of a batch need of its letters, without payload and versions: no batch edits.
_FOR_BATCH = dict.fromkeys(
    (
        "messageId", "type", "status", "strategy", "resolution", "fence", "closedEpoch", "replay", "replayAttempts",
        "skippedBy", "metadata", "errorType", "queuedAt", "createdAt", "firstFailedAt", "lastFailedAt", "acctDay",
        "priorRuns", "traceparent",
    ),
    1,
)  # fmt: skip
#: Error codes of the server for a letter that would become too large.
_NO_ROOM = frozenset({10334, 17419, 17420})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimOrder:
    """The data of a claim. The caller creates ``replay_id`` before the first attempt.

    Letters that one call of ``claim_many`` claims share it.
    """

    replay_id: str
    #: ``operator``, ``auto`` or ``batch``.
    kind: str
    by: str
    why: str = ""
    batch_id: str = ""
    locked_by: str
    at: datetime
    #: Also from ``dlq_resolved``.
    force: bool = False
    #: Edited payload as text, with its diff; None replays the original.
    edited: str | None = None
    diff: str = ""

    @property
    def verbs(self) -> tuple[Verb, ...]:
        return (Verb.CLAIM, Verb.CLAIM_AGAIN) if self.force else (Verb.CLAIM,)


@dataclass(frozen=True, slots=True)
class BatchLetter:
    """A letter for a batch, with the fields that claims and forwards need; the others are empty."""

    letter: DeadLetter
    #: Marked as skipped by this batch.
    skipped: bool


@dataclass(frozen=True, slots=True)
class ManyClaimed:
    """The result of many claims."""

    claimed: list[DeadLetter]
    #: Whether ``claimed`` is complete; if not, read the letters.
    is_sure: bool
    #: Ids of letters that MongoDB can never change in this way.
    refused: frozenset[str] = frozenset()


class Claims:
    """Moves letters into and out of ``dlq_processing``."""

    _letters: Collection[Document]
    _many: Collection[Document]

    def claim(self, letter: DeadLetter, order: ClaimOrder) -> DeadLetter | None:
        """Claim the letter as it was read; None when it has changed or its status does not allow the claim.

        One conditional update: one of many concurrent callers gets it. Its new fence is the epoch of the replay. A
        batch claims a letter at most once.
        """
        if not any(is_allowed(verb, letter.status) for verb in order.verbs):
            return None
        where, change = claim_update([letter], order)
        with by_key():
            document = self._letters.find_one_and_update(
                where, change, return_document=ReturnDocument.AFTER, hint="_id_"
            )
        return letter_from(document) if document else None

    # -- many at once, for batches

    def read_for_batch(
        self, letter_ids: Iterable[str], batch_id: str, *, with_body: bool = True
    ) -> dict[str, BatchLetter]:
        """The current letters with these ids; deleted and unreadable ones are absent."""
        fields = {**_FOR_BATCH, "originalMessage": 1} if with_body else _FOR_BATCH
        wanted = {"$in": [ObjectId(letter_id) for letter_id in letter_ids]}
        with by_key():
            found = list(self._letters.find({"_id": wanted}, fields))
        skipped = {str(document["_id"]) for document in found if batch_id in (document.get("skippedBy") or ())}
        return {letter.id: BatchLetter(letter, letter.id in skipped) for letter in letters_from(found)}

    def claim_many(self, letters: Sequence[DeadLetter], order: ClaimOrder) -> ManyClaimed:
        """``claim`` for each letter, together: each update requires fence and status as read.

        Letters of one status draw one epoch, above the fences of all of them. Their update then has no value that
        differs from letter to letter, which costs the server little more than half. ``order`` is without edits. When
        a letter has changed or the answer was lost, read the letters: each has the owner of its claim.
        """
        if not letters:
            return ManyClaimed([], is_sure=True)
        together, apart = _alike(letters, order)
        updates = [UpdateMany(*claim_alike(some, order), hint="_id_") for some in together]
        if apart:
            updates.append(UpdateMany(*claim_update(apart, order), hint="_id_"))
        try:
            with by_key():
                matched = self._many.bulk_write(updates, ordered=False).matched_count
        except StoreUnavailable as unavailable:
            if isinstance(unavailable.__cause__, BulkWriteError):
                # A letter that cannot be changed ended its update: claim each alone, so that the others succeed.
                return self._claim_each(letters, order)
            return ManyClaimed([], is_sure=False)
        if matched != len(letters):
            return ManyClaimed([], is_sure=False)
        epochs: dict[str, int] = {}
        for some in together:
            epochs |= dict.fromkeys((letter.id for letter in some), _common_epoch(some))
        return ManyClaimed(
            [_as_claimed(letter, order, epochs.get(letter.id, letter.fence + 1)) for letter in letters], is_sure=True
        )

    def _claim_each(self, letters: Sequence[DeadLetter], order: ClaimOrder) -> ManyClaimed:
        """``claim_many`` with an update for each. Earlier claims are not found again, so the result may be unsure."""
        updates = [UpdateOne(*claim_update([letter], order)) for letter in letters]
        try:
            with by_key():
                matched = self._many.bulk_write(updates, ordered=False).matched_count
        except StoreUnavailable as unavailable:
            cause = unavailable.__cause__
            failures = cause.details["writeErrors"] if isinstance(cause, BulkWriteError) else []
            refused = {letters[one["index"]].id for one in failures if one["code"] in _NO_ROOM}
            return ManyClaimed([], is_sure=False, refused=frozenset(refused))
        if matched != len(letters):
            return ManyClaimed([], is_sure=False)
        return ManyClaimed([_as_claimed(letter, order, letter.fence + 1) for letter in letters], is_sure=True)

    def skip_many(self, letter_ids: Sequence[str], batch_id: str) -> set[str]:
        """Mark letters as skipped by this batch, unless it has replayed them; returns the ids of marked letters.

        This batch can no longer claim them: a claim checks the mark in the same document.
        """
        wanted = {"$in": [ObjectId(letter_id) for letter_id in letter_ids]}
        with by_key():
            self._letters.update_many(
                {"_id": wanted, "replayAttempts.batchId": {"$ne": batch_id}}, {"$addToSet": {"skippedBy": batch_id}}
            )
            return {str(row["_id"]) for row in self._letters.find({"_id": wanted, "skippedBy": batch_id}, {"_id": 1})}

    def ended_for_batch(self, letter_ids: Iterable[str], batch_id: str) -> dict[str, Mapping[str, Any]]:
        """The finished attempts of this batch, by letter id."""
        mine = {"$elemMatch": {"batchId": batch_id, "outcome": {"$ne": None}}}
        wanted = {"$in": [ObjectId(letter_id) for letter_id in letter_ids]}
        with by_key():
            found = list(self._letters.find({"_id": wanted, "replayAttempts": mine}, {"replayAttempts": mine}))
        return {str(row["_id"]): row["replayAttempts"][0] for row in found}

    # -- release

    def release(
        self,
        letter: DeadLetter,
        *,
        why: str,
        now: datetime,
        next_retry_at: datetime | None = None,
    ) -> bool:
        """Restore the status from before the claim. Only after its epoch was voided.

        False when the letter has another claim or none: then there is nothing to release.
        """
        came_from = letter.claim.came_from if letter.claim else Status.MANUAL
        changed: Document = {"status": came_from.value, "updatedAt": now}
        if next_retry_at and came_from is Status.PENDING:
            changed["nextRetryAt"] = next_retry_at
        return self._unclaim(letter, changed, Verb.RELEASE, why, now)

    def hand_over(self, letter: DeadLetter, *, why: str, now: datetime) -> bool:
        """End a claim whose message is already done: the letter needs a decision. Only after its epoch was voided."""
        changed = {"status": Status.MANUAL.value, "nextRetryAt": None, "updatedAt": now}
        return self._unclaim(letter, changed, Verb.HAND_OVER, why, now)

    def _unclaim(self, letter: DeadLetter, changed: Document, verb: Verb, why: str, now: datetime) -> bool:
        change: Document = {
            "$set": changed,
            "$unset": {"replay": ""},
            "$pull": {"replayAttempts": {"epoch": letter.fence, "outcome": None}},
            "$push": {"history": {"$each": [history_entry(now, "system", verb, why)], "$slice": -KEPT_HISTORY}},
        }
        if changed["status"] != Status.RESOLVED:
            change["$unset"] |= {"resolution": "", "resolvedAt": ""}
        where = {"_id": ObjectId(letter.id), "status": {"$in": froms(verb)}, "fence": letter.fence}
        with by_key():
            return self._letters.update_one(where, change).modified_count == 1

    def stale(self, now: datetime, limit: int) -> Sequence[DeadLetter]:
        """Claimed letters whose claim began more than five minutes before ``now`` (the server's clock).

        Reads all claimed letters. They are few, and an index of their times would change twice with every replay.
        """
        where = {
            "status": Status.PROCESSING.value,
            "$or": [{"replay.lockedAt": {"$lt": now - STALE_AFTER}}, {"replay.lockedAt": None}],
        }
        with by_key():
            return letters_from(list(self._letters.find(where).limit(limit)))

    def keep_claimed(self, letter: DeadLetter) -> bool:
        """Restart the five minutes of a stale claim: its message exists and will get an outcome."""
        where = {"_id": ObjectId(letter.id), "status": Status.PROCESSING.value, "fence": letter.fence}
        with by_key():
            return self._letters.update_one(where, {"$currentDate": {"replay.lockedAt": True}}).modified_count == 1

    def due(self, now: datetime, limit: int) -> Sequence[DeadLetter]:
        """Letters whose automatic replay is due, oldest first. Unreadable ones are postponed by an hour."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$lte": now}}
        with by_key():
            found = list(self._letters.find(where).sort([("nextRetryAt", 1), ("_id", 1)]).limit(limit))
        letters = letters_from(found)
        readable = {letter.id for letter in letters}
        broken = [document["_id"] for document in found if str(document["_id"]) not in readable]
        if broken:
            with by_key():
                self._letters.update_many(
                    {"_id": {"$in": broken}, "status": Status.PENDING.value},
                    {"$set": {"nextRetryAt": now + timedelta(hours=1)}},
                )
        return letters

    def next_due_at(self) -> datetime | None:
        """Due time of the next automatic replay; None when none is planned."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$type": "date"}}
        with by_key():
            first = self._letters.find_one(where, {"_id": 0, "nextRetryAt": 1}, sort=[("nextRetryAt", 1), ("_id", 1)])
        due_at = first and first["nextRetryAt"]
        return due_at if isinstance(due_at, datetime) else None

    def postpone(self, letter: DeadLetter, until: datetime) -> bool:
        """Postpone an automatic replay that is not claimed."""
        where = {"_id": ObjectId(letter.id), "status": Status.PENDING.value, "nextRetryAt": letter.next_retry_at}
        with by_key():
            return self._letters.update_one(where, {"$set": {"nextRetryAt": until}}).modified_count == 1

    def next_due_of(self, types: Sequence[str], limit_s: float) -> datetime | None:
        """Due time of the next automatic replay of these types; None when none is planned.

        Reads letters of other types that are due earlier: raises ``QueryTooSlow`` after ``limit_s`` seconds.
        """
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$type": "date"}, "type": {"$in": list(types)}}
        with patiently(limit_s):
            first = self._letters.find_one(where, {"_id": 0, "nextRetryAt": 1}, sort=[("nextRetryAt", 1), ("_id", 1)])
        due_at = first and first["nextRetryAt"]
        return due_at if isinstance(due_at, datetime) else None

    def postpone_type(self, message_type: str, now: datetime, until: datetime) -> int:
        """Postpone all due replays of a type: one open breaker must not delay the other types."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$lte": now}, "type": message_type}
        with by_key():
            return self._letters.update_many(where, {"$set": {"nextRetryAt": until}}).modified_count


def claim_update(letters: Sequence[DeadLetter], order: ClaimOrder) -> tuple[Document, Sequence[Document]]:
    """Filter and change with which an order claims letters, each under the epoch after its own fence.

    The filter holds each letter's fence and status as read, so the update itself draws the next epoch.
    """
    by, why = safe_text(order.by, 200), safe_text(order.why, 2000)
    ids = [ObjectId(letter.id) for letter in letters]
    given = of_this_letter(ids, [_of_claim(letter, order, by, why) for letter in letters])
    common = {
        "epoch": "$$given.epoch",
        "kind": {"$literal": order.kind},
        "by": {"$literal": by},
        "why": {"$literal": why},
        "batchId": {"$literal": order.batch_id},
        "version": "$$given.version",
    }
    replay_id = {"$literal": order.replay_id}
    attempt = {"replayId": replay_id, **common, "at": order.at, "outcome": None}
    claim = {
        "id": replay_id,
        **common,
        "lockedBy": {"$literal": order.locked_by},
        "from": "$$given.status",
        # The server's clock: the sweep compares claims of hosts whose clocks differ.
        "lockedAt": "$$NOW",
    }
    changed = {
        "status": Status.PROCESSING.value,
        "fence": "$$given.epoch",
        "updatedAt": order.at,
        "replay": claim,
        "replayAttempts": longer("replayAttempts", [attempt], KEPT_REPLAYS),
        "history": longer("history", {"$literal": [_entry(order, by, why)]}, KEPT_HISTORY),
    }
    if order.edited is not None:
        changed["versions"] = longer("versions", "$$given.versions", KEPT_VERSIONS)
        # An edit can name another customer: both find the letter.
        before = {"$cond": [{"$isArray": "$facets"}, "$facets", []]}
        new = {"$filter": {"input": "$$given.facets", "cond": {"$not": {"$in": ["$$this", before]}}}}
        changed["facets"] = {"$slice": [{"$concatArrays": [before, new]}, MAX_ALL]}
    return _as_read(letters, order, given), [changed_by(given, changed)]


def claim_alike(letters: Sequence[DeadLetter], order: ClaimOrder) -> tuple[Document, Document]:
    """The same for letters of one status, under one epoch that is above all their fences; see ``_alike``."""
    by, why = safe_text(order.by, 200), safe_text(order.why, 2000)
    ids = [ObjectId(letter.id) for letter in letters]
    status = letters[0].status.value
    given = of_this_letter(ids, [{"fence": letter.fence, "status": status} for letter in letters])
    common = {
        "epoch": Int64(_common_epoch(letters)),
        "kind": order.kind,
        "by": by,
        "why": why,
        "batchId": order.batch_id,
        "version": 0,
    }
    attempt = {"replayId": order.replay_id, **common, "at": order.at, "outcome": None}
    claim = {"id": order.replay_id, **common, "lockedBy": order.locked_by, "from": status, "together": True}
    changed = {
        "status": Status.PROCESSING.value,
        "fence": common["epoch"],
        "updatedAt": order.at,
        # An estimate of the server's clock, which the sweep uses: ``$$NOW`` would need an update with expressions.
        "replay": {**claim, "lockedAt": order.at},
    }
    pushed = {
        "replayAttempts": {"$each": [attempt], "$slice": -KEPT_REPLAYS},
        "history": {"$each": [_entry(order, by, why)], "$slice": -KEPT_HISTORY},
    }
    return _as_read(letters, order, given), {"$set": changed, "$push": pushed}


def _alike(letters: Sequence[DeadLetter], order: ClaimOrder) -> tuple[list[list[DeadLetter]], list[DeadLetter]]:
    """Groups of letters to claim under one epoch, and the letters to claim each under its own.

    A fence in the future, as of a damaged or imported letter, must not become the epoch of others: an epoch above
    that of a message which intake accepts later would keep that message from being replayed.
    """
    until = order.at.timestamp() * 1000
    by_status: dict[Status, list[DeadLetter]] = {}
    apart = [letter for letter in letters if not 0 < letter.fence < until]
    for letter in letters:
        if 0 < letter.fence < until:
            by_status.setdefault(letter.status, []).append(letter)
    groups = list(by_status.values())
    return [some for some in groups if len(some) > 1], apart + [some[0] for some in groups if len(some) == 1]


def _common_epoch(letters: Sequence[DeadLetter]) -> int:
    return max(letter.fence for letter in letters) + 1


def _as_read(letters: Sequence[DeadLetter], order: ClaimOrder, given: Document) -> Document:
    """Filter: these letters, each with its fence and status as read, and never replayed or skipped by the batch."""
    unchanged = [
        # 0 is also how a letter without a fence reads.
        {"$eq": [{"$ifNull": ["$fence", 0]}, "$$given.fence"]},
        {"$eq": ["$status", "$$given.status"]},
    ]
    where: Document = {
        "_id": {"$in": [ObjectId(letter.id) for letter in letters]},
        "status": {"$in": sorted({letter.status.value for letter in letters})},
        "$expr": {"$let": {"vars": {"given": given}, "in": {"$and": unchanged}}},
    }
    if order.batch_id:
        where |= {"replayAttempts.batchId": {"$ne": order.batch_id}, "skippedBy": {"$ne": order.batch_id}}
    return where


def _of_claim(letter: DeadLetter, order: ClaimOrder, by: str, why: str) -> Document:
    """The values of a claim that differ from letter to letter."""
    epoch = Int64(letter.fence + 1)
    given: Document = {
        "fence": letter.fence,
        "epoch": epoch,
        "status": letter.status.value,
        "version": 0,
    }
    given["version"] = version = _next_version(letter) if order.edited is not None else 0
    if version:
        entry = {
            "version": version,
            "epoch": epoch,
            "payload": order.edited,
            "diff": order.diff,
            "by": by,
            "at": order.at,
            "why": why,
        }
        given["versions"] = [entry]
        edited = (order.edited or "").encode("utf-8", "backslashreplace")
        given["facets"] = in_force().of(edited, letter.type)
    return given


def _entry(order: ClaimOrder, by: str, why: str) -> Document:
    entry = history_entry(order.at, by, Verb.CLAIM, why)
    return {**entry, "batchId": order.batch_id} if order.batch_id else entry


def _as_claimed(letter: DeadLetter, order: ClaimOrder, epoch: int) -> DeadLetter:
    """The letter after its claim under this epoch, with the fields that a forward needs."""
    return replace(
        letter,
        status=Status.PROCESSING,
        fence=epoch,
        claim=Claimed(
            replay_id=order.replay_id,
            epoch=epoch,
            kind=order.kind,
            by=order.by,
            why=order.why,
            batch_id=order.batch_id,
            version=0,
            locked_by=order.locked_by,
            locked_at=order.at,
            came_from=letter.status,
            fence_before=letter.fence,
        ),
    )


def _next_version(letter: DeadLetter) -> int:
    return max((v["version"] for v in letter.versions if isinstance(v.get("version"), int)), default=0) + 1
