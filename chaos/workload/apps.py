"""The app of the handlers."""

from __future__ import annotations

from django.apps import AppConfig


class WorkloadConfig(AppConfig):
    name = "chaos.workload"
    label = "chaos_workload"
    verbose_name = "Chaos workload"
