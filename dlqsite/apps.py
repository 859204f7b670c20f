"""Application configs: the site itself (API keys, system checks), and Django's admin with the console as its site."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.contrib import admin
from django.contrib.admin import apps as admin_apps
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core import checks
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


class ConsoleConfig(admin_apps.SimpleAdminConfig):
    """``admin.site`` is the operations console, so every app registers its pages the usual way.

    ``dlqsite.urls`` imports the pages. Processes that serve none do without them, and without REST: 35 MB less.
    """

    default = False  # of this package `SiteConfig` is the default
    default_site = "dlqsite.admin_site.ConsoleSite"

    def ready(self) -> None:
        checks.register(check_dependencies, checks.Tags.admin)
        checks.register(_check_pages, checks.Tags.admin)


def _check_pages(app_configs: Sequence[AppConfig] | None, **more: Any) -> list[checks.CheckMessage]:
    admin.autodiscover()
    return check_admin_app(app_configs, **more)
