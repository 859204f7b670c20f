"""Read letters. The client limits the time of each query, this module its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection
from pymongo.cursor import Cursor as PyMongoCursor

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.paging import MAX_COUNTED, Cursor, PageRequest, Sort, Total
from dlq_app.domain.search_terms import words
from dlq_app.store import queries
from dlq_app.store.documents import HEAVY, Unreadable, letter_from, letters_from
from dlq_app.store.hinted import hinted
from dlq_app.store.indexes import FIGURES
from dlq_app.store.mongo import Document, patiently, translated

_LIGHT = dict.fromkeys(HEAVY, 0)
#: Maximum listed documents that are not letters.
MAX_NAMED = 20
#: Fields that distinguish a letter from other documents.
_IDENTIFYING = {"messageId": 1, "status": 1, "lastFailedAt": 1}
#: Sorting up to this number of keys is faster than searching a page among letters that do not match.
_FEW = 5000
#: Seconds of searching matching letters one by one, before all matching keys are sorted instead.
_PATIENCE_S = 0.25
#: Seconds that a list waits for the number of letters, and the minimum number to find when it takes longer.
_COUNT_S = 1.0
_CERTAIN = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Letters of one page, without heavy fields, and the cursor of the next page (None on the last)."""

    letters: list[DeadLetter]
    next_cursor: Cursor | None


class Reading:
    """Reads letters; changes nothing."""

    def __init__(self, collection: Collection[Document], many: Collection[Document] | None = None) -> None:
        self._letters = collection
        # The same collection for bulk writes, which this application repeats itself when their answer was lost.
        self._many = collection if many is None else many

    def find(self, ref: str) -> DeadLetter | None:
        """The letter with this ``_id`` or message id, with all fields."""
        documents: list[Document] = []
        with translated():
            if ObjectId.is_valid(ref):
                documents = list(self._letters.find({"_id": ObjectId(ref)}).limit(1))
            if not documents:
                documents = list(self._letters.find({"messageId": {"$eq": ref}}).limit(1))
        return next(iter(letters_from(documents)), None)

    def find_by_message(self, message_id: str) -> DeadLetter | None:
        """The letter of this message, with all fields."""
        with translated():
            documents = list(self._letters.find({"messageId": {"$eq": message_id}}).limit(1))
        return next(iter(letters_from(documents)), None)

    def get(self, letter_id: str) -> DeadLetter | None:
        """The letter with this ``_id``, with all fields."""
        with translated():
            documents = list(self._letters.find({"_id": ObjectId(letter_id)}))
        return next(iter(letters_from(documents)), None)

    def unreadable(self, limit: int) -> list[Unreadable]:
        """Documents that are not letters, at most ``limit``. Lists, exports and batches skip them.

        Costs a few index lookups, independent of the number of letters.
        """
        with translated():
            found = list(self._letters.find({"$or": queries.UNREADABLE}, _IDENTIFYING).limit(limit))
        return [error for document in found if (error := _why_unreadable(document))]

    def page(self, criteria: LetterCriteria, request: PageRequest) -> Page:
        """One page. By cursor each letter is returned exactly once while its own sort keys do not change."""
        keys = queries.of_keys(criteria) if queries.is_combined(criteria, request.sort) else None
        if keys is not None and self._are_few(keys):
            return self._page_by_keys(keys, request)
        where = queries.in_order(queries.matching(criteria), request.sort)
        if keys is None:
            try:
                with translated():
                    return self._page_in_order(where, request)
            except QueryTooSlow as error:
                raise QueryTooSlow(_advice(criteria)) from error
        try:
            with patiently(_PATIENCE_S):
                return self._page_in_order(where, request)
        except (QueryTooSlow, StoreUnavailable):
            # Many fit, but all of them far from here. A store that is really away says so again.
            return self._page_by_keys(keys, request)

    def _page_in_order(self, where: Document, request: PageRequest) -> Page:
        """The page from an index with its order, skipping letters that do not match."""
        found = list(self._ordered(where, request, _LIGHT))
        shown, cursor = found[: request.limit], _cursor_after(found[: request.limit], request.sort)
        if len(found) > request.limit and cursor is None:
            # None of them has keys to continue from: on to the first that has, so that what comes after is reached.
            found = list(self._ordered(where, request, _LIGHT, limit=_FEW))
            good = (n for n in range(len(shown), len(found)) if _cursor_after(found[n : n + 1], request.sort))
            shown = found[: next(good, len(found)) + 1]
            cursor = _cursor_after(shown, request.sort)
        return Page(letters_from(shown), cursor if len(found) > len(shown) else None)

    def _page_by_keys(self, where: Document, request: PageRequest) -> Page:
        """The page by sorting the keys of all matches and reading only the letters of the page."""
        fields = {key.field: 1 for key in request.sort.keys} | {"_id": 1}
        with translated():
            found = hinted(lambda index: list(self._ordered(where, request, fields, index)), FIGURES)
            ids = [row["_id"] for row in found[: request.limit]]
            documents = {row["_id"]: row for row in self._letters.find({"_id": {"$in": ids}}, _LIGHT)}
        shown = [documents[letter_id] for letter_id in ids if letter_id in documents]
        more = len(found) > request.limit
        return Page(letters_from(shown), _cursor_after(found[: request.limit], request.sort) if more else None)

    def _ordered(
        self, where: Document, request: PageRequest, fields: Document, index: str | None = None, *, limit: int = 0
    ) -> PyMongoCursor[Document]:
        if request.cursor:
            where = {"$and": [where, queries.after(_with_ids(request.cursor))]}
        order = [(key.field, key.direction) for key in request.sort.keys]
        skip = (request.page - 1) * request.limit
        found = self._letters.find(where, fields).sort(order).skip(skip).limit(limit or request.limit + 1)
        return found.hint(index) if index else found

    def _are_few(self, keys: Document) -> bool:
        with translated():
            return self._count_keys(keys, _FEW + 1) <= _FEW

    def _count_keys(self, keys: Document, limit: int | None = None) -> int:
        def ask(index: str | None) -> int:
            options: dict[str, Any] = {"limit": limit} if limit else {}
            if index:
                options["hint"] = index
            return self._letters.count_documents(keys, **options)

        return hinted(ask, FIGURES)

    def count(self, criteria: LetterCriteria, *, within_s: float | None = None) -> Total:
        """Number of matching letters, exact up to 10 000.

        When that takes longer than ``within_s``: ``QueryTooSlow``. Without ``within_s`` the answer is then, after a
        second, what half a second more makes certain, at most 100, as a capped one.
        """
        try:
            with patiently(within_s or _COUNT_S):
                count = self._count(criteria, MAX_COUNTED + 1)
        except (QueryTooSlow, StoreUnavailable):
            if within_s is not None:
                raise
            return Total(count=self._certain(criteria), is_capped=True)
        return Total(count=min(count, MAX_COUNTED), is_capped=count > MAX_COUNTED)

    def _certain(self, criteria: LetterCriteria) -> int:
        try:
            with patiently(_COUNT_S / 2):
                return len(list(self._letters.find(queries.matching(criteria), {"_id": 1}).limit(_CERTAIN)))
        except (QueryTooSlow, StoreUnavailable):
            return 0  # the page itself shows letters, or the error of the store

    def exact_count(self, criteria: LetterCriteria) -> int:
        """Exact number of matching letters, for previews of actions. Can raise ``QueryTooSlow``."""
        with translated():
            return self._count(criteria)

    def _count(self, criteria: LetterCriteria, limit: int | None = None) -> int:
        keys = queries.of_keys(criteria) if queries.is_combined(criteria) else None
        if keys is not None:
            return self._count_keys(keys, limit)
        where = queries.matching(criteria)
        return self._letters.count_documents(where, limit=limit) if limit else self._letters.count_documents(where)

    def each(self, criteria: LetterCriteria, sort: Sort, *, chunk: int = 100) -> Iterator[DeadLetter]:
        """All matching letters with all fields, in chunks: constant memory, no open cursor on the server."""
        cursor: Cursor | None = None
        keys = queries.of_keys(criteria) if queries.is_combined(criteria, sort) else None
        if keys is not None and self._are_few(keys):
            yield from self._each_by_keys(keys, sort, chunk)
            return
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

    def _each_by_keys(self, where: Document, sort: Sort, chunk: int) -> Iterator[DeadLetter]:
        request = PageRequest(sort=sort, limit=2 * _FEW)  # more can have arrived since the count
        fields = {key.field: 1 for key in sort.keys} | {"_id": 1}
        with translated():
            ids = hinted(lambda index: [row["_id"] for row in self._ordered(where, request, fields, index)], FIGURES)
        for begin in range(0, len(ids), chunk):
            part = ids[begin : begin + chunk]
            with translated():
                # Some may have moved since: what is given out is what fits.
                documents = {row["_id"]: row for row in self._letters.find({**where, "_id": {"$in": part}})}
            yield from letters_from([documents[letter_id] for letter_id in part if letter_id in documents])

    def server_now(self) -> datetime:
        """The time of the MongoDB server, which claims and due times use."""
        with translated():
            now: datetime = self._letters.database.client.admin.command("hello")["localTime"]
        return now.replace(tzinfo=UTC)


def _advice(criteria: LetterCriteria) -> str:
    """Advice for a query that took too long; empty for the default text."""
    if len(words(criteria.search)) < 2:
        return ""
    # An index finds the letters of one word; each must be read to check the other words.
    return (
        "Letters that hold all of these words were not found in time: each word is common, and few letters or none "
        "hold them all. Search for one of the words, a rarer one or a message id, or narrow it by `from` and `to`."
    )


def _why_unreadable(document: Document) -> Unreadable | None:
    try:
        letter_from(document)
    except Unreadable as error:
        return error
    return None


def _cursor_after(documents: Sequence[Document], sort: Sort) -> Cursor | None:
    """The cursor after the last document whose sort keys are of the right kind: no other can be continued from."""
    kinds = {"instant": (datetime, DatetimeMS), "text": str, "id": ObjectId}
    for document in reversed(documents):
        values = [document.get(key.field) for key in sort.keys]
        if all(isinstance(value, kinds[key.kind]) for key, value in zip(sort.keys, values, strict=True)):  # type: ignore[arg-type]
            return Cursor(sort, tuple(map(_as_in_cursor, values)))
    return None


def _as_in_cursor(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    return int(value) if isinstance(value, DatetimeMS) else value


def _as_stored(kind: str, value: Any) -> Any:
    if kind == "id":
        return ObjectId(value)
    return DatetimeMS(value) if isinstance(value, int) else value


def _with_ids(cursor: Cursor) -> Cursor:
    """The cursor with its values as the store compares them. Cursors carry ids as text."""
    pairs = zip(cursor.sort.keys, cursor.values, strict=True)
    return Cursor(cursor.sort, tuple(_as_stored(key.kind, value) for key, value in pairs))
