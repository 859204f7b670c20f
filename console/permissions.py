"""Permissions of the console's users, and the audit log's lines about their actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest

from audit_app.lines import record

#: Act on dead letters: replay, resolve, set aside, add notes. The app label is part of the name in the database.
REPLAY: Final = "dlqsite.replay"
#: Control breakers and queues, start large batches, purge, reveal secrets. Includes ``REPLAY``.
ADMIN: Final = "dlqsite.admin"

_ROLES: Mapping[str, str] = {REPLAY: "operator", ADMIN: "administrator"}


def can(request: HttpRequest, permission: str) -> bool:
    """Whether the user has the permission; ``ADMIN`` implies every other one, as for API keys."""
    user: Any = request.user
    return bool(user.has_perm(permission) or user.has_perm(ADMIN))


def denial_reason(request: HttpRequest, permission: str) -> str:
    """Why the user may not do it, for the page; empty if they may."""
    return "" if can(request, permission) else f"Needs the {_ROLES[permission]} role."


def require(request: HttpRequest, permission: str, action: str = "") -> None:
    """Raise ``PermissionDenied`` unless the user has the permission. ``action`` starts the reason."""
    if not can(request, permission):
        reason = f"{action} needs the role {_ROLES[permission]}." if action else denial_reason(request, permission)
        raise PermissionDenied(reason)


def actor(request: HttpRequest) -> str:
    """The user's name in histories and in the audit log."""
    return f"user:{request.user.get_username()}"


def record_audit(
    request: HttpRequest,
    object_id: str,
    name: str,
    what: str,
    why: str,
    *,
    about: type[Model],
    count: int | None = None,
    must: bool = False,
) -> None:
    """Add a line to the audit log. If it is about many objects, ``object_id`` is empty and ``name`` lists them."""
    kind = str(about._meta.model_name)
    record(actor(request), what, kind=kind, object_id=object_id, name=name, why=why, count=count, must=must)
