"""Which letters: one frozen object that lists, counts, batches, commands and pages all take. Pure.

``LetterCriteria.parse`` is the only way in from outside. Every value is typed and checked against what its field
allows, so nothing that a client sends can become an operator of the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.labels import MAX_FILTER
from dlq_app.domain.search_terms import words
from dlq_app.domain.states import Status
from wire.fields import Reader, field_error, instant, matching, one_of, single, storable, summary, text, unknown_field
from wire.instants import iso

#: Different values of one field.
MAX_VALUES = 50
MAX_SEARCH = 100
KINDS = ("transient", "permanent", "unknown")
PRIORITIES = ("high", "normal", "low")

_TYPE = re.compile(r"[a-z][a-z0-9_.-]{0,63}\Z")
_FINGERPRINT = re.compile(r"[0-9a-f]{16}\Z")
#: What a message id may consist of: such a search also means "ids that begin so".
ID_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterCriteria:
    """Letters that fit every given field; several values of one field mean any of them. Without fields: all."""

    statuses: tuple[str, ...] = ()
    error_types: tuple[str, ...] = ()
    error_kinds: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    #: Last failure at or after.
    failed_from: datetime | None = None
    #: Last failure before.
    failed_to: datetime | None = None
    #: Beginning of a message id, or words of the error text.
    search: str = ""

    @classmethod
    def parse(cls, params: Mapping[str, object]) -> LetterCriteria:
        """Criteria from wire names with their text or list of texts (a query string's lists, a JSON filter).

        Raises ``CriteriaInvalid`` with one entry for every problem: unknown names, wrong types, values not allowed.
        """
        found: dict[str, Any] = {}
        errors: list[dict[str, str]] = []
        for name, raw in params.items():
            field = _FIELDS.get(name)
            if field is None:
                errors.append(unknown_field(name, _FIELDS))
                continue
            try:
                values = _texts(raw, as_it_is=field.as_it_is)
                if values:
                    found[field.attribute] = field.read(values)
            except ValueError as error:
                errors.append(field_error(name, str(error)))
        begin, end = found.get("failed_from"), found.get("failed_to")
        if begin and end and begin >= end:
            errors.append(field_error("to", "must be later than from"))
        if errors:
            raise CriteriaInvalid(summary(errors), errors=errors)
        return cls(**found)

    def as_params(self) -> list[tuple[str, str]]:
        """Name and value pairs that ``parse`` reads back into an equal object."""
        pairs: list[tuple[str, str]] = []
        for name, field in _FIELDS.items():
            value = getattr(self, field.attribute)
            if isinstance(value, datetime):
                pairs.append((name, iso(value)))
            elif isinstance(value, str):
                pairs += [(name, value)] if value else []
            elif value:
                pairs += [(name, one) for one in value]
        return pairs

    def as_filter(self) -> dict[str, list[str]]:
        """The same as a JSON object, for storing and for a batch's ``filter``."""
        found: dict[str, list[str]] = {}
        for name, value in self.as_params():
            found.setdefault(name, []).append(value)
        return found

    def as_query(self) -> str:
        """The same as a query string, without ``?``."""
        return urlencode(self.as_params())

    def as_text(self) -> str:
        """The same to be read in a log: not encoded, so that masking finds secrets in it; ``all`` without criteria."""
        return "&".join(f"{name}={value}" for name, value in self.as_params()) or "all"

    @property
    def is_empty(self) -> bool:
        """Whether these criteria mean every letter there is."""
        return all(not getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, slots=True)
class _Field:
    attribute: str
    read: Callable[[Sequence[str]], object]
    #: Spaces at the ends are part of the value.
    as_it_is: bool = False


def is_blank(name: str, value: str) -> bool:
    """Whether this value of a field is left out, and so means any."""
    return not (value if name in _FIELDS and _FIELDS[name].as_it_is else value.strip())


def _texts(raw: object, *, as_it_is: bool) -> list[str]:
    values: list[str] = []
    for value in raw if isinstance(raw, list | tuple) else [raw]:
        if not isinstance(value, str):
            raise ValueError("must be a text or a list of texts")
        values.append(storable(value))
    unique = list(dict.fromkeys(value if as_it_is else value.strip() for value in values))
    if len(unique) > MAX_VALUES:
        raise ValueError(f"at most {MAX_VALUES} values")
    return [value for value in unique if value]


def _each(read: Reader[str]) -> Callable[[Sequence[str]], tuple[str, ...]]:
    return lambda values: tuple(map(read, values))


def _instant(values: Sequence[str]) -> datetime:
    return instant(single(values))


def _search(values: Sequence[str]) -> str:
    search = text(MAX_SEARCH)(single(values))
    if not words(search) and not ID_PREFIX.match(search):
        raise ValueError("must contain a word or the beginning of a message id")
    return search


_free = _each(text(MAX_FILTER))


_FIELDS: dict[str, _Field] = {
    "status": _Field("statuses", _each(one_of([status.value for status in Status]))),
    "errorType": _Field("error_types", _free, as_it_is=True),
    "errorKind": _Field("error_kinds", _each(one_of(KINDS))),
    "type": _Field("types", _each(matching(_TYPE, "a message type, such as order.created"))),
    "source": _Field("sources", _free, as_it_is=True),
    "priority": _Field("priorities", _each(one_of(PRIORITIES))),
    "tag": _Field("tags", _free, as_it_is=True),
    "fingerprint": _Field("fingerprints", _each(matching(_FINGERPRINT, "16 hexadecimal digits"))),
    "from": _Field("failed_from", _instant),
    "to": _Field("failed_to", _instant),
    "search": _Field("search", _search),
}
#: Wire names that ``parse`` knows.
FIELD_NAMES: tuple[str, ...] = tuple(_FIELDS)
