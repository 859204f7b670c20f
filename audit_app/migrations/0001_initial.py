"""Creates the table of the audit log and copies the entries of Django's log into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django.utils.timezone
from django.conf import settings
from django.contrib.admin.models import LogEntry
from django.db import migrations, models

_CHUNK = 1000


def copy(apps: Any, schema_editor: Any) -> None:
    using = schema_editor.connection.alias
    line = apps.get_model("audit_app", "AuditLine")
    entries = apps.get_model("admin", "LogEntry").objects.using(using).select_related("user", "content_type")

    def lines() -> Iterator[Any]:
        for entry in entries.order_by("pk").iterator(_CHUNK):
            # As Django words it: a message of its own forms is stored as JSON.
            said = LogEntry(change_message=entry.change_message, action_flag=entry.action_flag).get_change_message()
            kind = entry.content_type.model if entry.content_type else ""
            # The id of a key holds its hash.
            object_id = (entry.object_id or "").partition(".")[0] if kind == "apikey" else entry.object_id or ""
            yield line(
                at=entry.action_time,
                who=f"user:{entry.user.username}",
                what=said[:200] if len(said) <= 200 else "see why",
                kind=kind[:40],
                object_id=object_id[:200],
                name=entry.object_repr,
                why="" if len(said) <= 200 else said,
            )

    waiting: list[Any] = []
    for one in lines():
        waiting.append(one)
        if len(waiting) >= _CHUNK:
            line.objects.using(using).bulk_create(waiting)
            waiting = []
    line.objects.using(using).bulk_create(waiting)


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("admin", "0003_logentry_add_action_flag_choices"),
        ("contenttypes", "0002_remove_content_type_name"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditLine",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "at",
                    models.DateTimeField(db_index=True, default=django.utils.timezone.now, verbose_name="when"),
                ),
                ("who", models.CharField(db_index=True, max_length=200)),
                ("what", models.CharField(max_length=200)),
                ("kind", models.CharField(max_length=40, verbose_name="to what")),
                ("object_id", models.CharField(max_length=200)),
                ("name", models.CharField(max_length=200)),
                ("why", models.TextField()),
                ("count", models.BigIntegerField(null=True, verbose_name="how many")),
            ],
            options={
                "verbose_name": "line of the audit log",
                "verbose_name_plural": "audit log",
                "default_permissions": (),
                "indexes": [models.Index(fields=["kind", "object_id"], name="audit_object")],
            },
        ),
        migrations.RunPython(copy, migrations.RunPython.noop),
    ]
