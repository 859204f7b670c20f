"""Pages in orders that no index serves, for a limited number of letters: the server computes and sorts their keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bson import Int64
from pymongo.collection import Collection

from dlq_app.domain.errors import SortTooLarge
from dlq_app.domain.paging import MAX_SORTED, SORTS, Cursor, Key, PageRequest, Sort
from dlq_app.store.documents import letters_from
from dlq_app.store.mongo import Document, translated
from dlq_app.store.pages import LIGHT, Page, with_ids
from wire.fields import field_error

#: Ranks of priorities; a letter with another value has none.
_PRIORITIES = ("high", "normal", "low")
#: Values of letters without one, which come last: first in the descending order, last in the ascending one.
_LAST: dict[str, tuple[Any, Any]] = {
    "instant": (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)),
    "text": ("", "\uffff"),
    "number": (Int64(-(2**62)), Int64(2**62)),
}


def require_few(sort: Sort, count: int, *, is_capped: bool) -> None:
    """Raise ``SortTooLarge`` if more letters match than a computed order can have."""
    if not sort.is_computed or (count <= MAX_SORTED and not is_capped):
        return
    name = sort.name.removeprefix("-")
    at_any_size = ", ".join(dict.fromkeys(one.name.removeprefix("-") for one in SORTS.values() if not one.is_computed))
    why = "counting the matches takes too long" if is_capped and count < MAX_SORTED else "more match"
    message = (
        f"by {name} is possible for {MAX_SORTED:,} letters, and {why}: narrow the filter, or sort by {at_any_size}"
    )
    raise SortTooLarge(f"sort {message}.", errors=[field_error("sort", message)])


def computed_page(letters: Collection[Document], where: Document, request: PageRequest) -> Page:
    """The page of the matching letters in a computed order. The caller has checked their number."""
    key, unique = request.sort.keys
    pipeline: list[Document] = [
        {"$match": {"$and": [where, {"_id": {"$type": "objectId"}}]}},
        {"$project": {"k": _value(key)}},
    ]
    if request.cursor:
        value, last_id = with_ids(request.cursor).values
        beyond = "$gt" if key.direction > 0 else "$lt"
        pipeline.append({"$match": {"$or": [{"k": {beyond: value}}, {"k": value, "_id": {beyond: last_id}}]}})
    pipeline += [
        {"$sort": {"k": key.direction, "_id": unique.direction}},
        {"$skip": (request.page - 1) * request.limit},
        {"$limit": request.limit + 1},
    ]
    with translated():
        rows = list(letters.aggregate(pipeline))
        ids = [row["_id"] for row in rows[: request.limit]]
        documents = {row["_id"]: row for row in letters.find({"_id": {"$in": ids}}, LIGHT)} if ids else {}
    shown = letters_from([documents[one] for one in ids if one in documents])
    if len(rows) <= request.limit:
        return Page(shown, None)
    last = rows[request.limit - 1]
    return Page(shown, Cursor(request.sort, (last["k"], str(last["_id"]))))


def _value(key: Key) -> Any:
    """An expression: the value to sort by, of the right kind in every document."""
    path, missing = f"${key.field}", _LAST[key.kind][key.direction > 0]
    if key.field == "tries":
        # As ``DeadLetter.tries``.
        return {"$max": [_whole("$priorRuns", 0), {"$add": [_whole("$retryCount", 0), 1]}]}
    if key.field == "metadata.priority":
        ranks = [{"case": {"$eq": [path, name]}, "then": Int64(rank)} for rank, name in enumerate(_PRIORITIES)]
        return {"$switch": {"branches": ranks, "default": missing}}
    if key.kind == "number":
        return _whole(path, missing)
    kind = {"instant": "date", "text": "string"}[key.kind]
    return {"$cond": [{"$eq": [{"$type": path}, kind]}, path, missing]}


def _whole(path: str, missing: Any) -> Document:
    number = {"$convert": {"input": path, "to": "long", "onError": missing, "onNull": missing}}
    return {"$cond": [{"$isNumber": path}, number, missing]}
