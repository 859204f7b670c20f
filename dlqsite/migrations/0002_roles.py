"""The roles of staff. Run again it changes nothing; what was added to a role by hand stays."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

from dlqsite import roles

#: Permissions of the first version that the three of ``dlqsite`` have taken the place of.
_GONE = ("replay_deadletter", "resolve_deadletter", "reveal_deadletter")


def make(apps: Any, schema_editor: Any) -> None:
    # Permissions are otherwise made after the last migration, which is too late for whoever gives them to a group.
    for config in apps.get_app_configs():
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0, using=schema_editor.connection.alias)
        config.models_module = None
    permissions = apps.get_model("auth", "Permission").objects.using(schema_editor.connection.alias)
    permissions.filter(content_type__app_label="dlq_app", codename__in=_GONE).delete()
    roles.ensure(
        apps.get_model("auth", "Group").objects.using(schema_editor.connection.alias),
        permissions,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("dlqsite", "0001_initial"),
        ("dlq_app", "0002_console"),
        ("breaker_app", "0001_console"),
        ("messages_app", "0001_console"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("axes", "0001_initial"),
    ]

    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
