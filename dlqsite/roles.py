"""The three roles of staff: Django groups with these names, made by a migration."""

from __future__ import annotations

from typing import Any

from console.permissions import ADMIN, REPLAY

VIEWER = "viewer"
OPERATOR = "operator"
ADMINISTRATOR = "administrator"
#: From most to least.
ROLES = (ADMINISTRATOR, OPERATOR, VIEWER)

_LOOK = (
    "dlq_app.view_deadletter",
    "dlq_app.view_lettergroup",
    "dlq_app.view_replaybatch",
    "breaker_app.view_breaker",
    "messages_app.view_message",
)
_ACT = (*_LOOK, REPLAY, "admin.view_logentry")
#: Users and their roles are not among them: whoever may change those may become a superuser.
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

#: Permission → what it lets a member of staff do, from least to most.
MAY = (
    ("dlq_app.view_deadletter", "See letters, groups, batches, breakers, messages and their figures"),
    (REPLAY, "Replay, resolve and set aside letters, write notes, work with groups and batches"),
    ("admin.view_logentry", "Read the audit log"),
    ("dlqsite.submit", "Submit messages"),
    (ADMIN, "Control breakers and queues, run batches over the approval size, purge, reveal secrets"),
    ("dlqsite.add_apikey", "Make and revoke API keys"),
    ("auth.change_user", "Change users and their roles"),
)


def ensure(groups: Any, permissions: Any) -> None:
    """Make the groups that are not there and give each its permissions; whatever they hold beside stays.

    ``groups`` and ``permissions`` are managers, of a migration or of the present. Raises ``LookupError`` naming a
    permission that does not exist. May run at any time, any number of times.
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
    """What a member of staff is called in the header: the highest of their roles; empty without one."""
    if user.is_superuser:
        return "superuser"
    held = set(user.groups.values_list("name", flat=True))
    return next((role for role in ROLES if role in held), "")
