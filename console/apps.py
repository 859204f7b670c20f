"""Application config of the console's shared parts."""

from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "console"
