"""Letters, groups and batches live in MongoDB, and their models have no table; a draft of an edit has one.

Who may see each is a permission of the model; who may act is one of ``dlqsite``'s three permissions.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final, NoReturn

from django.conf import settings
from django.db import models
from django.utils import timezone

#: A draft is deleted after this time.
DRAFT_DAYS: Final = timedelta(days=14)


class _Stored(models.Model):
    """Something that the admin shows and that ``dlq_app.services.dead_letters`` and its neighbours write."""

    class Meta:
        abstract = True

    def save(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError(f"{self._meta.verbose_name_plural} are written by dlq_app's services")

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError(f"{self._meta.verbose_name_plural} are written by dlq_app's services")


class DeadLetter(_Stored):
    """A letter for the admin."""

    id = models.CharField(primary_key=True, max_length=24)
    message_id = models.CharField(max_length=64)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "dead letter"
        verbose_name_plural = "dead letters"

    def __str__(self) -> str:
        return self.message_id


class LetterGroup(_Stored):
    """Letters that failed in the same way, for the admin."""

    fingerprint = models.CharField(primary_key=True, max_length=64)
    title = models.CharField(max_length=200)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "group"
        verbose_name_plural = "groups"

    def __str__(self) -> str:
        return self.title or self.fingerprint


class ReplayBatch(_Stored):
    """A replay batch for the admin."""

    id = models.CharField(primary_key=True, max_length=64)
    name = models.CharField(max_length=200)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "replay batch"
        verbose_name_plural = "replay batches"

    def __str__(self) -> str:
        return self.name or self.id


class EditDraft(models.Model):
    """An edited payload that is not replayed yet, one for each person and letter. ``admin.letters.drafts`` reads it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    letter_id = models.CharField(max_length=24)
    #: Payload and reason as typed, encrypted.
    sealed = models.TextField()
    saved_at = models.DateTimeField(db_index=True)

    class Meta:
        default_permissions = ()
        verbose_name = "draft of an edited payload"
        verbose_name_plural = "drafts of edited payloads"
        constraints = [  # noqa: RUF012
            models.UniqueConstraint(fields=["user", "letter_id"], name="draft_once"),
        ]

    def __str__(self) -> str:
        return f"draft of {self.letter_id}"

    @classmethod
    def delete_expired(cls) -> int:
        """Delete drafts older than ``DRAFT_DAYS``; return how many."""
        return cls.objects.filter(saved_at__lte=timezone.now() - DRAFT_DAYS).delete()[0]
