"""The project's settings, plus the handlers that the benchmark's messages go to. Never the settings of a deployment."""

from __future__ import annotations

from dlqsite.settings import *  # noqa: F403
from dlqsite.settings import INSTALLED_APPS as SHIPPED_APPS

INSTALLED_APPS = [*SHIPPED_APPS, "benchmarks.workload"]
