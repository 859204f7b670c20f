"""Moves of letters by operators. They change neither fence nor epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from bson import ObjectId
from pymongo import ReturnDocument

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.letter_values import load_number, safe_text
from dlq_app.domain.paging import DEFAULT_SORT, Cursor
from dlq_app.domain.states import UNDOABLE, Resolution, Status, Verb, froms
from dlq_app.domain.strategies import Strategy
from dlq_app.store import queries
from dlq_app.store.documents import KEPT_HISTORY, KEPT_NOTES, history_entry, letter_from, letters_from
from dlq_app.store.mongo import Document, translated
from dlq_app.store.selecting import Selecting

_CHUNK = 500
_PLACE = {"lastFailedAt": 1, "strategy": 1, "dlqRetryCount": 1}
_AUTOMATIC = [strategy.value for strategy in Strategy if strategy is not Strategy.MANUAL]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The letters of one bulk action: named ones, or all that match criteria.

    Letters changed after ``as_of`` are skipped, because the user saw and counted them before the change.
    """

    criteria: LetterCriteria | None = None
    ids: tuple[str, ...] = ()
    #: ``ids`` can also be message ids.
    with_message_ids: bool = False
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

    def resume(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """Plan the next automatic replay of a letter that was set aside or reopened and has automatic replays left."""
        return self._move(letter_id, Verb.RESUME, who, why, now)

    def reopen(self, letter_id: str, *, who: str, why: str, now: datetime) -> DeadLetter | None:
        """Undo a resolution by an operator: the letter needs a decision. Its retention no longer runs."""
        return self._move(letter_id, Verb.REOPEN, who, why, now)

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
        with translated():
            where, left = self._movable(which, verb), limit
        order = [(key.field, key.direction) for key in DEFAULT_SORT.keys]
        rest = queries.in_order(where, DEFAULT_SORT)
        while left > 0:
            with translated():
                found = list(self._letters.find(rest, _PLACE).sort(order).limit(min(_CHUNK, left)))
                if not found:
                    return
                moved = sum(
                    self._letters.update_many({**where, **mine}, change).modified_count
                    for mine, change in _updates(verb, found, who, why, now)
                )
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
            if which.with_message_ids:
                chosen = {"$or": [chosen, {"messageId": {"$in": list(which.ids)}}]}
        # The order needs a date; a document without one is not a letter.
        still = {**_allowed(verb), "updatedAt": {"$lte": which.as_of}, "lastFailedAt": {"$type": "date"}}
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
        where = {"_id": ObjectId(letter_id), **_allowed(verb)}
        found: list[Document] = [{"_id": where["_id"]}]
        if verb is Verb.RESUME:
            with translated():
                found = list(self._letters.find(where, _PLACE))
        updates = _updates(verb, found, who, why, now)
        return self._update({**where, **updates[0][0]}, updates[0][1]) if updates else None

    def _update(self, where: Document, change: Document) -> DeadLetter | None:
        with translated():
            document = self._letters.find_one_and_update(where, change, return_document=ReturnDocument.AFTER)
        return letter_from(document) if document else None


def _allowed(verb: Verb) -> Document:
    """Filter: the letters that the verb can move."""
    allowed: Document = {"status": {"$in": froms(verb)}}
    if verb is Verb.REOPEN:
        allowed["resolution"] = {"$in": sorted(UNDOABLE)}
    elif verb is Verb.RESUME:
        maximum = conf.replay_policy().max_automatic_replays
        allowed |= {"strategy": {"$in": _AUTOMATIC}, "dlqRetryCount": {"$lt": maximum}}
    return allowed


def _updates(
    verb: Verb, found: Sequence[Document], who: str, why: str, now: datetime
) -> list[tuple[Document, Document]]:
    """Filters and changes that move these letters: one for all, or, to resume, one for each next replay."""
    history = {"history": {"$each": [history_entry(now, who, verb, why)], "$slice": -KEPT_HISTORY}}
    if verb is not Verb.RESUME:
        ids = {"_id": {"$in": [document["_id"] for document in found]}}
        return [(ids, {**_changes(verb, now), "$push": history})]
    alike: dict[tuple[str, float], list[ObjectId]] = defaultdict(list)
    for document in found:
        strategy, done = document["strategy"], document["dlqRetryCount"]
        if isinstance(strategy, str) and isinstance(done, int | float):  # a filter also matches elements of lists
            alike[strategy, done].append(document["_id"])
    updates: list[tuple[Document, Document]] = []
    for (strategy, done), same in alike.items():
        due_at = conf.replay_policy().next_replay_at(Strategy(strategy), load_number(done), now)
        if due_at is not None:
            change = {"status": Status.PENDING.value, "nextRetryAt": due_at, "updatedAt": now}
            as_read = {"_id": {"$in": same}, "strategy": strategy, "dlqRetryCount": done}
            updates.append((as_read, {"$set": change, "$push": history}))
    return updates


def _changes(verb: Verb, now: datetime) -> Document:
    """The changes of a letter by an operator's verb."""
    if verb is Verb.SET_ASIDE:
        return {"$set": {"status": Status.MANUAL.value, "nextRetryAt": None, "updatedAt": now}}
    if verb is Verb.REOPEN:
        return {
            "$set": {"status": Status.MANUAL.value, "nextRetryAt": None, "updatedAt": now},
            "$unset": {"resolution": "", "resolvedAt": ""},
        }
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
