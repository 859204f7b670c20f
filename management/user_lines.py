"""Lines of the audit log about users whom Django's own commands make and change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.contrib.auth import get_user_model
from django.db.models.signals import post_save

from audit_app.lines import record
from management.terminal import actor


@contextmanager
def recorded_users() -> Iterator[None]:
    """Inside, each user saved is a line: made, or with a new password."""

    def saved(instance: Any, created: bool, **_: Any) -> None:
        what, name = "user made" if created else "password changed", instance.get_username()
        record(actor(), what, kind="user", object_id=str(instance.pk), name=name)

    model = get_user_model()
    post_save.connect(saved, sender=model, weak=False)
    try:
        yield
    finally:
        post_save.disconnect(saved, sender=model)
