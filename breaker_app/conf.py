"""The policy of each breaker, the breakers of this process, and the list of all names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from breaker_app.breaker import CircuitBreaker, Classify, failures_only
from breaker_app.errors import StoreUnavailable
from breaker_app.held import Held
from breaker_app.local import LocalBreakerStore
from breaker_app.policy import BreakerPolicy
from breaker_app.states import NAME
from breaker_app.store import TIMEOUT_S, RedisBreakerStore
from wire.errors import PolicyError
from wire.policy import InvalidValue, UnknownKey, table

#: How much longer the lease of a probe is than the longest handler.
LEASE_MARGIN_MS: Final = 10_000
#: Seconds that a call waits for the store.
CALL_TIMEOUT_S = TIMEOUT_S
#: Seconds that console, API, commands and start-up wait for it.
PATIENT_TIMEOUT_S: Final = 2.0

_lock = threading.Lock()
_breakers: dict[tuple[str, int, Classify], CircuitBreaker] = {}
#: Longest timeout, in ms, of the handlers that use a name, as far as this process knows.
_longest_call_ms: dict[str, int] = {}
#: Hides secrets in reasons. The site sets it, since this app does not know what a secret is.
_hide: Callable[[str], str] = str


def file() -> str:
    """The policy file, as errors name it."""
    return str(settings.POLICIES.file("breaker"))


def policies() -> tuple[BreakerPolicy, dict[str, BreakerPolicy]]:
    """The default policy and that of each name in the file. Raises ``PolicyError`` for the first mistake."""
    default, names, mistakes = read(settings.BREAKER_POLICY)
    if mistakes:
        raise mistakes[0]
    return default, names


def read(source: Mapping[str, Any]) -> tuple[BreakerPolicy, dict[str, BreakerPolicy], list[PolicyError]]:
    """The default policy, the policies by name, and all mistakes in ``source``. A wrong table counts as missing."""
    where_from = file()
    mistakes: list[PolicyError] = [
        UnknownKey(where_from, key, ("default", "names"), "table") for key in source if key not in ("default", "names")
    ]

    def take(values: Mapping[str, Any], key: str, where: str, base: BreakerPolicy) -> BreakerPolicy | None:
        try:
            return BreakerPolicy.from_mapping(table(values, key, where_from), where, base)
        except PolicyError as error:
            mistakes.append(error)
            return None

    default = take(source, "default", f"{where_from} [default]", BreakerPolicy()) or BreakerPolicy()
    names = {}
    try:
        overrides = table(source, "names", where_from)
    except PolicyError as error:
        mistakes.append(error)
        overrides = {}
    for name in overrides:
        if not NAME.fullmatch(name):
            mistakes.append(InvalidValue(where_from, "names", name, f"must be a name like {NAME.pattern}"))
        elif policy := take(overrides, name, f'{where_from} [names."{name}"]', default):
            names[name] = policy
    return default, names, mistakes


def held() -> Mapping[str, Held]:
    """The messages that each breaker holds, from the function in ``settings.BREAKER_HELD``. Raises ``ServiceError``."""
    found: Mapping[str, Held] = import_string(settings.BREAKER_HELD)()
    return found


def policy_for(name: str) -> BreakerPolicy:
    """The policy of ``name``. Its lease is longer than the timeout of every handler that uses it."""
    default, names = policies()
    policy = names.get(name, default)
    longest = _longest_call_ms.get(name, 0)
    return replace(policy, permit_lease_ms=max(policy.permit_lease_ms, longest + LEASE_MARGIN_MS if longest else 0))


def breaker_for(name: str, *, reuse_ms: int = 0, classify: Classify = failures_only) -> CircuitBreaker:
    """The breaker of ``name`` in this process: the same object for the same arguments."""
    key = (name, reuse_ms, classify)
    breaker = _breakers.get(key)
    if breaker is None:
        with _lock:
            breaker = _breakers.get(key) or CircuitBreaker(
                name, policy_for(name), store(), classify=classify, reuse_ms=reuse_ms, local=_local()
            )
            _breakers[key] = breaker
    return breaker


@cache
def store() -> RedisBreakerStore:
    """The store that all processes share, on connections of its own."""
    return RedisBreakerStore.from_url(settings.REDIS_URL, timeout_s=CALL_TIMEOUT_S)


@cache
def patient_store() -> RedisBreakerStore:
    """The same store with a longer timeout, for pages and commands."""
    return RedisBreakerStore.from_url(settings.REDIS_URL, timeout_s=PATIENT_TIMEOUT_S)


@cache
def _local() -> LocalBreakerStore:
    return LocalBreakerStore()


def announce(names: Mapping[str, int | None] | Iterable[str]) -> None:
    """Publish the names that the handlers of this process use; a mapping also has their longest timeout in ms.

    Called once at start, before the first ``breaker_for``. Raises ``StoreUnavailable`` if the other processes could not
    be informed; this process uses the timeouts nevertheless.
    """
    limits = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
    for name, limit in limits.items():
        if not NAME.fullmatch(name):
            raise ValueError(f"not a breaker name: {name!r}; it must match {NAME.pattern}")
        _longest_call_ms[name] = max(_longest_call_ms.get(name, 0), limit or 0)
    _breakers.clear()
    patient_store().announce(limits)


def announce_again() -> None:
    """Publish the names of this process again, in case the store was emptied. Raises ``StoreUnavailable``."""
    patient_store().announce(_longest_call_ms)


def set_masking(hide: Callable[[str], str]) -> None:
    """Set the function that hides secrets in reasons. The site calls it once, when the applications are ready."""
    global _hide
    _hide = hide


def hidden(text: str) -> str:
    """``text`` with secrets hidden."""
    return _hide(text)


def known_names() -> list[str]:
    """All names of the policy file and of all processes, sorted; in an outage, those that this process knows."""
    _, names = policies()
    try:
        announced = patient_store().announced()
    except StoreUnavailable:
        announced = set()
    return sorted({*names, *_longest_call_ms, *(name for name in announced if NAME.fullmatch(name))})


def forget() -> None:
    """Forget all breakers, stores and names, for tests and changed settings."""
    _breakers.clear()
    _longest_call_ms.clear()
    store.cache_clear()
    patient_store.cache_clear()
    _local.cache_clear()


def _on_setting_changed(*, setting: str, **_: object) -> None:
    if setting in ("BREAKER_POLICY", "REDIS_URL"):
        forget()


setting_changed.connect(_on_setting_changed)
