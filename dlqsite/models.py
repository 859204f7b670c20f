"""API keys, and the permissions that a member of staff needs for what a scope allows a key."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator
from django.db import models
from rest_framework_api_key.models import AbstractAPIKey

SCOPES_HELP = (
    "submit: send messages. read: look at everything. replay: act on dead letters. metrics: read /metrics. "
    "audit: read the audit log. admin: all of it."
)
SCOPES = ("submit", "read", "replay", "metrics", "audit", "admin")


def validate_scopes(value: Any) -> None:
    """Scopes are a list of distinct known names; at least one, or the key could do nothing."""
    if not isinstance(value, list) or not value or len(set(map(str, value))) != len(value):
        raise ValidationError("Choose at least one scope, each once.")
    unknown = sorted(str(scope) for scope in value if scope not in SCOPES)
    if unknown:
        raise ValidationError(f"Unknown scope {', '.join(unknown)}; known are {', '.join(SCOPES)}.")


class ApiKey(AbstractAPIKey):
    """A client's key: only its hash is stored. Revoking or expiry takes effect within five seconds in every process."""

    scopes = models.JSONField(
        default=list,
        validators=[validate_scopes],
        help_text=SCOPES_HELP,
    )
    rate_limit_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MaxValueValidator(10_000_000)],
        help_text="Submissions per 60 seconds. Empty: the default of the settings. 0: no limit.",
    )

    class Meta(AbstractAPIKey.Meta):
        abstract = False
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def allows(self, scope: str) -> bool:
        """True when the key holds ``scope``, or ``admin``, which implies all."""
        return scope in self.scopes or "admin" in self.scopes


class Access(models.Model):
    """No table: carries the permissions that let staff do over REST and in the console what scopes let keys do."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (
            ("submit", "Can submit messages"),
            ("replay", "Can act on dead letters: replay, resolve, set aside, note"),
            ("admin", "Can control breakers, large batches, purges"),
        )
