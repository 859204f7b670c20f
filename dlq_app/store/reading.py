"""Read letters. The client limits the time of each query, this module its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from pymongo.collection import Collection

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.paging import MAX_COUNTED, PageRequest, Sort, Total
from dlq_app.domain.search_terms import words
from dlq_app.store import queries
from dlq_app.store.computed_sorts import computed_page, require_few
from dlq_app.store.counting import Counting
from dlq_app.store.documents import Unreadable, letter_from, letters_from
from dlq_app.store.mongo import Document, patiently, translated
from dlq_app.store.pages import FEW, LIGHT, NotComparable, Page, Way
from dlq_app.store.selecting import Branch

#: Maximum listed documents that are not letters.
MAX_NAMED = 20
#: Fields that distinguish a letter from other documents.
_IDENTIFYING = {"messageId": 1, "status": 1, "lastFailedAt": 1}
#: Seconds that a list waits for the number of letters, and the minimum number to find when it takes longer.
_COUNT_S = 1.0
_CERTAIN = 100


class Reading(Counting):
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
        if request.sort.is_computed:
            total = self._total(criteria, None)
            return self._computed(criteria, request, total)
        return self._shown(criteria, self._chosen(criteria, request.sort), request)

    def listed(self, criteria: LetterCriteria, request: PageRequest) -> tuple[Page, Total]:
        """``page`` and ``count`` in fewer queries. A number that is a minimum includes the letters up to this page."""
        if request.sort.is_computed:
            total = self._total(criteria, None)
            return self._computed(criteria, request, total), total
        branches = self._chosen(criteria, request.sort)
        # In this order: what was counted up to the limit of totals also tells whether there are few.
        total = self._total(criteria, branches)
        page = self._shown(criteria, branches, request)
        if total.is_capped and page.letters:
            before = 0 if request.cursor else (request.page - 1) * request.limit
            shown = before + len(page.letters) + (page.next_cursor is not None)
            total = Total(count=min(max(total.count, shown), MAX_COUNTED), is_capped=True)
        return page, total

    def count(self, criteria: LetterCriteria, *, within_s: float | None = None) -> Total:
        """Number of matching letters, exact up to 10 000.

        When that takes longer than ``within_s``: ``QueryTooSlow``. Without ``within_s`` the number is then a minimum,
        as a capped one: where letters must be read to count them, those found among the first 10 000 and in
        ``CHECK_S``, else what half a second more makes certain, at most 100.
        """
        if within_s is None:
            return self._total(criteria, None)
        with patiently(within_s):
            count = self._count(self._branches(criteria), MAX_COUNTED + 1)
        return Total(count=min(count, MAX_COUNTED), is_capped=count > MAX_COUNTED)

    def exact_count(self, criteria: LetterCriteria) -> int:
        """Exact number of matching letters, for previews of actions. Can raise ``QueryTooSlow``."""
        with translated():
            return self._count(self._branches(criteria))

    def each(self, criteria: LetterCriteria, sort: Sort, *, chunk: int = 100) -> Iterator[DeadLetter]:
        """All matching letters with all fields, in chunks: constant memory, no open cursor on the server."""
        request = PageRequest(sort=sort, limit=chunk)
        branches = self._chosen(criteria, sort)
        ids = self._ids_of_few(branches, sort)
        if ids is not None:
            yield from self._each_of(ids, queries.matching(criteria), chunk)
            return
        while True:
            page = self._shown(criteria, branches, request, {})
            yield from page.letters
            if page.next_cursor is None:
                return
            request = replace(request, cursor=page.next_cursor)
            if criteria.search:
                # Letters may have come to other groups.
                branches = self._chosen(criteria, sort)

    def _computed(self, criteria: LetterCriteria, request: PageRequest, total: Total) -> Page:
        """The page in an order that no index serves. Raises ``SortTooLarge``."""
        require_few(request.sort, total.count, is_capped=total.is_capped)
        with translated():
            where = self._condition(criteria)
        return computed_page(self._letters, where, request)

    def _chosen(self, criteria: LetterCriteria, sort: Sort) -> list[Branch]:
        try:
            with translated():
                return self._branches(criteria, sort)
        except QueryTooSlow as error:
            raise QueryTooSlow(_advice(criteria)) from error

    def _shown(
        self, criteria: LetterCriteria, branches: Sequence[Branch], request: PageRequest, fields: Document = LIGHT
    ) -> Page:
        if not branches:
            return Page([], None)
        try:
            with translated():
                ways = self._ways(branches, request.sort)
            return self._page(ways, request, fields)
        except NotComparable:
            # Documents that are not letters. The server can sort them.
            where = queries.in_order(queries.matching(criteria), request.sort)
            return self._page([Way(where=where)], request, fields)
        except QueryTooSlow as error:
            raise QueryTooSlow(_advice(criteria)) from error

    def _total(self, criteria: LetterCriteria, branches: Sequence[Branch] | None) -> Total:
        try:
            with patiently(_COUNT_S):
                if branches is None:
                    branches = self._branches(criteria)
                count, is_whole = self._count_some(branches, MAX_COUNTED + 1)
        except (QueryTooSlow, StoreUnavailable):
            count, is_whole = self._certain(criteria), False
        return Total(count=min(count, MAX_COUNTED), is_capped=count > MAX_COUNTED or not is_whole)

    def _certain(self, criteria: LetterCriteria) -> int:
        try:
            with patiently(_COUNT_S / 2):
                return len(list(self._letters.find(queries.matching(criteria), {"_id": 1}).limit(_CERTAIN)))
        except (QueryTooSlow, StoreUnavailable):
            return 0  # the page itself shows letters, or the error of the store

    def _ids_of_few(self, branches: Sequence[Branch], sort: Sort) -> list[Any] | None:
        """The letters in order, if index keys alone tell the order and there are few; else None."""
        with translated():
            ways = self._ways(branches, sort)
            if not all(way.by_keys for way in ways):
                return None
            try:
                # More can have arrived since they were counted.
                rows = self._merged(ways, PageRequest(sort=sort, limit=2 * FEW)) if ways else []
            except NotComparable:
                return None
            return [row["_id"] for row in rows]

    def _each_of(self, ids: Sequence[Any], where: Document, chunk: int) -> Iterator[DeadLetter]:
        """These letters, in this order. Some may have moved since: only letters that match are returned."""
        for begin in range(0, len(ids), chunk):
            part = ids[begin : begin + chunk]
            with translated():
                found = self._letters.find({"$and": [where, {"_id": {"$in": part}}]})
                documents = {row["_id"]: row for row in found}
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
