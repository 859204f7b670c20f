"""Convert criteria and pages to MongoDB filters. All operators come from the code; values from outside stay values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.facets import by_name
from dlq_app.domain.filters import FACET, FILTERS, ID_PREFIX, Filter
from dlq_app.domain.paging import Cursor, Sort
from dlq_app.domain.search_terms import whole_words, words
from dlq_app.domain.states import Status
from dlq_app.store.indexes import FIGURES, INDEXES, NEWEST

#: Sorts after every character of a message id.
_AFTER = "\uffff"
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)

#: Each has an index of its own, in which letters come by their last failure.
_INDEXED = {index.keys[0][0]: index.name for index in INDEXES if index.keys[1:] == (("lastFailedAt", -1), ("_id", -1))}
_IN_KEYS = {path for index in INDEXES if index.name == FIGURES for path, _ in index.keys}

#: BSON types other than strings, dates and ids. Without lists, which an index does not distinguish from their elements,
#: and symbols, which it sorts among the strings.
_OTHER_KINDS = (
    "double", "object", "binData", "undefined", "bool", "null", "regex", "dbPointer", "javascript",
    "javascriptWithScope", "int", "timestamp", "long", "decimal", "minKey", "maxKey",
)  # fmt: skip
#: Conditions of documents that are not letters. An index that begins with its field serves each.
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
    """The filter for letters that match ``criteria``."""
    found: dict[str, Any] = {}
    for one in _asked(criteria):
        value = getattr(criteria, one.attribute)
        if one.name == FACET:
            found |= _facets(value)
        elif one.is_repeated:
            found[one.path] = {"$eq": value[0]} if len(value) == 1 else {"$in": list(value)}
        elif one.path:
            found.setdefault(one.path, {})[one.operator] = value
        else:
            found.update(_search(value))
    return found


def _facets(wanted: Sequence[str]) -> dict[str, Any]:
    """Letters with any of the values of each facet."""
    each = [{"facets": {"$in": values}} for values in of_each_facet(wanted)]
    return each[0] if len(each) == 1 else {"$and": each}


def of_each_facet(wanted: Sequence[str]) -> list[list[str]]:
    """The wanted values by facet."""
    return [[f"{name}={value}" for value in values] for name, values in by_name(wanted).items()]


def _asked(criteria: LetterCriteria) -> list[Filter]:
    return [one for one in FILTERS.values() if getattr(criteria, one.attribute)]


def of_keys(criteria: LetterCriteria) -> dict[str, Any] | None:
    """The same filter for the keys of the index of figures; None if the index lacks one of the fields.

    The index begins with the status, so it needs a condition on it: here any text.
    """
    if any(one.path not in _IN_KEYS for one in _asked(criteria)):
        return None
    return {"status": {"$gte": ""}, **matching(criteria)}


def is_keyed(criteria: LetterCriteria) -> bool:
    """Whether a filter gives values of a field of the index of figures."""
    return any(one.is_repeated and one.path in _IN_KEYS for one in _asked(criteria))


def is_combined(criteria: LetterCriteria, sort: Sort | None = None) -> bool:
    """Whether no index of one filter alone finds the matching letters, in the order of ``sort`` if given.

    With such an index the server would read every letter of one filter to check the other.
    """
    asked = [one.path for one in _asked(criteria) if one.is_repeated]
    if not asked:
        return False
    if len(asked) > 1 or len(of_each_facet(criteria.facets)) > 1 or asked[0] not in _INDEXED:
        return True
    return sort is not None and sort.keys[0].field not in ("lastFailedAt", asked[0])


def index_of(criteria: LetterCriteria) -> str | None:
    """The index of the only filter, or of all letters, by their last failure; None if there is none."""
    asked = [one.path for one in _asked(criteria) if one.is_repeated]
    return _INDEXED.get(asked[0]) if asked else NEWEST


def in_order(where: dict[str, Any], sort: Sort) -> dict[str, Any]:
    """The same filter in a form that lets the planner read in the order of ``sort`` and skip other letters.

    A bare ``$or`` is planned branch by branch, with a sort in memory of all matches: slow for a common word. With
    another condition beside it the planner compares more plans and takes the fastest.
    """
    if set(where) != {"$or"}:
        return where
    first = sort.keys[0]
    return {**where, first.field: {"$gte": _BEGINNING if first.kind == "instant" else ""}}


def after(cursor: Cursor) -> dict[str, Any]:
    """The filter for letters after ``cursor`` in its order.

    A range on the first key, where the index can begin, minus the few letters with the same value that come before. It
    excludes these instead of including the others, because for an ``$or`` the planner would sort in memory.
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


def id_range(text: str) -> dict[str, Any] | None:
    """The filter for message ids that begin with the search ``text``; None if no id can."""
    return {"messageId": {"$gte": text, "$lt": text + _AFTER}} if ID_PREFIX.match(text) else None


def word_lists(text: str) -> list[list[str]]:
    """Lists of words; a letter with all words of any of them matches the search ``text``."""
    # Letters of earlier versions hold other words until `refresh_search` has run.
    return [list(wanted) for wanted in {tuple(words(text)): None, tuple(whole_words(text)): None} if wanted]


def _search(text: str) -> dict[str, Any]:
    ids = id_range(text)
    either = ([ids] if ids else []) + [{"searchWords": {"$all": wanted}} for wanted in word_lists(text)]
    return either[0] if len(either) == 1 else {"$or": either}
