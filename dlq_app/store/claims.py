"""Claiming a letter for a replay, and giving it back. The claim draws the epoch of the message that it forwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from bson import Int64, ObjectId
from pymongo import ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, WriteError

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.letter import KEPT_REPLAYS, Claimed, DeadLetter
from dlq_app.domain.letter_values import safe_text
from dlq_app.domain.states import Status, Verb, froms, is_allowed
from dlq_app.store.documents import (
    HEAVY,
    KEPT_HISTORY,
    KEPT_VERSIONS,
    history_entry,
    letter_from,
    letters_from,
)
from dlq_app.store.many import changed_by, longer, of_this_letter
from dlq_app.store.mongo import Document, by_key

#: A claim older than this is looked at by the sweep. Longer than a forward can be under way (4 minutes).
STALE_AFTER = timedelta(minutes=5)
#: What a batch has no use for in the letters that it sends.
_UNUSED = dict.fromkeys(set(HEAVY) - {"originalMessage", "replayAttempts"}, 0)
#: What the server says of a letter that has no room for one more entry.
_NO_ROOM = frozenset({10334, 17419, 17420})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimOrder:
    """Who replays a letter, and with what. ``replay_id`` is made by the caller before it asks."""

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
    #: Edited payload as text, with how it differs; None replays the original.
    edited: str | None = None
    diff: str = ""

    @property
    def verbs(self) -> tuple[Verb, ...]:
        return (Verb.CLAIM, Verb.CLAIM_AGAIN) if self.force else (Verb.CLAIM,)


@dataclass(frozen=True, slots=True)
class BatchLetter:
    """A letter as a batch needs it: payload and replays, no other heavy field."""

    letter: DeadLetter
    #: It says that this batch skips it.
    skipped: bool


@dataclass(frozen=True, slots=True)
class ManyClaimed:
    """What became of many claims."""

    claimed: list[DeadLetter]
    #: Whether these are all; if not, the letters say what became of each.
    is_sure: bool
    #: Ids of letters that MongoDB can never change so.
    refused: frozenset[str] = frozenset()


class Claims:
    """Moves letters into and out of ``dlq_processing``."""

    _letters: Collection[Document]
    _many: Collection[Document]

    def claim(self, letter: DeadLetter, order: ClaimOrder) -> DeadLetter | None:
        """Claim the letter exactly as it was read, or None when it is no longer so or may not be claimed.

        One conditional update: of any number of claimants one gets it. The fence it gets is the epoch of its replay. A
        batch claims a letter once, ever.
        """
        if not any(is_allowed(verb, letter.status) for verb in order.verbs):
            return None
        where, change = claim_update([(letter, order.replay_id)], order)
        with by_key():
            document = self._letters.find_one_and_update(
                where, change, return_document=ReturnDocument.AFTER, hint="_id_"
            )
        return letter_from(document) if document else None

    # -- many at once, for batches

    def read_for_batch(
        self, letter_ids: Iterable[str], batch_id: str, *, with_body: bool = True
    ) -> dict[str, BatchLetter]:
        """The letters with these ids as they stand; those that are gone or unreadable are absent."""
        left_out = _UNUSED if with_body else {**_UNUSED, "originalMessage": 0}
        wanted = {"$in": [ObjectId(letter_id) for letter_id in letter_ids]}
        with by_key():
            found = list(self._letters.find({"_id": wanted}, left_out))
        skipped = {str(document["_id"]) for document in found if batch_id in (document.get("skippedBy") or ())}
        return {letter.id: BatchLetter(letter, letter.id in skipped) for letter in letters_from(found)}

    def claim_many(self, claims: Sequence[tuple[DeadLetter, str]], order: ClaimOrder) -> ManyClaimed:
        """``claim`` for each, with its own replay id, in one update that holds each one's fence and status as read.

        One update of many letters costs the server half of what as many updates cost. ``order`` is without edits, and
        its replay id is not used. When one of them had moved, or the answer was lost, the letters have to be read: each
        says whose it is.
        """
        if not claims:
            return ManyClaimed([], is_sure=True)
        where, change = claim_update(claims, order)
        try:
            with by_key():
                matched = self._many.update_many(where, change, hint="_id_").matched_count
        except StoreUnavailable as unavailable:
            cause = unavailable.__cause__
            if isinstance(cause, WriteError):
                # It ended at a letter that cannot be changed: each on its own spares the others that.
                return self._claim_each(claims, order)
            return ManyClaimed([], is_sure=False)
        if matched != len(claims):
            return ManyClaimed([], is_sure=False)
        return ManyClaimed([_as_claimed(letter, order, replay_id) for letter, replay_id in claims], is_sure=True)

    def _claim_each(self, claims: Sequence[tuple[DeadLetter, str]], order: ClaimOrder) -> ManyClaimed:
        """``claim_many`` with an update for each. If some were claimed before, not all are found: nothing is sure."""
        updates = [UpdateOne(*claim_update([claim], order)) for claim in claims]
        try:
            with by_key():
                matched = self._many.bulk_write(updates, ordered=False).matched_count
        except StoreUnavailable as unavailable:
            cause = unavailable.__cause__
            failures = cause.details["writeErrors"] if isinstance(cause, BulkWriteError) else []
            refused = {claims[one["index"]][0].id for one in failures if one["code"] in _NO_ROOM}
            return ManyClaimed([], is_sure=False, refused=frozenset(refused))
        if matched != len(claims):
            return ManyClaimed([], is_sure=False)
        return ManyClaimed([_as_claimed(letter, order, replay_id) for letter, replay_id in claims], is_sure=True)

    def skip_many(self, letter_ids: Sequence[str], batch_id: str) -> set[str]:
        """Let letters say that this batch skips them, unless it has replayed them; the ids of those that say so.

        After this no claim of this batch can have them: the decision stands where the claim is.
        """
        wanted = {"$in": [ObjectId(letter_id) for letter_id in letter_ids]}
        with by_key():
            self._letters.update_many(
                {"_id": wanted, "replayAttempts.batchId": {"$ne": batch_id}}, {"$addToSet": {"skippedBy": batch_id}}
            )
            return {str(row["_id"]) for row in self._letters.find({"_id": wanted, "skippedBy": batch_id}, {"_id": 1})}

    def ended_for_batch(self, letter_ids: Iterable[str], batch_id: str) -> dict[str, Mapping[str, Any]]:
        """The attempts of this batch that have their outcome, by letter id."""
        mine = {"$elemMatch": {"batchId": batch_id, "outcome": {"$ne": None}}}
        wanted = {"$in": [ObjectId(letter_id) for letter_id in letter_ids]}
        with by_key():
            found = list(self._letters.find({"_id": wanted, "replayAttempts": mine}, {"replayAttempts": mine}))
        return {str(row["_id"]): row["replayAttempts"][0] for row in found}

    # -- giving back

    def release(
        self,
        letter: DeadLetter,
        *,
        why: str,
        now: datetime,
        next_retry_at: datetime | None = None,
    ) -> bool:
        """Put a claimed letter back to where it came from, as if never claimed. Only after its epoch was voided.

        False when the claim is no longer this one: then there is nothing to release.
        """
        came_from = letter.claim.came_from if letter.claim else Status.MANUAL
        changed: Document = {"status": came_from.value, "updatedAt": now}
        if next_retry_at and came_from is Status.PENDING:
            changed["nextRetryAt"] = next_retry_at
        return self._unclaim(letter, changed, Verb.RELEASE, why, now)

    def hand_over(self, letter: DeadLetter, *, why: str, now: datetime) -> bool:
        """Leave a claimed letter to a person, because its message is done already. Only after its epoch was voided."""
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
        """Claimed letters whose claim began more than five minutes before ``now`` (the server's clock)."""
        where = {
            "status": Status.PROCESSING.value,
            "$or": [{"replay.lockedAt": {"$lt": now - STALE_AFTER}}, {"replay.lockedAt": None}],
        }
        with by_key():
            return letters_from(list(self._letters.find(where).limit(limit)))

    def keep_claimed(self, letter: DeadLetter) -> bool:
        """Start a stale claim's five minutes again: its message exists, and its outcome will come."""
        where = {"_id": ObjectId(letter.id), "status": Status.PROCESSING.value, "fence": letter.fence}
        with by_key():
            return self._letters.update_one(where, {"$currentDate": {"replay.lockedAt": True}}).modified_count == 1

    def due(self, now: datetime, limit: int) -> Sequence[DeadLetter]:
        """Letters whose automatic replay is due, longest first. One that is unreadable is pushed out of the way."""
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
        """When the next automatic replay is or was due; None when none is planned."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$type": "date"}}
        with by_key():
            first = self._letters.find_one(where, {"_id": 0, "nextRetryAt": 1}, sort=[("nextRetryAt", 1), ("_id", 1)])
        due_at = first and first["nextRetryAt"]
        return due_at if isinstance(due_at, datetime) else None

    def postpone(self, letter: DeadLetter, until: datetime) -> bool:
        """Move an automatic replay that nobody has claimed to a later time."""
        where = {"_id": ObjectId(letter.id), "status": Status.PENDING.value, "nextRetryAt": letter.next_retry_at}
        with by_key():
            return self._letters.update_one(where, {"$set": {"nextRetryAt": until}}).modified_count == 1

    def postpone_type(self, message_type: str, now: datetime, until: datetime) -> int:
        """Move all replays of a type that are due by ``now``: one open breaker must not hold up the others."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$lte": now}, "type": message_type}
        with by_key():
            return self._letters.update_many(where, {"$set": {"nextRetryAt": until}}).modified_count


def claim_update(claims: Sequence[tuple[DeadLetter, str]], order: ClaimOrder) -> tuple[Document, Sequence[Document]]:
    """Filter and change with which an order claims letters, each with its own replay id.

    The filter holds each letter's fence and status as read, so the update itself draws the next epoch.
    """
    by, why = safe_text(order.by, 200), safe_text(order.why, 2000)
    ids = [ObjectId(letter.id) for letter, _ in claims]
    given = of_this_letter(ids, [_of_claim(letter, replay_id, order, by, why) for letter, replay_id in claims])
    as_read = [
        # 0 is also how a letter without a fence reads.
        {"$eq": [{"$ifNull": ["$fence", 0]}, "$$given.fence"]},
        {"$eq": ["$status", "$$given.status"]},
    ]
    where: Document = {
        "_id": {"$in": ids},
        "status": {"$in": sorted({letter.status.value for letter, _ in claims})},
        "$expr": {"$let": {"vars": {"given": given}, "in": {"$and": as_read}}},
    }
    if order.batch_id:
        where |= {"replayAttempts.batchId": {"$ne": order.batch_id}, "skippedBy": {"$ne": order.batch_id}}
    common = {
        "epoch": "$$given.epoch",
        "kind": {"$literal": order.kind},
        "by": {"$literal": by},
        "why": {"$literal": why},
        "batchId": {"$literal": order.batch_id},
        "version": "$$given.version",
    }
    attempt = {"replayId": "$$given.id", **common, "at": order.at, "outcome": None}
    claim = {
        "id": "$$given.id",
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
    return where, [changed_by(given, changed)]


def _of_claim(letter: DeadLetter, replay_id: str, order: ClaimOrder, by: str, why: str) -> Document:
    """The values of a claim that differ from letter to letter."""
    epoch = Int64(letter.fence + 1)
    given: Document = {
        "fence": letter.fence,
        "epoch": epoch,
        "status": letter.status.value,
        "id": replay_id,
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
    return given


def _entry(order: ClaimOrder, by: str, why: str) -> Document:
    entry = history_entry(order.at, by, Verb.CLAIM, why)
    return {**entry, "batchId": order.batch_id} if order.batch_id else entry


def _as_claimed(letter: DeadLetter, order: ClaimOrder, replay_id: str) -> DeadLetter:
    """The letter as ``claim_update`` leaves it, as far as a forward needs it."""
    return replace(
        letter,
        status=Status.PROCESSING,
        fence=letter.fence + 1,
        claim=Claimed(
            replay_id=replay_id,
            epoch=letter.fence + 1,
            kind=order.kind,
            by=order.by,
            why=order.why,
            batch_id=order.batch_id,
            version=0,
            locked_by=order.locked_by,
            locked_at=order.at,
            came_from=letter.status,
        ),
    )


def _next_version(letter: DeadLetter) -> int:
    return max((v["version"] for v in letter.versions if isinstance(v.get("version"), int)), default=0) + 1
