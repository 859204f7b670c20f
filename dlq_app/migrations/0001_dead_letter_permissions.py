"""The permissions of dead letters. No table: the letters live in MongoDB."""

from typing import ClassVar

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                ("id", models.CharField(max_length=24, primary_key=True, serialize=False)),
                ("message_id", models.CharField(max_length=64)),
            ],
            options={
                "verbose_name": "dead letter",
                "verbose_name_plural": "dead letters",
                "permissions": (
                    ("replay_deadletter", "Can replay dead letters"),
                    ("resolve_deadletter", "Can resolve, discard, set aside and note dead letters"),
                    ("reveal_deadletter", "Can see secrets in dead letters"),
                ),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
