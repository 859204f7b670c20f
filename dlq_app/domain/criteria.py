"""Which letters to select: one frozen object for lists, counts, batches, commands and pages. Pure.

Outside values enter only through ``LetterCriteria.parse``. It checks each value against its field, so nothing that a
client sends can become an operator of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.filters import FACET, FILTERS, filter_named
from wire.fields import field_error, storable, summary, unknown_field
from wire.instants import iso

#: Different values of one field.
MAX_VALUES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterCriteria:
    """Selects letters that match every given filter; one of several values is enough. Without filters: all letters."""

    statuses: tuple[str, ...] = ()
    error_types: tuple[str, ...] = ()
    error_kinds: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    #: Code versions of the workers in which they failed.
    versions: tuple[str, ...] = ()
    priorities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    #: As letters store them: ``customerId=4711``.
    facets: tuple[str, ...] = ()
    #: Last failure at or after.
    failed_from: datetime | None = None
    #: Last failure before.
    failed_to: datetime | None = None
    #: Beginning of a message id, or words of the error text.
    search: str = ""

    @classmethod
    def parse(cls, params: Mapping[str, object]) -> LetterCriteria:
        """Read criteria from a mapping of wire names to a text or a list of texts.

        Raises ``CriteriaInvalid`` with one entry for each problem: an unknown name, a wrong type, a value not allowed.
        """
        found: dict[str, Any] = {}
        errors: list[dict[str, str]] = []
        for name, raw in params.items():
            field = filter_named(name)
            if field is None:
                errors.append(unknown_field(name, FILTERS))
                continue
            try:
                values = _texts(raw, verbatim=field.verbatim)
                if name.startswith(f"{FACET}."):
                    values = [f"{name.removeprefix(f'{FACET}.')}={value}" for value in values]
                if values:
                    value = field.read(values)
                    # Facets can come under several names.
                    found[field.attribute] = (
                        found.get(field.attribute, ()) + value if isinstance(value, tuple) else value
                    )
            except ValueError as error:
                errors.append(field_error(name, str(error)))
        begin, end = found.get("failed_from"), found.get("failed_to")
        if begin and end and begin >= end:
            errors.append(field_error("to", "must be later than from"))
        if errors:
            raise CriteriaInvalid(summary(errors), errors=errors)
        return cls(**found)

    def as_params(self) -> list[tuple[str, str]]:
        """Pairs of name and value; ``parse`` reads them back into an equal object."""
        pairs: list[tuple[str, str]] = []
        for name, field in FILTERS.items():
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
        """The same for a log: not encoded, so that masking finds secrets in it; ``all`` without criteria."""
        return "&".join(f"{name}={value}" for name, value in self.as_params()) or "all"

    @property
    def is_empty(self) -> bool:
        """Whether these criteria select every letter."""
        return all(not getattr(self, field.name) for field in fields(self))


def is_blank(name: str, value: str) -> bool:
    """Whether ``parse`` ignores this value of a filter."""
    field = filter_named(name)
    return not (value if field and field.verbatim else value.strip())


def _texts(raw: object, *, verbatim: bool) -> list[str]:
    values: list[str] = []
    for value in raw if isinstance(raw, list | tuple) else [raw]:
        if not isinstance(value, str):
            raise ValueError("must be a text or a list of texts")
        values.append(storable(value))
    unique = list(dict.fromkeys(value if verbatim else value.strip() for value in values))
    if len(unique) > MAX_VALUES:
        raise ValueError(f"at most {MAX_VALUES} values")
    return [value for value in unique if value]


#: Wire names that ``parse`` knows.
FIELD_NAMES: tuple[str, ...] = tuple(FILTERS)
