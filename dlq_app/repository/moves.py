"""What operators do to a letter that waits. These touch neither its fence nor its epoch."""

from __future__ import annotations

from datetime import datetime

from bson import ObjectId
from pymongo import ReturnDocument
from pymongo.collection import Collection

from dlq_app.documents import KEPT_HISTORY, KEPT_NOTES, history_entry, letter_from, text
from dlq_app.letter import DeadLetter
from dlq_app.mongo import Document, translated
from dlq_app.states import Resolution, Status, Verb, froms


class Moves:
    """One conditional update each; None when the letter's status no longer allows the move."""

    _letters: Collection[Document]

    def resolve_by_hand(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """The letter is done: a person says so."""
        return self._resolve(letter_id, Verb.RESOLVE_BY_HAND, Resolution.BY_HAND, who, why, now)

    def discard(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """The letter does not matter: a person says so."""
        return self._resolve(letter_id, Verb.DISCARD, Resolution.DISCARDED, who, why, now)

    def set_aside(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """No more automatic replays until a person decides."""
        changed = {"status": Status.MANUAL.value, "nextRetryAt": None, "updatedAt": now}
        return self._move(letter_id, Verb.SET_ASIDE, {"$set": changed}, who, why, now)

    def add_note(self, letter_id: str, *, who: str, note: str, now: datetime) -> DeadLetter | None:
        """A note moves nothing, so it is welcome in every status; None when the letter is gone."""
        entry = {"at": now, "by": text(who, 200), "text": text(note, 4000)}
        change = {"$push": {"notes": {"$each": [entry], "$slice": -KEPT_NOTES}}, "$set": {"updatedAt": now}}
        return self._update({"_id": ObjectId(letter_id)}, change)

    def add_history(self, letter_id: str, *, who: str, what: str, why: str, now: datetime) -> None:
        """Write down something that was done with the letter without moving it."""
        entry = {"$each": [history_entry(now, who, what, why)], "$slice": -KEPT_HISTORY}
        self._update({"_id": ObjectId(letter_id)}, {"$push": {"history": entry}})

    def _resolve(
        self, letter_id: str, verb: Verb, resolution: Resolution, who: str, why: str, now: datetime
    ) -> DeadLetter | None:
        change: Document = {
            "$set": {
                "status": Status.RESOLVED.value,
                "resolution": resolution.value,
                "nextRetryAt": None,
                "updatedAt": now,
            },
            # The server's clock: retention counts from here.
            "$currentDate": {"resolvedAt": True},
        }
        return self._move(letter_id, verb, change, who, why, now)

    def _move(
        self, letter_id: str, verb: Verb, change: Document, who: str, why: str, now: datetime
    ) -> DeadLetter | None:
        entry = {"$each": [history_entry(now, who, verb, why)], "$slice": -KEPT_HISTORY}
        where = {"_id": ObjectId(letter_id), "status": {"$in": froms(verb)}}
        return self._update(where, {**change, "$push": {"history": entry}})

    def _update(self, where: Document, change: Document) -> DeadLetter | None:
        with translated():
            document = self._letters.find_one_and_update(where, change, return_document=ReturnDocument.AFTER)
        return letter_from(document) if document else None
