"""One update that changes many letters, each with its own values.

A bulk of updates is parsed, planned and locked for each of them; one update with a pipeline only once. Each letter is
still changed by itself, as a whole or not at all, and only if the filter fits it at that instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlq_app.store.mongo import Document


def of_this_letter(ids: Sequence[Any], given: Sequence[Mapping[str, Any]], *, by: str = "$_id") -> Document:
    """An expression: the values given for the current letter. The filter must match no letter but ``ids``.

    ``by``: the field that holds the id.
    """
    if len(ids) == 1:
        return {"$literal": dict(given[0])}
    place = {"$indexOfArray": [{"$literal": list(ids)}, by]}
    return {"$arrayElemAt": [{"$literal": list(given)}, place]}


def changed_by(given: Document, fields: Mapping[str, Any], *more: str) -> Document:
    """A stage that replaces these fields; in their values ``$$given`` are the values given for the letter.

    ``more``: documents of other fields.
    """
    merged = {"$mergeObjects": ["$$ROOT", *more, dict(fields)]}
    return {"$replaceWith": {"$let": {"vars": {"given": given}, "in": merged}}}


def longer(name: str, entries: Any, kept: int) -> Document:
    """An expression: the list ``name`` with these entries appended, cut to the last ``kept``."""
    return {"$slice": [{"$concatArrays": [{"$ifNull": ["$" + name, []]}, entries]}, -kept]}
