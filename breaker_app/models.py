"""No table: breakers live in Redis. The model is the admin's door to them."""

from __future__ import annotations

from typing import NoReturn

from django.db import models


class Breaker(models.Model):
    """A breaker for the admin. Written by ``breaker_app.services`` only."""

    name = models.CharField(primary_key=True, max_length=128)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "breaker"
        verbose_name_plural = "breakers"

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("breakers are moved by breaker_app.services")

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("breakers are moved by breaker_app.services")
