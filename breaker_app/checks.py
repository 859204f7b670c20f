"""System checks: ``manage.py check`` finds mistakes in the policy file before a worker starts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from breaker_app import conf
from wire.policy import UnknownKey


@register("breaker_app")
def check_policy(**_: Any) -> list[CheckMessage]:
    """E001: a value is not allowed. E002: unknown key or table."""
    mistakes = conf.read(settings.BREAKER_POLICY)[2]
    return [
        Error(
            str(mistake),
            hint=f"Correct {conf.file()}.",
            id="breaker_app.E002" if isinstance(mistake, UnknownKey) else "breaker_app.E001",
        )
        for mistake in mistakes
    ]
