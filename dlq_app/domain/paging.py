"""Pages of letters: sort orders, page numbers, and cursors that neither skip nor repeat a letter. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from dlq_app.domain.errors import CriteriaInvalid

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
#: Exact up to here; beyond it a count says "at least", and pages are walked by cursor.
MAX_COUNTED = 10_000
#: Characters of a cursor.
MAX_CURSOR = 1000

Kind = Literal["instant", "text", "id"]
_OBJECT_ID = re.compile(r"[0-9a-f]{24}\Z")
_CURSOR = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_CURSOR}}}\Z")
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
    """A total order: its last key is unique, and each is served by an index of exactly these keys."""

    name: str
    keys: tuple[Key, ...]

    def reversed(self) -> Sort:
        return Sort(f"-{self.name}", tuple(Key(k.field, k.kind, -k.direction) for k in self.keys))


def _newest_first(name: str) -> Sort:
    return Sort(name, (Key(name, "text", 1), Key("lastFailedAt", "instant", -1), Key("_id", "id", -1)))


_ASCENDING = (
    Sort("lastFailedAt", (Key("lastFailedAt", "instant", 1), Key("_id", "id", 1))),
    Sort("createdAt", (Key("createdAt", "instant", 1), Key("_id", "id", 1))),
    Sort("messageId", (Key("messageId", "text", 1),)),
    _newest_first("status"),
    _newest_first("errorType"),
    _newest_first("type"),
)
SORTS: Mapping[str, Sort] = {s.name: s for one in _ASCENDING for s in (one, one.reversed())}
DEFAULT_SORT = SORTS["-lastFailedAt"]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place after one letter in a sort order: the values of its keys."""

    sort: Sort
    values: tuple[Any, ...]

    def encode(self) -> str:
        """An opaque text safe in a URL."""
        plain = [_to_plain(key.kind, value) for key, value in zip(self.sort.keys, self.values, strict=True)]
        text = json.dumps([self.sort.name, *plain], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """The cursor in ``text``; ``ValueError`` for anything that ``encode`` cannot have made."""
        if not _CURSOR.match(text):
            raise ValueError("is not a cursor of this list")
        try:
            raw = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            name, *plain = raw
            sort = SORTS[name]
            values = tuple(_from_plain(key.kind, value) for key, value in zip(sort.keys, plain, strict=True))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, binascii.Error) as error:
            raise ValueError("is not a cursor of this list") from error
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
        """From ``page``, ``limit``, ``cursor`` and ``sort``; raises ``CriteriaInvalid`` naming every problem."""
        errors: list[dict[str, str]] = []
        found: dict[str, Any] = {}

        def take(name: str, read: Any) -> None:
            if name not in params:
                return
            values = params[name]
            try:
                if len(values) != 1:
                    raise ValueError("must be given once")
                found[name] = read(values[0])
            except ValueError as error:
                errors.append({"field": name, "message": str(error)})

        take("limit", lambda text: _whole(text, 1, MAX_LIMIT))
        take("page", lambda text: _whole(text, 1, MAX_COUNTED))
        take("sort", _sort)
        take("cursor", Cursor.decode)
        cursor = found.get("cursor")
        if cursor and "page" in params:
            errors.append({"field": "page", "message": "give page or cursor, not both"})
        if cursor and found.get("sort", cursor.sort) != cursor.sort:
            errors.append({"field": "sort", "message": f"the cursor was made for {cursor.sort.name}"})
        if found.get("page", 1) * found.get("limit", DEFAULT_LIMIT) > MAX_COUNTED:
            errors.append({"field": "page", "message": f"reaches past {MAX_COUNTED} letters; go on by cursor"})
        if errors:
            raise CriteriaInvalid("; ".join(f"{e['field']}: {e['message']}" for e in errors), errors=errors)
        if cursor:
            found["sort"] = cursor.sort
        return cls(**found)


#: Names that ``PageRequest.parse`` reads.
PARAMETERS = ("page", "limit", "cursor", "sort")


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """How many letters fit; at least so many when ``is_capped``."""

    count: int
    is_capped: bool


def _whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ValueError(f"must be a whole number from {low} to {high}")
    return int(text)


def _sort(text: str) -> Sort:
    if text not in SORTS:
        raise ValueError("must be one of " + ", ".join(SORTS))
    return SORTS[text]


def _to_plain(kind: Kind, value: Any) -> str | int:
    if kind == "instant":
        # Exact, also at the edges of the calendar. A whole number already for what is beyond the years of Python.
        return value if isinstance(value, int) else (value - _EPOCH) // _MILLISECOND
    return str(value)


def _from_plain(kind: Kind, value: object) -> object:
    if kind == "instant":
        if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
            raise ValueError("not an instant")
        try:
            return _EPOCH + value * _MILLISECOND
        except OverflowError:
            return value
    if not isinstance(value, str) or (kind == "id" and not _OBJECT_ID.match(value)):
        raise ValueError("not a text")
    value.encode()
    return value
