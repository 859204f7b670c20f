"""One line per change, deleted when it is old. Lines hold texts instead of references, so users can be deleted."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import NoReturn

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.module_loading import import_string


def masked(text: str) -> str:
    """``text`` with secrets hidden, by the function that the setting ``AUDIT_MASK`` names."""
    return str(import_string(settings.AUDIT_MASK)(text))


class AuditLine(models.Model):
    """Actor, action, object, reason, count and time of a change."""

    at = models.DateTimeField("when", default=timezone.now, db_index=True)
    #: ``user:NAME``, ``key:NAME``, ``cli:NAME`` of a command, ``system``, or ``address:IP`` of an unknown client.
    who = models.CharField(max_length=200, db_index=True)
    what = models.CharField(max_length=200)
    #: Model of the changed object, such as ``deadletter``.
    kind = models.CharField("to what", max_length=40)
    object_id = models.CharField(max_length=200)
    name = models.CharField(max_length=200)
    why = models.TextField()
    count = models.BigIntegerField("how many", null=True)

    class Meta:
        default_permissions = ()
        verbose_name = "line of the audit log"
        verbose_name_plural = "audit log"
        indexes = [models.Index(fields=["kind", "object_id"], name="audit_object")]  # noqa: RUF012

    def __str__(self) -> str:
        return f"{self.who}: {self.said}"

    def save(self, *args: object, **kwargs: object) -> None:
        if not self._state.adding:
            raise TypeError("lines of the audit log cannot be changed")
        super().save(force_insert=True)

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("lines of the audit log cannot be deleted")

    @property
    def said(self) -> str:
        """Action and reason, secrets hidden by the current policy."""
        return masked(f"{self.what}: {self.why}" if self.why else self.what)

    # --- attributes that Django's history page reads ---

    @property
    def action_time(self) -> datetime:
        return self.at

    @property
    def user(self) -> SimpleNamespace:
        return SimpleNamespace(get_username=self.who, get_full_name="")

    @property
    def get_change_message(self) -> str:
        return self.said
