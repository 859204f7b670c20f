"""Who may do what in the console, in words; and who did it, in the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest

from audit_app.lines import record
from dlq_app.models import DeadLetter

#: Permission of ``dlqsite`` → the role that has it.
_ROLES: Mapping[str, str] = {"replay": "operator", "admin": "administrator"}


def may(request: HttpRequest, permission: str) -> bool:
    """Whether who asks has ``dlqsite.replay`` or ``dlqsite.admin``, which implies the other, as with keys."""
    user: Any = request.user
    return bool(user.has_perm(f"dlqsite.{permission}") or user.has_perm("dlqsite.admin"))


def why_not(request: HttpRequest, permission: str) -> str:
    """Why who asks may not, for the page; empty when they may."""
    return "" if may(request, permission) else f"Needs the {_ROLES[permission]} role."


def require(request: HttpRequest, permission: str) -> None:
    """Raise ``PermissionDenied`` unless who asks may."""
    if not may(request, permission):
        raise PermissionDenied(why_not(request, permission))


def actor(request: HttpRequest) -> str:
    """Who asks, as history names them."""
    return f"user:{request.user.get_username()}"


def write_down(
    request: HttpRequest,
    object_id: str,
    name: str,
    what: str,
    why: str,
    *,
    about: type[Model] = DeadLetter,
    count: int | None = None,
    must: bool = False,
) -> None:
    """One line in the audit log: about a letter or what ``about`` says, without an id about the many in ``name``."""
    kind = str(about._meta.model_name)
    record(actor(request), what, kind=kind, object_id=object_id, name=name, why=why, count=count, must=must)
