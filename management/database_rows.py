"""Rows of Django's database in a backup: API keys, users with their roles, and the audit log.

Only as much as an installation needs to work again. Passwords, second factors and sessions are not in it: without their
second factors, restored passwords would be weaker than before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.dateparse import parse_datetime

from audit_app.models import AuditLine
from dlqsite.models import ApiKey

_PAGE = 500
_KEY_FIELDS = ("id", "prefix", "hashed_key", "name", "revoked", "scopes", "rate_limit_per_minute")
_USER_FIELDS = ("username", "email", "first_name", "last_name", "is_staff", "is_active", "is_superuser")
_LINE_FIELDS = ("who", "what", "kind", "object_id", "name", "why", "count")
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of one kind."""

    #: All rows as JSON values, in a fixed order.
    read: Callable[[], Iterator[Row]]
    #: Adds those rows that are not there; returns how many. Never changes a row that is there.
    write: Callable[[list[Row]], int]


def rows(table: Table) -> Iterator[bytes]:
    """The rows of a table, one line of JSON each."""
    for row in table.read():
        yield json.dumps(row, default=_in_full, ensure_ascii=False).encode() + b"\n"


def _in_full(value: object) -> str:
    """Times with microseconds: Django's own encoder cuts them, and lines of the audit log are compared by time."""
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in a backup")


def restore(table: Table, lines: Iterable[bytes]) -> tuple[int, int]:
    """Add rows from lines, page by page, each page whole; return (added, there already). Raises ``ValueError``."""
    added = there = 0
    iterator = iter(lines)
    try:
        while page := [json.loads(line) for line in islice(iterator, _PAGE)]:
            with transaction.atomic():
                new = table.write(page)
            added, there = added + new, there + len(page) - new
    except (KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, ValidationError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    return added, there


# --- keys: the hash alone ---


def _read_keys() -> Iterator[Row]:
    for key in ApiKey.objects.order_by("id").iterator(_PAGE):
        row = {name: getattr(key, name) for name in _KEY_FIELDS}
        yield {**row, "created": key.created, "expiry_date": key.expiry_date}


def _write_keys(rows: list[Row]) -> int:
    known = set(ApiKey.objects.filter(id__in=[row["id"] for row in rows]).values_list("id", flat=True))
    new = [row for row in rows if row["id"] not in known]
    for row in new:
        expires = parse_datetime(row["expiry_date"]) if row["expiry_date"] else None
        ApiKey.objects.bulk_create([ApiKey(**{name: row[name] for name in _KEY_FIELDS}, expiry_date=expires)])
        # It is set to now when a row is added.
        ApiKey.objects.filter(id=row["id"]).update(created=parse_datetime(row["created"]))
    return len(new)


# --- users: without passwords ---


def _read_users() -> Iterator[Row]:
    for user in get_user_model().objects.order_by("pk").prefetch_related("groups").iterator(_PAGE):
        row = {name: getattr(user, name) for name in _USER_FIELDS}
        yield {**row, "roles": sorted(group.name for group in user.groups.all())}


def _write_users(rows: list[Row]) -> int:
    users = get_user_model().objects
    known = set(users.filter(username__in=[row["username"] for row in rows]).values_list("username", flat=True))
    new = [row for row in rows if row["username"] not in known]
    for row in new:
        user = get_user_model()(**{name: row[name] for name in _USER_FIELDS})
        user.set_unusable_password()
        user.save()
        user.groups.set(Group.objects.filter(name__in=row["roles"]))
    return len(new)


# --- the audit log ---


def _read_lines() -> Iterator[Row]:
    for line in AuditLine.objects.order_by("at", "pk").iterator(_PAGE):
        yield {"at": line.at, **{name: getattr(line, name) for name in _LINE_FIELDS}}


def _write_lines(rows: list[Row]) -> int:
    read = [{**row, "at": parse_datetime(row["at"])} for row in rows]
    times = [row["at"] for row in read]
    # A line has no name of its own: its id is another one here.
    known = {
        _line_key({"at": line.at, **{name: getattr(line, name) for name in _LINE_FIELDS}})
        for line in AuditLine.objects.filter(at__in=times)
    }
    new = [row for row in read if _line_key(row) not in known]
    AuditLine.objects.bulk_create([AuditLine(**{name: row[name] for name in ("at", *_LINE_FIELDS)}) for row in new])
    return len(new)


def _line_key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("at", *_LINE_FIELDS))


#: Member of the archive → its rows.
TABLES: Mapping[str, Table] = {
    "api_keys": Table(_read_keys, _write_keys),
    "users": Table(_read_users, _write_users),
    "audit": Table(_read_lines, _write_lines),
}
