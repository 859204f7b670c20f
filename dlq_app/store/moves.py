"""Moves of open letters by operators. They change neither fence nor epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from bson import ObjectId
from pymongo import ReturnDocument

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.letter_values import safe_text
from dlq_app.domain.paging import DEFAULT_SORT, Cursor
from dlq_app.domain.states import Resolution, Status, Verb, froms
from dlq_app.store import queries
from dlq_app.store.documents import KEPT_HISTORY, KEPT_NOTES, history_entry, letter_from, letters_from
from dlq_app.store.mongo import Document, translated
from dlq_app.store.selecting import Selecting

_CHUNK = 500
_PLACE = {"lastFailedAt": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The letters of one bulk action: named ones, or all that match criteria.

    Letters changed after ``as_of`` are skipped, because the user saw and counted them before the change.
    """

    criteria: LetterCriteria | None = None
    ids: tuple[str, ...] = ()
    as_of: datetime


class Moves(Selecting):
    """Each move is one conditional update; None when the letter's status no longer allows it."""

    def resolve_by_hand(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """Resolve the letter by hand: it is done."""
        return self._move(letter_id, Verb.RESOLVE_BY_HAND, who, why, now)

    def discard(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """Resolve the letter by hand: it is irrelevant."""
        return self._move(letter_id, Verb.DISCARD, who, why, now)

    def set_aside(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """Stop automatic replays until somebody decides."""
        return self._move(letter_id, Verb.SET_ASIDE, who, why, now)

    def movable(self, which: Selection, verb: Verb, *, limit: int) -> int:
        """Number of letters that the verb can move, exact up to ``limit``. Can raise ``QueryTooSlow``."""
        with translated():
            return self._letters.count_documents(self._movable(which, verb), limit=limit)

    def sample(self, which: Selection, verb: Verb, size: int) -> list[DeadLetter]:
        """The first letters that ``movable`` counts, newest failure first, without heavy fields."""
        order = [(key.field, key.direction) for key in DEFAULT_SORT.keys]
        shown = {"messageId": 1, "status": 1, "lastFailedAt": 1, "errorType": 1, "errorReason": 1, "type": 1}
        with translated():
            where = queries.in_order(self._movable(which, verb), DEFAULT_SORT)
            return letters_from(list(self._letters.find(where, shown).sort(order).limit(size)))

    def move_many(
        self, which: Selection, verb: Verb, *, limit: int, who: str, why: str, now: datetime
    ) -> Iterator[int]:
        """Move up to ``limit`` letters of the selection in steps of some hundred; yields the number of each step.

        Each letter is moved by the same conditional update as by hand: one of two concurrent moves succeeds. Yielded
        steps are done, also when a later one fails; a repetition continues with the rest.
        """
        entry = {"$each": [history_entry(now, who, verb, why)], "$slice": -KEPT_HISTORY}
        change = {**_changes(verb, now), "$push": {"history": entry}}
        with translated():
            where, left = self._movable(which, verb), limit
        order = [(key.field, key.direction) for key in DEFAULT_SORT.keys]
        rest = queries.in_order(where, DEFAULT_SORT)
        while left > 0:
            with translated():
                found = list(self._letters.find(rest, _PLACE).sort(order).limit(min(_CHUNK, left)))
                if not found:
                    return
                mine = {**where, "_id": {"$in": [document["_id"] for document in found]}}
                moved = self._letters.update_many(mine, change).modified_count
            yield moved
            left -= moved
            # Continue after the last one, so that moved letters are not read again.
            last = Cursor(DEFAULT_SORT, (found[-1]["lastFailedAt"], found[-1]["_id"]))
            rest = {"$and": [where, queries.after(last)]}

    def _movable(self, which: Selection, verb: Verb) -> Document:
        """Filter: letters of the selection that the verb can move and that have not changed since.

        A letter that comes to another group, which a search did not look for, has changed.
        """
        if which.criteria is not None:
            chosen = self._condition(which.criteria)
        else:
            chosen = {"_id": {"$in": [ObjectId(one) for one in which.ids if ObjectId.is_valid(one)]}}
        # The order needs a date; a document without one is not a letter.
        still = {"status": {"$in": froms(verb)}, "updatedAt": {"$lte": which.as_of}, "lastFailedAt": {"$type": "date"}}
        return {"$and": [chosen, still]}

    def add_note(self, letter_id: str, *, who: str, note: str, now: datetime) -> DeadLetter | None:
        """Add a note, in any status; None when the letter does not exist."""
        entry = {"at": now, "by": safe_text(who, 200), "text": safe_text(note, 4000)}
        change = {"$push": {"notes": {"$each": [entry], "$slice": -KEPT_NOTES}}, "$set": {"updatedAt": now}}
        return self._update({"_id": ObjectId(letter_id)}, change)

    def add_history(self, letter_id: str, *, who: str, what: str, why: str, now: datetime) -> None:
        """Add an entry to the history without moving the letter."""
        entry = {"$each": [history_entry(now, who, what, why)], "$slice": -KEPT_HISTORY}
        self._update({"_id": ObjectId(letter_id)}, {"$push": {"history": entry}})

    def _move(self, letter_id: str, verb: Verb, who: str, why: str, now: datetime) -> DeadLetter | None:
        entry = {"$each": [history_entry(now, who, verb, why)], "$slice": -KEPT_HISTORY}
        where = {"_id": ObjectId(letter_id), "status": {"$in": froms(verb)}}
        return self._update(where, {**_changes(verb, now), "$push": {"history": entry}})

    def _update(self, where: Document, change: Document) -> DeadLetter | None:
        with translated():
            document = self._letters.find_one_and_update(where, change, return_document=ReturnDocument.AFTER)
        return letter_from(document) if document else None


def _changes(verb: Verb, now: datetime) -> Document:
    """The changes of a letter by an operator's verb."""
    if verb is Verb.SET_ASIDE:
        return {"$set": {"status": Status.MANUAL.value, "nextRetryAt": None, "updatedAt": now}}
    resolution = {Verb.RESOLVE_BY_HAND: Resolution.BY_HAND, Verb.DISCARD: Resolution.DISCARDED}[verb]
    return {
        "$set": {
            "status": Status.RESOLVED.value,
            "resolution": resolution.value,
            "nextRetryAt": None,
            "updatedAt": now,
        },
        # The server's clock: retention counts from here.
        "$currentDate": {"resolvedAt": True},
    }
