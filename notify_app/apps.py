"""Application config of notifications."""

from django.apps import AppConfig


class NotifyConfig(AppConfig):
    name = "notify_app"
    verbose_name = "Notifications"

    def ready(self) -> None:
        from notify_app import checks  # noqa: F401 - registers the system checks
