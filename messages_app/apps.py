"""Application config of intake."""

from django.apps import AppConfig
from django.conf import settings
from django.utils.module_loading import autodiscover_modules


class MessagesConfig(AppConfig):
    name = "messages_app"
    verbose_name = "Messages"

    def ready(self) -> None:
        from messages_app import checks, registry  # noqa: F401 - checks registers the system checks

        autodiscover_modules("handlers")
        if not settings.DEMO_HANDLER:
            registry.forget("demo")
