"""Audit log lines for Django's own actions: login, logout, and its forms for users, roles and keys."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.http import HttpRequest

from audit_app.lines import record
from dlqsite.sign_in.backend import came_from_provider


def _address(request: HttpRequest | None) -> str:
    if request is None or not hasattr(request, "META"):
        return ""
    from dlqsite.access import client_address  # it imports REST, which workers do not need

    return client_address(request)


def _from(request: HttpRequest | None) -> str:
    address = _address(request)
    return f"from {address}" if address else ""


@receiver(user_logged_in)
def signed_in(request: HttpRequest | None, user: Any, **_: Any) -> None:
    name = user.get_username()
    how = [f"with {settings.OIDC_NAME}" if request is not None and came_from_provider(request) else "", _from(request)]
    why = ", ".join(filter(None, how))
    record(f"user:{name}", "signed in", kind="user", object_id=str(user.pk), name=name, why=why)


@receiver(user_logged_out)
def signed_out(request: HttpRequest | None, user: Any, **_: Any) -> None:
    if user is not None:
        name = user.get_username()
        record(f"user:{name}", "signed out", kind="user", object_id=str(user.pk), name=name, why=_from(request))


@receiver(user_login_failed)
def refused(credentials: dict[str, Any], request: HttpRequest | None = None, **_: Any) -> None:
    address = _address(request)
    who = f"address:{address}" if address else "unknown"
    record(who, "failed sign-in", kind="user", name=str(credentials.get("username", "")))


@receiver(post_save, sender=LogEntry)
def changed_in_a_form(instance: LogEntry, created: bool, raw: bool = False, **_: Any) -> None:
    """Copy a log entry of Django's own forms for users, roles, API keys and failed logins."""
    if not created or raw:
        return
    kind = instance.content_type.model if instance.content_type else ""
    # The id of a key contains its hash.
    object_id = str(instance.object_id or "")  # a number before it is read back
    object_id = object_id.partition(".")[0] if kind == "apikey" else object_id
    said = instance.get_change_message() or instance.get_action_flag_display()
    record(
        f"user:{instance.user.get_username()}",
        said if len(said) <= 200 else "changed",
        kind=kind,
        object_id=object_id,
        name=instance.object_repr,
        why="" if len(said) <= 200 else said,
    )
