"""The three roles of staff: Django groups, created by a migration."""

from __future__ import annotations

from typing import Any

from console.permissions import ADMIN, REPLAY

VIEWER = "viewer"
OPERATOR = "operator"
ADMINISTRATOR = "administrator"
#: Highest first.
ROLES = (ADMINISTRATOR, OPERATOR, VIEWER)

_LOOK = (
    "dlq_app.view_deadletter",
    "dlq_app.view_lettergroup",
    "dlq_app.view_replaybatch",
    "breaker_app.view_breaker",
    "messages_app.view_message",
)
_ACT = (*_LOOK, REPLAY, "admin.view_logentry")
#: Without users and roles: a user who can change those can become a superuser.
_CONTROL = (
    *_ACT,
    "dlqsite.submit",
    ADMIN,
    "dlqsite.view_apikey",
    "dlqsite.add_apikey",
    "dlqsite.change_apikey",
    "axes.view_accessattempt",
    "axes.delete_accessattempt",
    "auth.view_user",
    "auth.view_group",
)
#: Role → its permissions.
PERMISSIONS = {VIEWER: _LOOK, OPERATOR: _ACT, ADMINISTRATOR: _CONTROL}

#: Permission → description, lowest first.
MAY = (
    ("dlq_app.view_deadletter", "View letters, groups, batches, breakers, messages and figures"),
    (REPLAY, "Replay, resolve and set aside letters, write notes, work with groups and batches"),
    ("admin.view_logentry", "Read the audit log"),
    ("dlqsite.submit", "Submit messages"),
    (ADMIN, "Control breakers and queues, run batches over the approval size, purge, reveal secrets"),
    ("dlqsite.add_apikey", "Make and revoke API keys"),
    ("auth.change_user", "Change users and their roles"),
)


def ensure(groups: Any, permissions: Any) -> None:
    """Create missing groups and add their permissions; other permissions stay.

    ``groups`` and ``permissions`` are model managers: the historical ones of a migration, or the current ones. Raises
    ``LookupError`` naming a permission that does not exist. May run at any time, any number of times.
    """
    for role, names in PERMISSIONS.items():
        group, _ = groups.get_or_create(name=role)
        for name in names:
            app, _, codename = name.partition(".")
            found = permissions.filter(content_type__app_label=app, codename=codename).first()
            if found is None:
                raise LookupError(f"the role {role} wants {name}, which does not exist")
            group.permissions.add(found)


def role_of(user: Any) -> str:
    """The user's highest role for the header; empty without one."""
    if user.is_superuser:
        return "superuser"
    held = set(user.groups.values_list("name", flat=True))
    return next((role for role in ROLES if role in held), "")
