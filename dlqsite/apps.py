"""Application config of the site itself: API keys, system checks."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "dlqsite"
    verbose_name = "Access"

    def ready(self) -> None:
        from dlqsite import checks  # noqa: F401  # registers them
