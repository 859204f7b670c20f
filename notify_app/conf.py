"""Settings of notifications: the policy, the addresses from the environment, and the console's address."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from django.conf import settings
from django.core.signals import setting_changed

from messages_app.domain import signing
from messages_app.domain.addresses import UrlRefused, parse_url
from notify_app.domain.policy import NotifyPolicy, Recipient
from wire.errors import PolicyError


@cache
def policy() -> NotifyPolicy:
    """The policy of ``notify.toml``. Raises ``PolicyError`` if it is invalid."""
    if problem := getattr(settings, "NOTIFY_POLICY_PROBLEM", ""):
        raise PolicyError(problem)
    file = getattr(settings, "NOTIFY_POLICY_FILE", "dlqsite/policies/notify.toml")
    return NotifyPolicy.from_mapping(getattr(settings, "NOTIFY_POLICY", {}), file=file)


def is_configured() -> bool:
    """Whether there is a recipient, so that a notifier must run. Raises ``PolicyError``."""
    return bool(policy().recipients)


def address(recipient: Recipient) -> str:
    """The address in the environment; empty if missing. Secret: never log or show it."""
    return os.environ.get(recipient.url_env, "").strip()


def signing_keys(recipient: Recipient) -> list[bytes]:
    """The keys that sign its webhooks. Raises ``SecretRefused``, which names no value."""
    return [signing.key_of(os.environ.get(variable, "")) for variable in recipient.secrets]


def console_url() -> str:
    """``settings.CONSOLE_URL`` without a slash at its end; empty if unknown."""
    return str(getattr(settings, "CONSOLE_URL", "")).rstrip("/")


def console_url_problem() -> str:
    """What is wrong with ``CONSOLE_URL``; empty if it can be used or is not set."""
    try:
        if url := console_url():
            parse_url(url)
    except UrlRefused as error:
        return f"CONSOLE_URL {error}."
    return ""


def link(page: str) -> str:
    """The address of a page of the console, relative to its home; empty if the console's address is unknown."""
    base = console_url()
    return f"{base}/admin/{page}" if base else ""


def _forget(*, setting: str, **_: Any) -> None:
    if setting.startswith("NOTIFY_POLICY"):
        policy.cache_clear()


setting_changed.connect(_forget, dispatch_uid="notify_app.conf")
