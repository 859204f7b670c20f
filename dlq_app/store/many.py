"""One update that does to each of many letters what it is told for that one.

A bulk of updates is parsed, planned and locked for each of them; one update with a pipeline only once. Each letter is
still changed by itself, as a whole or not at all, and only if the filter fits it at that instant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId

from dlq_app.store.mongo import Document


def of_this_letter(ids: Sequence[ObjectId], told: Sequence[Mapping[str, Any]]) -> Document:
    """An expression: what is told for the letter at hand. The filter beside it may let no letter but ``ids``."""
    place = {"$indexOfArray": [{"$literal": list(ids)}, "$_id"]}
    return {"$arrayElemAt": [{"$literal": list(told)}, place]}


def changed_by(told: Document, fields: Mapping[str, Any]) -> Document:
    """A stage that gives these fields new values, whole; in them ``$$told`` is what is told for the letter."""
    merged = {"$mergeObjects": ["$$ROOT", dict(fields)]}
    return {"$replaceWith": {"$let": {"vars": {"told": told}, "in": merged}}}


def longer(name: str, entries: Any, kept: int) -> Document:
    """An expression: the list ``name`` with these entries behind it, and of all that the last ``kept``."""
    return {"$slice": [{"$concatArrays": [{"$ifNull": ["$" + name, []]}, entries]}, -kept]}
