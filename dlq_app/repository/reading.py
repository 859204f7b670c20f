"""Questions about letters. Every one is bounded in time by the client, and in size here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pymongo
from bson import ObjectId
from pymongo.collection import Collection

from dlq_app import queries
from dlq_app.criteria import LetterCriteria
from dlq_app.documents import HEAVY, letter_from, letters_from
from dlq_app.letter import DeadLetter
from dlq_app.mongo import Document, translated
from dlq_app.paging import MAX_COUNTED, Cursor, PageRequest, Sort, Total
from dlq_app.states import OPEN

_LIGHT = dict.fromkeys(HEAVY, 0)


@dataclass(frozen=True, slots=True)
class Page:
    """Letters of one page, without their heavy fields, and where the next page begins (None on the last)."""

    letters: list[DeadLetter]
    next_cursor: Cursor | None


class Reading:
    """Reads letters; changes nothing."""

    def __init__(self, collection: Collection[Document]) -> None:
        self._letters = collection

    def find(self, ref: str) -> DeadLetter | None:
        """The letter with this ``_id`` or message id, whole."""
        documents: list[Document] = []
        with translated():
            if ObjectId.is_valid(ref):
                documents = list(self._letters.find({"_id": ObjectId(ref)}).limit(1))
            if not documents:
                documents = list(self._letters.find({"messageId": {"$eq": ref}}).limit(1))
        return next(iter(letters_from(documents)), None)

    def find_by_message(self, message_id: str) -> DeadLetter | None:
        """The letter of this message, whole."""
        with translated():
            documents = list(self._letters.find({"messageId": {"$eq": message_id}}).limit(1))
        return next(iter(letters_from(documents)), None)

    def get(self, letter_id: str) -> DeadLetter | None:
        """The letter with this ``_id``, whole."""
        with translated():
            document = self._letters.find_one({"_id": ObjectId(letter_id)})
        return letter_from(document) if document else None

    def page(self, criteria: LetterCriteria, request: PageRequest) -> Page:
        """One page. By cursor each letter is seen exactly once, as long as its own sort keys stay as they are."""
        where = queries.in_order(queries.matching(criteria), request.sort)
        if request.cursor:
            where = {"$and": [where, queries.after(_with_ids(request.cursor))]}
        order = [(key.field, key.direction) for key in request.sort.keys]
        skip = (request.page - 1) * request.limit
        with translated():
            found = list(self._letters.find(where, _LIGHT).sort(order).skip(skip).limit(request.limit + 1))
        shown = found[: request.limit]
        more = len(found) > request.limit
        return Page(letters_from(shown), _cursor_after(shown, request.sort) if more else None)

    def count(self, criteria: LetterCriteria, *, within_s: float | None = None) -> Total:
        """How many fit, exact up to 10 000. ``QueryTooSlow`` when that takes longer than ``within_s``."""
        with translated(), pymongo.timeout(within_s):
            count = self._letters.count_documents(queries.matching(criteria), limit=MAX_COUNTED + 1)
        return Total(count=min(count, MAX_COUNTED), is_capped=count > MAX_COUNTED)

    def exact_count(self, criteria: LetterCriteria) -> int:
        """How many fit, however many: for the dry run of what will be acted on. May be ``QueryTooSlow``."""
        with translated():
            return self._letters.count_documents(queries.matching(criteria))

    def each(self, criteria: LetterCriteria, sort: Sort, *, chunk: int = 100) -> Iterator[DeadLetter]:
        """All letters that fit, whole, in chunks: flat memory, no cursor kept open on the server in between."""
        cursor: Cursor | None = None
        order = [(key.field, key.direction) for key in sort.keys]
        while True:
            where = queries.in_order(queries.matching(criteria), sort)
            if cursor:
                where = {"$and": [where, queries.after(_with_ids(cursor))]}
            with translated():
                found = list(self._letters.find(where).sort(order).limit(chunk))
            yield from letters_from(found)
            cursor = _cursor_after(found, sort)
            if len(found) < chunk or cursor is None:
                return

    def counts_by(self, path: str, limit: int = 50) -> list[tuple[str, int]]:
        """How many letters have each value of ``path``, most first. Reads one index, not the letters."""
        pipeline: list[dict[str, Any]] = [
            {"$sort": {path: 1}},
            {"$group": {"_id": f"${path}", "count": {"$sum": 1}}},
            {"$sort": {"count": -1, "_id": 1}},
            {"$limit": limit},
        ]
        with translated():
            rows = list(self._letters.aggregate(pipeline))
        return [(str(row["_id"]), row["count"]) for row in rows if row["_id"] is not None]

    def oldest_open_at(self) -> datetime | None:
        """When the oldest letter that is not resolved was written."""
        with translated():
            firsts = [
                self._letters.find_one(
                    {"status": status.value}, {"_id": 0, "createdAt": 1}, sort=[("createdAt", 1), ("_id", 1)]
                )
                for status in sorted(OPEN)
            ]
        instants = [first["createdAt"] for first in firsts if first and isinstance(first.get("createdAt"), datetime)]
        return min(instants, default=None)

    def server_now(self) -> datetime:
        """The clock of the MongoDB server, which all claims and due times are compared with."""
        with translated():
            now: datetime = self._letters.database.client.admin.command("hello")["localTime"]
        return now.replace(tzinfo=UTC)


def _cursor_after(documents: Sequence[Document], sort: Sort) -> Cursor | None:
    """The cursor after the last document whose sort keys are of the right kind: no other can be continued from."""
    kinds = {"instant": datetime, "text": str, "id": ObjectId}
    for document in reversed(documents):
        values = [document.get(key.field) for key in sort.keys]
        if all(isinstance(value, kinds[key.kind]) for key, value in zip(sort.keys, values, strict=True)):
            return Cursor(sort, tuple(str(value) if isinstance(value, ObjectId) else value for value in values))
    return None


def _with_ids(cursor: Cursor) -> Cursor:
    """The cursor with its id as the store compares it. Cursors carry it as text."""
    pairs = zip(cursor.sort.keys, cursor.values, strict=True)
    return Cursor(cursor.sort, tuple(ObjectId(value) if key.kind == "id" else value for key, value in pairs))
