"""Who may do what in the console, in words; and who did it, in the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest

from dlq_app import conf
from dlq_app.masking import mask_text
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
    request: HttpRequest, object_id: str, name: str, what: str, why: str, *, about: type[Model] = DeadLetter
) -> None:
    """One line in Django's log: about a letter or what ``about`` says, without an id about the many in ``name``."""
    LogEntry.objects.create(
        user_id=request.user.pk,  # type: ignore[misc]
        content_type=ContentType.objects.get_for_model(about),
        object_id=object_id,
        object_repr=mask_text(name, conf.masking_policy())[:200],
        action_flag=CHANGE,
        change_message=mask_text(f"{what}: {why}" if why else what, conf.masking_policy()),
    )
