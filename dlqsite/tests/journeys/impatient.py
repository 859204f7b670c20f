"""The settings with circuit breakers that do not let a test wait: open for eight seconds, not for thirty."""

from __future__ import annotations

from dlqsite import settings
from dlqsite.settings import *  # noqa: F403 - a settings module is its names

BREAKER_POLICY = {**settings.BREAKER_POLICY, "default": {**settings.BREAKER_POLICY["default"], "open_timeout_ms": 8000}}
