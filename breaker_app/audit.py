"""Django's audit log, for orders of staff in the console and over REST.

Keys and people at a terminal are no users of Django's: what they order stands with the transition, and in the program's
log as ``breaker_ordered``, like every order.
"""

from __future__ import annotations

from typing import Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType

from breaker_app.models import Breaker


def log(user: Any, name: str, what: str, why: str) -> None:
    """Add a line about the breaker. ``user`` is a signed-in member of staff, ``what`` one of ``services.ORDERS``."""
    LogEntry.objects.create(
        user_id=user.pk,
        content_type=ContentType.objects.get_for_model(Breaker),
        object_id=name,
        object_repr=name[:200],
        action_flag=CHANGE,
        change_message=f"{what}: {why}",
    )
