"""Read all letters for exports, insert imported ones, and delete old ones."""

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

#: Minimum age of a resolved letter before it is deleted: longer than any write can take. A write that is in progress
#: while its letter is deleted would create it again with an old fence.
MIN_AGE = timedelta(hours=1)
#: Answers of ``insert_imported`` that are not errors.
IMPORTED, UNCHANGED = "imported", "unchanged"

_CHUNK = 1000
_PURGED_AT_ONCE = 500
#: Seconds of retries after an interrupted read; an election takes less.
_PATIENCE_S = 12.0
_PAUSE_S = 0.5
_DUPLICATE_KEY = 11000
#: A validation rule that somebody else set on the collection rejects the document.
_NOT_VALID = 121


class Transfer:
    """Reads whole collections in constant memory, inserts letters without changing existing ones, deletes in steps."""

    _letters: Collection[Document]

    def walk(self, criteria: LetterCriteria) -> Iterator[DeadLetter | Unreadable]:
        """Every matching letter once, with all fields, by message id: an order that no move of a letter changes.

        Letters written during the walk can be missing. Yields an ``Unreadable`` for a document that is not a letter.
        Retries for twelve seconds when MongoDB does not answer; then raises ``StoreUnavailable``.
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
        """Matching documents whose message id is not a string: the order of ``walk`` does not include them."""
        where = {"$and": [queries.matching(criteria), {"$or": queries.WITHOUT_ID}]}
        with translated():
            found = list(self._letters.find(where, {"_id": 1}).limit(_CHUNK))
        for document in found:
            yield Unreadable(document, "messageId is missing or not a string")

    def _after(self, criteria: LetterCriteria, after: str) -> Iterator[Document]:
        """The next thousand, with at most 16 MiB in memory at a time."""
        where = {"$and": [queries.matching(criteria), {"messageId": {"$gt": after}}]}
        with translated():
            yield from self._letters.find(where).sort("messageId", 1).limit(_CHUNK)

    def known(self, message_ids: Sequence[str]) -> set[str]:
        """Those of these messages that have letters. Reads only an index."""
        where = {"messageId": {"$in": list(message_ids)}}
        with translated():
            return {document["messageId"] for document in self._letters.find(where, {"_id": 0, "messageId": 1})}

    def insert_imported(self, documents: Sequence[Document]) -> list[str]:
        """Insert imported letters, with ``_id`` as text; never changes an existing one.

        Returns for each, in order, ``IMPORTED``, ``UNCHANGED`` (its message has a letter), or why it cannot be stored.
        After ``StoreUnavailable`` some can be inserted: repeat the call.
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
                    # All were rejected because of one of them: insert each alone to find out which.
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
        """The answer for one document; raises ``unavailable`` if a retry can succeed."""
        if failure["code"] == _NOT_VALID:
            return "a validation rule of the collection rejects it"
        if failure["code"] != _DUPLICATE_KEY:
            raise unavailable
        with translated():
            is_there = self._letters.find_one({"messageId": {"$eq": document["messageId"]}}, {"_id": 1})
        return UNCHANGED if is_there else "another letter has this _id"

    def count_purgeable(self, criteria: LetterCriteria, resolved_before: datetime) -> Total:
        """Number of letters that ``purge`` would delete; a minimum when counting takes too long."""
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
        """Delete at most 500 matching letters that were resolved before; returns their number, 0 when none is left.

        The delete checks each letter again, so one that was claimed meanwhile stays. Calls ``before`` with the message
        ids before anything is deleted.
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
