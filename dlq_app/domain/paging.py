"""Pages of letters: sort orders, page numbers, and cursors that neither skip nor repeat a letter. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from dlq_app.domain.errors import CriteriaInvalid
from wire import cursor
from wire.fields import FieldError, digits, field_error, one_of, single, summary

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
#: Exact up to here; beyond it a count says "at least", and pages are walked by cursor.
MAX_COUNTED = 10_000

#: Maximum matching letters for a sort that no index serves: the server reads and sorts all of them.
MAX_SORTED = 10_000

Kind = Literal["instant", "text", "number", "id"]
_OBJECT_ID = re.compile(r"[0-9a-f]{24}\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Key:
    """One field of a sort order. ``direction`` is 1 or -1."""

    field: str
    kind: Kind
    direction: int


@dataclass(frozen=True, slots=True)
class Sort:
    """A total order: its last key is unique. An index with exactly these keys serves it, unless it is computed."""

    name: str
    keys: tuple[Key, ...]
    #: No index serves it: for up to ``MAX_SORTED`` matching letters. Letters without a value come last.
    is_computed: bool = False

    def reversed(self) -> Sort:
        keys = tuple(Key(k.field, k.kind, -k.direction) for k in self.keys)
        return Sort(f"-{self.name}", keys, self.is_computed)


def _newest_first(name: str, path: str = "") -> Sort:
    return Sort(name, (Key(path or name, "text", 1), Key("lastFailedAt", "instant", -1), Key("_id", "id", -1)))


def _computed(name: str, kind: Kind, path: str = "") -> Sort:
    return Sort(name, (Key(path or name, kind, 1), Key("_id", "id", 1)), is_computed=True)


_ASCENDING = (
    Sort("lastFailedAt", (Key("lastFailedAt", "instant", 1), Key("_id", "id", 1))),
    Sort("createdAt", (Key("createdAt", "instant", 1), Key("_id", "id", 1))),
    Sort("messageId", (Key("messageId", "text", 1),)),
    _newest_first("status"),
    _newest_first("errorType"),
    _newest_first("type"),
    _newest_first("source", "metadata.source"),
    # An index for each would make every dead letter and every replay slower.
    _computed("retryCount", "number"),
    _computed("dlqRetryCount", "number"),
    _computed("tries", "number"),
    _computed("priority", "number", "metadata.priority"),
    _computed("errorKind", "text"),
    _computed("resolution", "text"),
    _computed("nextRetryAt", "instant"),
    _computed("firstFailedAt", "instant"),
    _computed("updatedAt", "instant"),
    _computed("resolvedAt", "instant"),
)
SORTS: Mapping[str, Sort] = {s.name: s for one in _ASCENDING for s in (one, one.reversed())}
DEFAULT_SORT = SORTS["-lastFailedAt"]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a sort order: the key values of the last letter before it."""

    sort: Sort
    values: tuple[Any, ...]

    def encode(self) -> str:
        """An opaque text safe in a URL."""
        plain = [_to_plain(key.kind, value) for key, value in zip(self.sort.keys, self.values, strict=True)]
        return cursor.encode([self.sort.name, *plain])

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """The cursor in ``text``; raises ``ValueError`` for a text that ``encode`` did not create."""
        name, *plain = cursor.decode(text) or [None]
        sort = SORTS.get(name) if isinstance(name, str) else None
        if sort is None or len(plain) != len(sort.keys):
            raise cursor.NotACursor
        values = tuple(_from_plain(key.kind, value) for key, value in zip(sort.keys, plain, strict=True))
        return cls(sort, values)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """A page by number, or the one after a cursor."""

    sort: Sort = DEFAULT_SORT
    limit: int = DEFAULT_LIMIT
    page: int = 1
    cursor: Cursor | None = None

    @classmethod
    def parse(cls, params: Mapping[str, Sequence[str]]) -> PageRequest:
        """Read ``page``, ``limit``, ``cursor`` and ``sort``; raises ``CriteriaInvalid`` with every problem."""
        errors: list[FieldError] = []
        found: dict[str, Any] = {}

        def take(name: str, read: Any) -> None:
            if name not in params:
                return
            values = params[name]
            try:
                found[name] = read(single(values))
            except ValueError as error:
                errors.append(field_error(name, str(error)))

        take("limit", digits(1, MAX_LIMIT))
        take("page", digits(1, MAX_COUNTED))
        take("sort", lambda name: SORTS[one_of(SORTS)(name)])
        take("cursor", Cursor.decode)
        after = found.get("cursor")
        if after and "page" in params:
            errors.append(field_error("page", "give page or cursor, not both"))
        if after and found.get("sort", after.sort) != after.sort:
            errors.append(field_error("sort", f"the cursor was made for {after.sort.name}"))
        if found.get("page", 1) * found.get("limit", DEFAULT_LIMIT) > MAX_COUNTED:
            errors.append(field_error("page", f"reaches past {MAX_COUNTED} letters; go on by cursor"))
        if errors:
            raise CriteriaInvalid(summary(errors), errors=errors)
        if after:
            found["sort"] = after.sort
        return cls(**found)


#: Names that ``PageRequest.parse`` reads.
PARAMETERS = ("page", "limit", "cursor", "sort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Number of matching letters; a minimum if ``is_capped``."""

    count: int
    is_capped: bool


def _to_plain(kind: Kind, value: Any) -> str | int:
    if kind == "number":
        return int(value)
    if kind == "instant":
        # Exact, also at the edges of the calendar. A whole number already for what is beyond the years of Python.
        return value if isinstance(value, int) else (value - _EPOCH) // _MILLISECOND
    return str(value)


def _from_plain(kind: Kind, value: object) -> object:
    if kind == "number":
        return cursor.integer(value)
    if kind == "instant":
        ms = cursor.integer(value)
        try:
            return _EPOCH + ms * _MILLISECOND
        except OverflowError:
            return ms
    if not isinstance(value, str) or (kind == "id" and not _OBJECT_ID.match(value)):
        raise cursor.NotACursor
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise cursor.NotACursor from error
    return value
