"""Application configs: the site itself (API keys, system checks), and Django's admin with the console as its site."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class SiteConfig(AppConfig):
    name = "dlqsite"
    verbose_name = "Access"

    def ready(self) -> None:
        from dlqsite import checks  # noqa: F401  # registers them


class ConsoleConfig(admin_apps.AdminConfig):
    """``admin.site`` is the operations console, so every app registers its pages the usual way."""

    default = False  # of this package `SiteConfig` is the default
    default_site = "dlqsite.admin_site.ConsoleSite"
