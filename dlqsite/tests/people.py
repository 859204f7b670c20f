"""The cast of the site's tests: keys and people, each with what they may do."""

from __future__ import annotations

import gzip
import re
from typing import Any

from django.contrib.auth.models import Group, Permission, User
from django.db.models import QuerySet
from django.test import Client

from audit_app.models import AuditLine
from dlqsite import roles
from dlqsite.access import known_keys
from dlqsite.models import ApiKey

#: Parts of a page in which whitespace counts, and whitespace between a template's lines.
_VERBATIM = re.compile(r"(<(?:pre|textarea|script)\b.*?</(?:pre|textarea|script)>)", re.DOTALL)
_AT_TAG, _IN_TEXT = re.compile(r"(?<=>)\s*\n\s*|\s*\n\s*(?=<)"), re.compile(r"\s*\n\s*")


class Browser(Client):
    """Django's client that reads pages as people do: line breaks of a template are no text."""

    def request(self, **request: Any) -> Any:
        answer = super().request(**request)
        if answer.headers.get("Content-Type", "").startswith("text/html") and not answer.streaming:
            packed = answer.headers.get("Content-Encoding") == "gzip"
            content = gzip.decompress(answer.content) if packed else answer.content
            parts = _VERBATIM.split(content.decode())
            answer.content = "".join(
                part if place % 2 else _IN_TEXT.sub(" ", _AT_TAG.sub("", part)) for place, part in enumerate(parts)
            ).encode()
        return answer


def a_key(*scopes: str, name: str = "carol", **fields: Any) -> str:
    """A new key as a client holds it."""
    _, key = ApiKey.objects.create_key(name=name, scopes=list(scopes), **fields)
    known_keys.clear()
    return str(key)


def with_key(*scopes: str, **fields: Any) -> Client:
    """A client that sends a new key with every request; without a rate limit unless told otherwise."""
    fields.setdefault("rate_limit_per_minute", 0)
    return Client(headers={"Authorization": f"Api-Key {a_key(*scopes, **fields)}"})


def staff(name: str = "vic", *permissions: str, csrf: bool = False, **fields: Any) -> Client:
    """A browser in which a member of staff is signed in. Permissions are codenames of ``dlqsite``."""
    user = User.objects.create_user(name, password=None, is_staff=True, **fields)
    user.user_permissions.add(*Permission.objects.filter(content_type__app_label="dlqsite", codename__in=permissions))
    client = Browser(enforce_csrf_checks=csrf)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def member(role: str, name: str = "") -> User:
    """A member of staff with one of the roles, named after it; without a password. ``superuser`` may all."""
    if role == "superuser":
        return User.objects.create_superuser(name or role, password=None)
    if not Group.objects.filter(name=role).exists():  # a test that emptied the database took them along
        roles.ensure(Group.objects, Permission.objects)
    user = User.objects.create_user(name or role, password=None, is_staff=True)
    user.groups.add(Group.objects.get(name=role))
    return user


def signed_in(user: User) -> Client:
    """A browser of Django's in which the user is signed in."""
    client = Browser()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def audited() -> QuerySet[AuditLine]:
    """The lines of the audit log, without those about users: every browser of these tests signs in."""
    return AuditLine.objects.exclude(kind="user")
