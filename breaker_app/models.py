"""A model without a table, for Django's admin: breakers are stored in Redis."""

from __future__ import annotations

from typing import NoReturn

from django.db import models


class Breaker(models.Model):
    """A breaker in the admin. Only ``breaker_app.services`` changes breakers."""

    name = models.CharField(primary_key=True, max_length=128)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name = "breaker"
        verbose_name_plural = "breakers"

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("only breaker_app.services changes breakers")

    def delete(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("only breaker_app.services changes breakers")
