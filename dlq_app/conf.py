"""The policies in force, built once from settings; a change of the settings (in a test) builds them anew."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from dlq_app.environment import Environment
from dlq_app.masking import MaskingPolicy, mask_text
from dlq_app.policy import ReplayPolicy


@cache
def replay_policy() -> ReplayPolicy:
    """The policy of ``replay.toml``; raises ``PolicyError`` when it is not valid."""
    return ReplayPolicy.parse(settings.REPLAY_POLICY, time_zone=settings.TIME_ZONE)


@cache
def masking_policy() -> MaskingPolicy:
    """The policy of ``masking.toml``; raises ``PolicyError`` when it is not valid."""
    return MaskingPolicy.parse(settings.MASKING_POLICY)


def mask_shown(text: str) -> str:
    """``text`` with secrets hidden."""
    return mask_text(text, masking_policy())


@cache
def environment() -> Environment:
    """The one that this process takes its snapshots from."""
    return Environment(code_version=str(getattr(settings, "VERSION", "")))


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("REPLAY_POLICY", "TIME_ZONE"):
        replay_policy.cache_clear()
    if setting == "MASKING_POLICY":
        masking_policy.cache_clear()


setting_changed.connect(_forget, dispatch_uid="dlq_app.conf")
