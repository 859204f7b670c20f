"""Find lines of the audit log: filters, pages by cursor, and all matching lines in order, newest first.

The order is that of their keys: lines are only added. SQLite stores times as texts of different lengths, so a page
could not continue after a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from audit_app.models import AuditLine
from wire import cursor
from wire.fields import FieldError, digits, field_error, instant, one_of, single, storable, unknown_field

#: First part of ``who``: a user, an API key, a command, an automatic action, an unknown client.
ACTORS = ("user", "key", "cli", "system", "address")
MAX_LIMIT = 1000
_DEFAULT_LIMIT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which lines, and how many of them. ``after``: key of the last line of the previous page."""

    where: Mapping[str, Any] = field(default_factory=dict)
    limit: int = _DEFAULT_LIMIT
    after: int | None = None

    @classmethod
    def parse(cls, params: Mapping[str, Sequence[str]], *, known: Sequence[str]) -> tuple[Search, list[FieldError]]:
        """Read the named parameters; returns every problem. Parameters beside ``known`` are problems."""
        where: dict[str, Any] = {}
        found: dict[str, Any] = {}
        errors: list[FieldError] = []
        for name, values in params.items():
            try:
                if name not in known:
                    errors.append(unknown_field(name, known, "parameter"))
                elif name == "limit":
                    found["limit"] = digits(1, MAX_LIMIT)(single(values))
                elif name == "cursor":
                    found["after"] = _position(single(values))
                else:
                    lookup, read = _LOOKUPS[name]
                    where[lookup] = read(single(values))
            except ValueError as error:
                errors.append(field_error(name, str(error)))
        if "at__gte" in where and "at__lt" in where and where["at__gte"] >= where["at__lt"]:
            errors.append(field_error("to", "must be later than from"))
        return cls(where=where, **found), errors

    def page(self) -> tuple[list[AuditLine], str | None]:
        """The lines of one page, and the cursor of the next (None on the last). Raises Django's database errors."""
        lines = list(self._lines(self.after)[: self.limit + 1])
        shown = lines[: self.limit]
        return shown, cursor.encode([shown[-1].pk]) if len(lines) > self.limit else None

    def each(self) -> Iterator[AuditLine]:
        """All matching lines, read in steps: lines that are added meanwhile are left out."""
        after = self.after
        while True:
            lines = list(self._lines(after)[:MAX_LIMIT])
            yield from lines
            if len(lines) < MAX_LIMIT:
                return
            after = lines[-1].pk

    def _lines(self, after: int | None) -> QuerySet[AuditLine]:
        lines = AuditLine.objects.filter(**self.where).order_by("-pk")
        return lines if after is None else lines.filter(pk__lt=after)


def _starts(value: object) -> str:
    return one_of(ACTORS)(value)


def _short(value: object) -> str:
    text = storable(str(value))
    if not text or len(text) > 200:
        raise ValueError("must be a text of 1 to 200 characters")
    return text.replace("\0", "\\0")


#: Parameter → lookup, and the reader of its value.
_LOOKUPS: Mapping[str, tuple[str, Any]] = {
    "who": ("who", _short),
    "actor": ("who__startswith", _starts),
    "kind": ("kind", _short),
    "object": ("object_id", _short),
    "from": ("at__gte", instant),
    "to": ("at__lt", instant),
}
FILTERS = tuple(_LOOKUPS)


def _position(text: str) -> int:
    values = cursor.decode(text)
    if len(values) != 1:
        raise cursor.NotACursor
    return cursor.integer(values[0])
