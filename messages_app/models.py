"""The model of messages for the admin, without a table: messages are in Redis."""

from __future__ import annotations

from typing import NoReturn

from django.db import models


class Message(models.Model):
    """A message for the admin. Written by the ledger only."""

    id = models.CharField(primary_key=True, max_length=64)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "message"
        verbose_name_plural = "messages"

    def __str__(self) -> str:
        return self.id

    def save(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("messages are moved by the ledger")

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("messages are moved by the ledger")
