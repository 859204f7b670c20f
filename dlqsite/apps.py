"""Application configs: the site itself (API keys, system checks), and Django's admin with the console as its site."""

from typing import Any

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps
from django.db import connections
from django.db.models.signals import pre_migrate


def _let_migrations_take_their_time(using: str, **_: Any) -> None:
    connection = connections[using]
    if connection.vendor == "postgresql":
        connection.ensure_connection()
        connection.connection.be_patient()


class SiteConfig(AppConfig):
    name = "dlqsite"
    verbose_name = "Access"

    def ready(self) -> None:
        from breaker_app import conf as breakers
        from dlq_app.conf import masking_policy
        from dlq_app.domain.masking import mask_text
        from dlqsite import audit_signals, checks  # noqa: F401  # registers them

        pre_migrate.connect(_let_migrations_take_their_time, dispatch_uid="dlqsite.apps")
        breakers.set_masking(lambda text: mask_text(text, masking_policy()))


class ConsoleConfig(admin_apps.AdminConfig):
    """``admin.site`` is the operations console, so every app registers its pages the usual way."""

    default = False  # of this package `SiteConfig` is the default
    default_site = "dlqsite.admin_site.ConsoleSite"
