"""No table: dead letters live in MongoDB. The model is the admin's door to them and carries their permissions."""

from __future__ import annotations

from typing import NoReturn

from django.db import models


class DeadLetter(models.Model):
    """A letter for the admin. Written by ``dlq_app.services`` only."""

    id = models.CharField(primary_key=True, max_length=24)
    message_id = models.CharField(max_length=64)

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (
            ("replay_deadletter", "Can replay dead letters"),
            ("resolve_deadletter", "Can resolve, discard, set aside and note dead letters"),
            ("reveal_deadletter", "Can see secrets in dead letters"),
        )
        verbose_name = "dead letter"
        verbose_name_plural = "dead letters"

    def __str__(self) -> str:
        return self.message_id

    def save(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("dead letters are written by dlq_app.services")

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("dead letters are written by dlq_app.services")
