"""Application config of the circuit breaker."""

from django.apps import AppConfig


class BreakerConfig(AppConfig):
    name = "breaker_app"
    verbose_name = "Circuit breakers"

    def ready(self) -> None:
        from breaker_app import checks  # noqa: F401 - registers the system checks
