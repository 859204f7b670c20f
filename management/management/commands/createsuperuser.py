"""Django's command, with a line in the audit log."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.management.commands import createsuperuser

from management.user_lines import recorded_users


class Command(createsuperuser.Command):
    def handle(self, *args: Any, **options: Any) -> Any:
        with recorded_users():
            return super().handle(*args, **options)
