"""Application config of the commands."""

from django.apps import AppConfig


class ManagementConfig(AppConfig):
    name = "management"
