"""The three roles of staff: Django groups with these names, made by a migration."""

from __future__ import annotations

from typing import Any

VIEWER = "viewer"
OPERATOR = "operator"
ADMINISTRATOR = "administrator"
#: From most to least.
ROLES = (ADMINISTRATOR, OPERATOR, VIEWER)

#: Permission → what it lets a member of staff do, from least to most.
MAY = (
    ("dlq_app.view_deadletter", "See letters, groups, batches, breakers, messages and their figures"),
    ("dlqsite.submit", "Submit messages"),
    ("dlqsite.replay", "Replay, resolve and set aside letters, write notes, work with groups and batches"),
    ("admin.view_logentry", "Read the audit log"),
    ("dlqsite.admin", "Control breakers and queues, run batches over the approval size, purge, reveal secrets"),
    ("dlqsite.add_apikey", "Make and revoke API keys"),
    ("auth.change_user", "Change users and their roles"),
)


def role_of(user: Any) -> str:
    """What a member of staff is called in the header: the highest of their roles; empty without one."""
    if user.is_superuser:
        return "superuser"
    held = set(user.groups.values_list("name", flat=True))
    return next((role for role in ROLES if role in held), "")
