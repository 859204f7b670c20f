"""Asking the circuit breaker of what a handler calls, and telling it how the call went."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from breaker_app.breaker import Outcome, State
from breaker_app.conf import announce, breaker_for
from breaker_app.errors import StoreUnavailable
from messages_app import conf, registry
from messages_app.failures import AttemptTimeout, ErrorKind, HandlerError, kind_of, type_of

if TYPE_CHECKING:
    from messages_app.runner import Attempt

log = logging.getLogger(__name__)

#: A refused message comes back no sooner, and while the breaker is trying no later than this.
SHORTEST_WAIT_MS = 1_000
LONGEST_TRIAL_WAIT_MS = 30_000


class Protection:
    """The permit of one attempt. An allowed one is recorded exactly once."""

    def __init__(self, name: str, attempt: Attempt) -> None:
        self.name = name
        self._attempt = attempt
        self._breaker = breaker_for(name)
        self._permit = self._breaker.acquire(f"{attempt.claimed.message_id}.{attempt.claimed.fence}")
        self._began = time.monotonic()

    @property
    def allowed(self) -> bool:
        return self._permit.allowed

    def record(self, error: BaseException | None) -> None:
        """Tell how the call went."""
        took_ms = int((time.monotonic() - self._began) * 1000)
        self._breaker.record(self._permit, self._outcome(error), took_ms)

    def wait_ms(self, dice: Callable[[], float]) -> int:
        """How long a refused message waits: spread, so that not everything comes back in the same second."""
        open_ms = self._breaker.policy.open_timeout_ms
        # Negative: forced open by a person, who alone knows for how long.
        base = self._permit.retry_after_ms if self._permit.retry_after_ms >= 0 else open_ms
        wait = max(SHORTEST_WAIT_MS, round(base + dice() * open_ms / 2))
        return min(wait, LONGEST_TRIAL_WAIT_MS) if self._permit.state is State.HALF_OPEN else wait

    def _outcome(self, error: BaseException | None) -> Outcome:
        """What a breaker must not count: the downstream answered (permanent), or we broke off ourselves (shutdown)."""
        if self._attempt.cut and self._attempt.cut != "timeout":
            return Outcome.IGNORED
        if error is None:
            return Outcome.SUCCESS
        return Outcome.IGNORED if _kind(error) is ErrorKind.PERMANENT else Outcome.FAILURE


def _kind(error: BaseException) -> ErrorKind:
    if isinstance(error, AttemptTimeout):
        return ErrorKind.TRANSIENT
    if isinstance(error, HandlerError) and error.kind is not None:
        return error.kind
    return kind_of(type_of(error, conf.error_types()), conf.error_kinds())


def open_for_ms(name: str) -> int | None:
    """How long the breaker lets nothing through: None when a call may go, else ms (its whole period if forced open)."""
    breaker = breaker_for(name)
    seen = breaker.peek()
    if seen.state is State.FORCED_OPEN:
        return breaker.policy.open_timeout_ms
    return seen.retry_after_ms if seen.state is State.OPEN and seen.retry_after_ms > 0 else None


def announce_breakers() -> None:
    """Tell the other processes which breakers the handlers of this one use, and for how long at most."""
    limits: dict[str, int] = {}
    for spec in registry.specs():
        if spec.breaker is not None:
            limit_s = spec.timeout or conf.retry_policy(spec.type).timeout_ms / 1000
            limits[spec.breaker] = max(limits.get(spec.breaker, 0), int(limit_s * 1000))
    if not limits:
        return
    try:
        announce(limits)
    except StoreUnavailable as error:
        log.warning("breakers_not_announced", extra={"why": str(error)})
