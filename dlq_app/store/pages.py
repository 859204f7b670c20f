"""Read pages of letters: in the order of an index, by sorting keys, or merged from several streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection
from pymongo.cursor import Cursor as PyMongoCursor

from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.paging import Cursor, Key, PageRequest, Sort
from dlq_app.store import queries
from dlq_app.store.documents import HEAVY, letters_from
from dlq_app.store.hinted import hinted
from dlq_app.store.mongo import Document, patiently, translated

#: All fields of a letter that lists need.
LIGHT = dict.fromkeys(HEAVY, 0)
#: Sorting up to this number of keys is faster than searching a page among letters that do not match.
FEW = 5000
#: Seconds of searching matching letters one by one, before all matching keys are sorted instead.
PATIENCE_S = 0.25
#: Keys whose letters are checked at once: at first this number more than a page has letters, and the maximum.
_SPARE = 10
_CHECKED = 200
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class NotComparable(Exception):
    """A sort key of another kind than its order: the document is not a letter."""


@dataclass(frozen=True, slots=True)
class Page:
    """Letters of one page, without heavy fields, and the cursor of the next page (None on the last)."""

    letters: list[DeadLetter]
    next_cursor: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to read letters in order."""

    where: Document
    #: Read with this index; None: the server chooses.
    index: str | None = None
    #: ``where`` selects index keys; a letter must also match this. None: every letter with such a key matches.
    check: Document | None = None
    #: ``index`` has all keys of ``where`` and of the order, so no letter is read to sort.
    by_keys: bool = False
    #: When this way finds too few letters in a quarter of a second.
    otherwise: Way | None = None


class Pages:
    """Reads pages of one collection; changes nothing."""

    _letters: Collection[Document]

    def _page(self, ways: Sequence[Way], request: PageRequest, fields: Document = LIGHT) -> Page:
        """The page of the letters that any of the ways finds."""
        (way, *more) = ways
        if more:
            return self._page_merged(ways, request, fields)
        if way.by_keys:
            return self._page_by_keys(way, request, fields)
        try:
            with patiently(PATIENCE_S) if way.otherwise else translated():
                return self._page_in_order(way, request, fields)
        except (QueryTooSlow, StoreUnavailable):
            if way.otherwise is None:
                raise
            # Many match, but all of them far from here. A store that is really away fails again.
            return self._page_by_keys(way.otherwise, request, fields)

    def _page_in_order(self, way: Way, request: PageRequest, fields: Document) -> Page:
        """The page from an index with its order, skipping letters that do not match."""
        found = self._read(way, request, fields)
        shown, cursor = found[: request.limit], _cursor_after(found[: request.limit], request.sort)
        if len(found) > request.limit and cursor is None:
            # None of them has keys to continue from: on to the first that has, so that what comes after is reached.
            found = self._read(way, request, fields, limit=FEW)
            good = (n for n in range(len(shown), len(found)) if _cursor_after(found[n : n + 1], request.sort))
            shown = found[: next(good, len(found)) + 1]
            cursor = _cursor_after(shown, request.sort)
        return Page(letters_from(shown), cursor if len(found) > len(shown) else None)

    def _page_by_keys(self, way: Way, request: PageRequest, fields: Document) -> Page:
        """The page by sorting the keys of all matches and reading only the letters of the page."""
        with translated():
            return self._page_of(self._keys(way, request), request, fields)

    def _page_merged(self, ways: Sequence[Way], request: PageRequest, fields: Document) -> Page:
        """The page from several streams in the same order; a letter of two of them comes once."""
        with translated():
            return self._page_of(self._merged(ways, request), request, fields)

    def _merged(self, ways: Sequence[Way], request: PageRequest) -> list[Document]:
        """``_id`` and sort keys of the letters of the page and of one more."""
        if len(ways) == 1:
            return self._keys(ways[0], request)
        skipped = (request.page - 1) * request.limit
        each = replace(request, page=1, limit=skipped + request.limit)
        found = {row["_id"]: row for way in ways for row in self._keys(way, each)}
        return in_sort_order(found.values(), request.sort)[skipped : skipped + request.limit + 1]

    def _page_of(self, rows: Sequence[Document], request: PageRequest, fields: Document) -> Page:
        """The letters of these keys; one key more than the page has means that there is a next page."""
        ids = [row["_id"] for row in rows[: request.limit]]
        documents = {row["_id"]: row for row in self._letters.find({"_id": {"$in": ids}}, fields)} if ids else {}
        shown = [documents[letter_id] for letter_id in ids if letter_id in documents]
        more = len(rows) > request.limit
        return Page(letters_from(shown), _cursor_after(rows[: request.limit], request.sort) if more else None)

    def _keys(self, way: Way, request: PageRequest) -> list[Document]:
        """``_id`` and sort keys of the letters of the page and of one more."""
        fields = {key.field: 1 for key in request.sort.keys} | {"_id": 1}
        if way.check is None:
            return self._read(way, request, fields)
        check = way.check

        def checked(index: str | None) -> list[Document]:
            skipped = (request.page - 1) * request.limit
            kept: list[Document] = []
            # Most of them match, because their groups do. When they do not, more at once.
            size = request.limit + _SPARE
            with self._ordered(way.where, request, fields, index, skip=0, limit=0) as rows:
                while len(kept) <= skipped + request.limit:
                    some = list(islice(rows, size))
                    matching = self._matching([row["_id"] for row in some], check)
                    kept += [row for row in some if row["_id"] in matching]
                    if len(some) < size:
                        break
                    size = min(2 * size, _CHECKED)
            return kept[skipped : skipped + request.limit + 1]

        return hinted(checked, way.index) if way.index else checked(None)

    def _matching(self, ids: Sequence[Any], where: Document) -> set[Any]:
        """Those of these letters that match."""
        if not ids:
            return set()
        return {row["_id"] for row in self._letters.find({"$and": [{"_id": {"$in": list(ids)}}, where]}, {"_id": 1})}

    def _read(self, way: Way, request: PageRequest, fields: Document, *, limit: int | None = None) -> list[Document]:
        def ask(index: str | None) -> list[Document]:
            return list(self._ordered(way.where, request, fields, index, limit=limit))

        return hinted(ask, way.index) if way.index else ask(None)

    def _ordered(
        self,
        where: Document,
        request: PageRequest,
        fields: Document,
        index: str | None = None,
        *,
        skip: int | None = None,
        limit: int | None = None,
    ) -> PyMongoCursor[Document]:
        if request.cursor:
            where = {"$and": [where, queries.after(with_ids(request.cursor))]}
        order = [(key.field, key.direction) for key in request.sort.keys]
        skip = (request.page - 1) * request.limit if skip is None else skip
        found = self._letters.find(where, fields).sort(order).skip(skip)
        found = found.limit(request.limit + 1 if limit is None else limit)
        return found.hint(index) if index else found


def value_at(document: Any, path: str) -> Any:
    """The value at a path of names; None if it is missing."""
    for name in path.split("."):
        document = document.get(name) if isinstance(document, dict) else None
    return document


def in_sort_order(rows: Any, sort: Sort) -> list[Document]:
    """The rows sorted as the store does. Raises ``NotComparable``."""
    found: list[Document] = list(rows)
    for key in reversed(sort.keys):
        found.sort(key=lambda row, key=key: _comparable(key, value_at(row, key.field)), reverse=key.direction < 0)  # type: ignore[misc]
    return found


def _comparable(key: Key, value: Any) -> Any:
    if key.kind == "instant":
        if isinstance(value, DatetimeMS):
            return int(value)
        if isinstance(value, datetime):
            return (value - _EPOCH) // timedelta(milliseconds=1)
    elif isinstance(value, str if key.kind == "text" else ObjectId):
        return value
    raise NotComparable(key.field)


def _cursor_after(documents: Sequence[Document], sort: Sort) -> Cursor | None:
    """The cursor after the last document whose sort keys are of the right kind: no other can be continued from."""
    kinds = {"instant": (datetime, DatetimeMS), "text": str, "id": ObjectId}
    for document in reversed(documents):
        values = [value_at(document, key.field) for key in sort.keys]
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
    return DatetimeMS(value) if kind == "instant" and isinstance(value, int) else value


def with_ids(cursor: Cursor) -> Cursor:
    """The cursor with its values as the store compares them. Cursors carry ids as text."""
    pairs = zip(cursor.sort.keys, cursor.values, strict=True)
    return Cursor(cursor.sort, tuple(_as_stored(key.kind, value) for key, value in pairs))
