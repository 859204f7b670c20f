"""Claiming a letter for a replay, and giving it back. The claim draws the epoch of the message that it forwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.collection import Collection

from dlq_app.documents import KEPT_HISTORY, KEPT_REPLAYS, KEPT_VERSIONS, history_entry, letter_from, letters_from, text
from dlq_app.letter import DeadLetter
from dlq_app.mongo import Document, translated
from dlq_app.states import Status, Verb, froms, is_allowed

#: A claim older than this is looked at by the sweep. Longer than a forward can be under way (4 minutes).
STALE_AFTER = timedelta(minutes=5)


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


class Claims:
    """Moves letters into and out of ``dlq_processing``."""

    _letters: Collection[Document]

    def claim(self, letter: DeadLetter, order: ClaimOrder) -> DeadLetter | None:
        """Claim the letter exactly as it was read, or None when it is no longer so or may not be claimed.

        One conditional update: of any number of claimants one gets it. The fence it gets is the epoch of its replay. A
        batch claims a letter once, ever.
        """
        if not any(is_allowed(verb, letter.status) for verb in order.verbs):
            return None
        where, change = claim_update(letter, order)
        with translated():
            document = self._letters.find_one_and_update(where, change, return_document=ReturnDocument.AFTER)
        return letter_from(document) if document else None

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
        with translated():
            return self._letters.update_one(where, change).modified_count == 1

    def stale(self, now: datetime, limit: int) -> Sequence[DeadLetter]:
        """Claimed letters whose claim began more than five minutes before ``now`` (the server's clock)."""
        where = {
            "status": Status.PROCESSING.value,
            "$or": [{"replay.lockedAt": {"$lt": now - STALE_AFTER}}, {"replay.lockedAt": None}],
        }
        with translated():
            return letters_from(list(self._letters.find(where).limit(limit)))

    def keep_claimed(self, letter: DeadLetter) -> bool:
        """Start a stale claim's five minutes again: its message exists, and its outcome will come."""
        where = {"_id": ObjectId(letter.id), "status": Status.PROCESSING.value, "fence": letter.fence}
        with translated():
            return self._letters.update_one(where, {"$currentDate": {"replay.lockedAt": True}}).modified_count == 1

    def due(self, now: datetime, limit: int) -> Sequence[DeadLetter]:
        """Letters whose automatic replay is due, longest first. One that is unreadable is pushed out of the way."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$lte": now}}
        with translated():
            found = list(self._letters.find(where).sort([("nextRetryAt", 1), ("_id", 1)]).limit(limit))
        letters = letters_from(found)
        readable = {letter.id for letter in letters}
        broken = [document["_id"] for document in found if str(document["_id"]) not in readable]
        if broken:
            with translated():
                self._letters.update_many(
                    {"_id": {"$in": broken}, "status": Status.PENDING.value},
                    {"$set": {"nextRetryAt": now + timedelta(hours=1)}},
                )
        return letters

    def next_due_at(self) -> datetime | None:
        """When the next automatic replay is or was due; None when none is planned."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$type": "date"}}
        with translated():
            first = self._letters.find_one(where, {"_id": 0, "nextRetryAt": 1}, sort=[("nextRetryAt", 1), ("_id", 1)])
        due_at = first and first["nextRetryAt"]
        return due_at if isinstance(due_at, datetime) else None

    def postpone(self, letter: DeadLetter, until: datetime) -> bool:
        """Move an automatic replay that nobody has claimed to a later time."""
        where = {"_id": ObjectId(letter.id), "status": Status.PENDING.value, "nextRetryAt": letter.next_retry_at}
        with translated():
            return self._letters.update_one(where, {"$set": {"nextRetryAt": until}}).modified_count == 1

    def postpone_type(self, message_type: str, now: datetime, until: datetime) -> int:
        """Move all replays of a type that are due by ``now``: one open breaker must not hold up the others."""
        where = {"status": Status.PENDING.value, "nextRetryAt": {"$lte": now}, "type": message_type}
        with translated():
            return self._letters.update_many(where, {"$set": {"nextRetryAt": until}}).modified_count


def claim_update(letter: DeadLetter, order: ClaimOrder) -> tuple[Document, Document]:
    """Filter and change of a claim. The filter holds the fence as read, so the update itself draws the next one."""
    epoch = letter.fence + 1
    version = _next_version(letter) if order.edited is not None else 0
    where: dict[str, Any] = {
        "_id": ObjectId(letter.id),
        "status": letter.status.value,
        # 0 is also how a letter without a fence reads.
        "fence": letter.fence or {"$in": [0, None]},
    }
    if order.batch_id:
        where |= {"replayAttempts.batchId": {"$ne": order.batch_id}, "skippedBy": {"$ne": order.batch_id}}
    by, why = text(order.by, 200), text(order.why, 2000)
    attempt = {
        "replayId": order.replay_id,
        "epoch": epoch,
        "kind": order.kind,
        "by": by,
        "why": why,
        "batchId": order.batch_id,
        "version": version,
        "at": order.at,
        "outcome": None,
    }
    claim = {
        "id": order.replay_id,
        "epoch": epoch,
        "kind": order.kind,
        "by": by,
        "why": why,
        "batchId": order.batch_id,
        "version": version,
        "lockedBy": order.locked_by,
        "from": letter.status.value,
    }
    pushed: Document = {
        "replayAttempts": {"$each": [attempt], "$slice": -KEPT_REPLAYS},
        "history": {"$each": [history_entry(order.at, by, Verb.CLAIM, why)], "$slice": -KEPT_HISTORY},
    }
    if order.edited is not None:
        entry = {
            "version": version,
            "epoch": epoch,
            "payload": order.edited,
            "diff": order.diff,
            "by": by,
            "at": order.at,
            "why": why,
        }
        pushed["versions"] = {"$each": [entry], "$slice": -KEPT_VERSIONS}
    change: Document = {
        "$set": {
            "status": Status.PROCESSING.value,
            "fence": epoch,
            "updatedAt": order.at,
            **{f"replay.{name}": value for name, value in claim.items()},
        },
        # The server's clock: claims of hosts whose clocks differ are compared by the sweep.
        "$currentDate": {"replay.lockedAt": True},
        "$push": pushed,
    }
    return where, change


def _next_version(letter: DeadLetter) -> int:
    return max((v["version"] for v in letter.versions if isinstance(v.get("version"), int)), default=0) + 1
