"""Application config of the dead-letter queue."""

from django.apps import AppConfig


class DeadLettersConfig(AppConfig):
    name = "dlq_app"
    verbose_name = "Dead letters"

    def ready(self) -> None:
        from dlq_app import checks  # noqa: F401  registers the system checks
