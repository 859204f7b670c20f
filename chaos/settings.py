"""The project's settings, plus handlers that record each of their runs. Never the settings of a deployment."""

from __future__ import annotations

from dlqsite.settings import *  # noqa: F403
from dlqsite.settings import INSTALLED_APPS as SHIPPED_APPS

INSTALLED_APPS = [*SHIPPED_APPS, "chaos.workload"]
