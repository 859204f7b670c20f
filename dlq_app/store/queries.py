"""Convert criteria and pages to MongoDB filters. All operators come from the code; values from outside stay values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.filters import FILTERS, ID_PREFIX, Filter
from dlq_app.domain.paging import Cursor, Sort
from dlq_app.domain.search_terms import whole_words, words
from dlq_app.domain.states import Status
from dlq_app.store.indexes import FIGURES, INDEXES

#: Sorts after every character a message id may hold.
_AFTER = "\uffff"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)

#: Each has an index of its own, in which letters come by their last failure.
_INDEXED = {index.keys[0][0] for index in INDEXES if index.keys[1:] == (("lastFailedAt", -1), ("_id", -1))}
#: An index of a list's elements does not count: whether it answers alone depends on the elements.
_INDEXED -= {"metadata.tags", "searchWords"}
_IN_KEYS = {path for index in INDEXES if index.name == FIGURES for path, _ in index.keys}

#: Kinds of values of BSON but texts, dates and ids. Not lists, which no index tells from what they hold, nor symbols,
#: which stand among the texts.
_OTHER_KINDS = (
    "double", "object", "binData", "undefined", "bool", "null", "regex", "dbPointer", "javascript",
    "javascriptWithScope", "int", "timestamp", "long", "decimal", "minKey", "maxKey",
)  # fmt: skip
#: Any of these makes a document no letter. Each has an index that begins with its field, and asks for no other keys.
WITHOUT_ID: list[dict[str, Any]] = [
    {"messageId": None},
    {"messageId": {"$type": [*_OTHER_KINDS, "date", "objectId"]}},
]
UNREADABLE: list[dict[str, Any]] = [
    *WITHOUT_ID,
    {"lastFailedAt": None},
    {"lastFailedAt": {"$type": [*_OTHER_KINDS, "string", "objectId"]}},
    {"lastFailedAt": {"$lt": _BEGINNING}},
    {"lastFailedAt": {"$gt": _END}},
    {"status": {"$nin": [status.value for status in Status]}},
    {"_id": {"$type": [*_OTHER_KINDS, "string", "date"]}},
]


def matching(criteria: LetterCriteria) -> dict[str, Any]:
    """The filter for letters that fit ``criteria``."""
    found: dict[str, Any] = {}
    for one in _asked(criteria):
        value = getattr(criteria, one.attribute)
        if one.is_repeated:
            found[one.path] = {"$eq": value[0]} if len(value) == 1 else {"$in": list(value)}
        elif one.path:
            found.setdefault(one.path, {})[one.operator] = value
        else:
            found.update(_search(value))
    return found


def _asked(criteria: LetterCriteria) -> list[Filter]:
    return [one for one in FILTERS.values() if getattr(criteria, one.attribute)]


def of_keys(criteria: LetterCriteria) -> dict[str, Any] | None:
    """The filter for letters that fit, as a question to the keys of the index of all figures; None if that lacks one.

    The index begins with the status, and is used only when that is asked for: any text will do.
    """
    if any(one.path not in _IN_KEYS for one in _asked(criteria)):
        return None
    return {"status": {"$gte": ""}, **matching(criteria)}


def is_combined(criteria: LetterCriteria, sort: Sort | None = None) -> bool:
    """Whether no other index answers alone: which letters fit, and in this order if one is given.

    Otherwise the server reads letter after letter of one filter to find out that it does not fit the other.
    """
    asked = [one.path for one in _asked(criteria) if one.is_repeated]
    if not asked:
        return False
    if len(asked) > 1 or asked[0] not in _INDEXED:
        return True
    return sort is not None and sort.keys[0].field not in ("lastFailedAt", asked[0])


def in_order(where: dict[str, Any], sort: Sort) -> dict[str, Any]:
    """The same filter, said so that the planner may read in the order of ``sort`` and leave out what does not fit.

    A bare ``$or`` is planned branch by branch, which ends in a sort in memory of all that fits: slow for a common word.
    Beside another condition it is one plan among others, and the quickest is taken.
    """
    if set(where) != {"$or"}:
        return where
    first = sort.keys[0]
    return {**where, first.field: {"$gte": _BEGINNING if first.kind == "instant" else ""}}


def after(cursor: Cursor) -> dict[str, Any]:
    """The filter for letters that come after ``cursor`` in its order.

    A range on the first key, which the index on that order can begin at, less the few letters that share its value and
    come no later. Said by what to leave out: an ``$or`` of what to keep tempts the planner into a sort in memory.
    """
    first, value = cursor.sort.keys[0], cursor.values[0]
    if len(cursor.sort.keys) == 1:
        return {first.field: {"$gt" if first.direction == 1 else "$lt": value}}
    earlier: list[dict[str, Any]] = []
    equal: dict[str, Any] = {first.field: {"$eq": value}}
    for key, value_here in list(zip(cursor.sort.keys, cursor.values, strict=True))[1:]:
        before = "$lt" if key.direction == 1 else "$gt"
        is_last = key is cursor.sort.keys[-1]
        earlier.append({**equal, key.field: {f"{before}e" if is_last else before: value_here}})
        equal[key.field] = {"$eq": value_here}
    return {first.field: {"$gte" if first.direction == 1 else "$lte": value}, "$nor": earlier}


def _search(text: str) -> dict[str, Any]:
    either: list[dict[str, Any]] = []
    if ID_PREFIX.match(text):
        either.append({"messageId": {"$gte": text, "$lt": text + _AFTER}})
    # Letters of earlier versions hold other words until `refresh_search` has run.
    for wanted in {tuple(words(text)): None, tuple(whole_words(text)): None}:
        if wanted:
            either.append({"searchWords": {"$all": list(wanted)}})
    return either[0] if len(either) == 1 else {"$or": either}
