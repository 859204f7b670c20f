"""Letters on their way out of and into this installation, and those that are old enough to go for good."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from bson import ObjectId
from bson.errors import BSONError
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.paging import MAX_COUNTED, Total
from dlq_app.domain.states import Status
from dlq_app.store import queries
from dlq_app.store.documents import Unreadable, letter_from
from dlq_app.store.mongo import Document, translated

#: A letter is never deleted sooner after it was resolved: a write that was under way when it went would bring it back
#: with an old fence. Longer than any write can be under way.
MIN_AGE = timedelta(hours=1)
#: Answers of ``insert_imported`` that are no refusals.
IMPORTED, UNCHANGED = "imported", "unchanged"

_CHUNK = 1000
_PURGED_AT_ONCE = 500
#: A read that was broken off goes on where it was for so long; a change of primary takes less.
_PATIENCE_S = 12.0
_PAUSE_S = 0.5
_DUPLICATE_KEY = 11000
#: A rule on the collection, which is not ours, refuses the document.
_NOT_VALID = 121


class Transfer:
    """Reads whole collections in flat memory, adds letters without ever changing one, deletes in small steps."""

    _letters: Collection[Document]

    def walk(self, criteria: LetterCriteria) -> Iterator[DeadLetter | Unreadable]:
        """Every letter that fits, whole and once, by message id: an order that no move of a letter changes.

        Letters written meanwhile may or may not be met. Instead of a document that is no letter, the reason comes. When
        MongoDB does not answer, reading goes on where it was, for twelve seconds; then ``StoreUnavailable``.
        """
        after = ""
        first, given_up_at = True, 0.0
        while True:
            met = 0
            try:
                for document in self._after(criteria, after):
                    met, first, given_up_at = met + 1, False, 0.0
                    after = document["messageId"]
                    try:
                        yield letter_from(document)
                    except Unreadable as error:
                        yield error
            except StoreUnavailable:
                given_up_at = given_up_at or time.monotonic() + _PATIENCE_S
                if first or time.monotonic() > given_up_at:
                    raise
                time.sleep(_PAUSE_S)
                continue
            if met < _CHUNK:
                break
        yield from self._without_id(criteria)

    def _without_id(self, criteria: LetterCriteria) -> Iterator[Unreadable]:
        """Documents that fit and have no message id that is a text: ``walk`` cannot meet them in its order."""
        where = {"$and": [queries.matching(criteria), {"$or": queries.WITHOUT_ID}]}
        with translated():
            found = list(self._letters.find(where, {"_id": 1}).limit(_CHUNK))
        for document in found:
            yield Unreadable(document, "messageId is missing or not a string")

    def _after(self, criteria: LetterCriteria, after: str) -> Iterator[Document]:
        """The next thousand, at most 16 MiB of them in memory at a time."""
        where = {"$and": [queries.matching(criteria), {"messageId": {"$gt": after}}]}
        with translated():
            yield from self._letters.find(where).sort("messageId", 1).limit(_CHUNK)

    def known(self, message_ids: Sequence[str]) -> set[str]:
        """Those of these messages that have letters. Reads an index only."""
        where = {"messageId": {"$in": list(message_ids)}}
        with translated():
            return {document["messageId"] for document in self._letters.find(where, {"_id": 0, "messageId": 1})}

    def insert_imported(self, documents: Sequence[Document]) -> list[str]:
        """Insert letters that came from outside, ``_id`` as text; never changes one that is there.

        For each, in order: ``IMPORTED``, ``UNCHANGED`` (its message has a letter), or why it cannot be stored. After
        ``StoreUnavailable`` some may be there: bring them again.
        """
        stored = [{**document, "_id": ObjectId(document.get("_id"))} for document in documents]
        return self._insert(stored) if stored else []

    def _insert(self, documents: Sequence[Document]) -> list[str]:
        answers = [IMPORTED] * len(documents)
        try:
            with translated():
                try:
                    self._letters.insert_many(documents, ordered=False)
                except (DocumentTooLarge, BSONError, OverflowError, UnicodeEncodeError, RecursionError) as error:
                    if len(documents) == 1:
                        return [f"cannot be stored: {type(error).__name__}"]
                    # All were refused for one of them: each on its own finds out which.
                    return [self._insert([document])[0] for document in documents]
        except StoreUnavailable as unavailable:
            cause = unavailable.__cause__
            if not isinstance(cause, BulkWriteError) or cause.details.get("writeConcernErrors"):
                raise
            for failure in cause.details["writeErrors"]:
                document = documents[failure["index"]]
                answers[failure["index"]] = self._refusal(failure, document, unavailable)
        return answers

    def _refusal(self, failure: Any, document: Document, unavailable: StoreUnavailable) -> str:
        """The answer to one document; raises ``unavailable`` when the server may take it at another time."""
        if failure["code"] == _NOT_VALID:
            return "a validation rule of the collection rejects it"
        if failure["code"] != _DUPLICATE_KEY:
            raise unavailable
        with translated():
            is_there = self._letters.find_one({"messageId": {"$eq": document["messageId"]}}, {"_id": 1})
        return UNCHANGED if is_there else "another letter has this _id"

    def count_purgeable(self, criteria: LetterCriteria, resolved_before: datetime) -> Total:
        """How many ``purge`` would delete; at least so many when there are too many to count in time."""
        where = _purgeable(criteria, resolved_before)
        try:
            with translated():
                return Total(count=self._letters.count_documents(where), is_capped=False)
        except QueryTooSlow:
            with translated():
                return Total(count=self._letters.count_documents(where, limit=MAX_COUNTED), is_capped=True)

    def purge(
        self,
        criteria: LetterCriteria,
        resolved_before: datetime,
        before: Callable[[list[str]], None] = lambda message_ids: None,
    ) -> int:
        """Delete at most 500 letters that fit, are resolved and were so before; how many went. 0: none is left.

        Each delete judges the letter anew, so one that is claimed at the same instant stays. ``before`` is called with
        the message ids before anything is deleted.
        """
        where = _purgeable(criteria, resolved_before)
        with translated():
            found = list(self._letters.find(where, {"messageId": 1}).limit(_PURGED_AT_ONCE))
        if not found:
            return 0
        before([document["messageId"] for document in found])
        ids = [document["_id"] for document in found]
        with translated():
            return self._letters.delete_many({"$and": [{"_id": {"$in": ids}}, where]}).deleted_count


def _purgeable(criteria: LetterCriteria, resolved_before: datetime) -> dict[str, Any]:
    resolved = {"status": Status.RESOLVED.value, "resolvedAt": {"$lt": resolved_before}}
    return {"$and": [resolved, queries.matching(criteria)]}
