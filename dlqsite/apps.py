"""Application config of the site itself: API keys, system checks."""

from django.apps import AppConfig


class SiteConfig(AppConfig):
    name = "dlqsite"
    verbose_name = "Access"
