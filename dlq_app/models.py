"""No tables: letters, groups and batches live in MongoDB. The models are the admin's doors to them.

Who may see each is a permission of the model; who may act is one of ``dlqsite``'s three permissions.
"""

from __future__ import annotations

from typing import NoReturn

from django.db import models


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
