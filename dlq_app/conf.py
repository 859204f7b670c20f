"""Settings of the dead-letter queue: the policies, built once, and the port to intake."""

from __future__ import annotations

import hashlib
import hmac
from functools import cache
from typing import Any, cast

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from dlq_app.domain import facets, group_rules
from dlq_app.domain.facets import FacetPolicy
from dlq_app.domain.group_rules import GroupPolicy
from dlq_app.domain.masking import MaskingPolicy, mask_text
from dlq_app.domain.objectives import LettersObjective
from dlq_app.domain.owners import OwnerPolicy
from dlq_app.domain.ports import IntakePort
from dlq_app.domain.replay_policy import ReplayPolicy


@cache
def replay_policy() -> ReplayPolicy:
    """The policy of ``replay.toml``; raises ``PolicyError`` when it is not valid."""
    return ReplayPolicy.parse(settings.REPLAY_POLICY, time_zone=settings.TIME_ZONE)


@cache
def masking_policy() -> MaskingPolicy:
    """The policy of ``masking.toml``; raises ``PolicyError`` when it is not valid."""
    return MaskingPolicy.parse(settings.MASKING_POLICY)


@cache
def letters_objective() -> LettersObjective:
    """The objective of ``objectives.toml``; raises ``PolicyError`` when it or ``replay.toml`` is not valid."""
    return LettersObjective.parse(settings.OBJECTIVES_POLICY, keep_resolved_days=replay_policy().keep_resolved_days)


@cache
def facet_policy() -> FacetPolicy:
    """The policy of ``facets.toml``; raises ``PolicyError`` when it or ``masking.toml`` is not valid.

    Without ``FACETS_KEY`` the key of the hashes is derived from ``SECRET_KEY``.
    """
    key = hmac.new((settings.FACETS_KEY or settings.SECRET_KEY).encode(), b"dlq facets", hashlib.sha256).digest()
    return checked_facets(key)


def checked_facets(key: bytes = b"") -> FacetPolicy:
    """The same with another key: the check of the policy must not need ``SECRET_KEY``, which has its own."""
    return FacetPolicy.parse(settings.FACETS_POLICY, key=key, masking=masking_policy())


facets.provide(lambda: facet_policy())


@cache
def group_policy() -> GroupPolicy:
    """The policy of ``groups.toml``; raises ``PolicyError`` when it is not valid."""
    return GroupPolicy.parse(settings.GROUPS_POLICY)


group_rules.provide(lambda: group_policy())


@cache
def owner_policy() -> OwnerPolicy:
    """The policy of ``owners.toml``; raises ``PolicyError`` when it is not valid."""
    return OwnerPolicy.parse(settings.OWNERS_POLICY)


def mask_shown(text: str) -> str:
    """``text`` with secrets hidden."""
    return mask_text(text, masking_policy())


@cache
def _load(path: str) -> IntakePort:
    return cast(IntakePort, import_string(path)())


def intake() -> IntakePort:
    """The port named by ``settings.DLQ_RESUBMIT``, one per process."""
    return _load(settings.DLQ_RESUBMIT)


def _forget(*, setting: str, **_: Any) -> None:
    if setting in ("REPLAY_POLICY", "TIME_ZONE"):
        replay_policy.cache_clear()
    if setting in ("REPLAY_POLICY", "TIME_ZONE", "OBJECTIVES_POLICY"):
        letters_objective.cache_clear()
    if setting == "GROUPS_POLICY":
        group_policy.cache_clear()
    if setting == "OWNERS_POLICY":
        owner_policy.cache_clear()
    if setting in ("FACETS_POLICY", "FACETS_KEY", "SECRET_KEY", "MASKING_POLICY"):
        facet_policy.cache_clear()
    if setting == "MASKING_POLICY":
        masking_policy.cache_clear()


setting_changed.connect(_forget, dispatch_uid="dlq_app.conf")
