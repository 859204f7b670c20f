"""Application config of the circuit breaker."""

from django.apps import AppConfig


class BreakerConfig(AppConfig):
    name = "breaker_app"
    verbose_name = "Circuit breakers"
