"""The circuit breaker for callers: ask for a permit, make the call, record its outcome."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol

from breaker_app.errors import CallNotPermitted, InvalidRequest, StoreUnavailable
from breaker_app.local import LocalBreakerStore
from breaker_app.policy import BreakerPolicy, WhenOpen
from breaker_app.states import (
    ADMIN_STATES,
    MAX_REASON,
    NAME,
    Entry,
    Outcome,
    Permit,
    Recorded,
    Snapshot,
    State,
    Transition,
)

__all__ = [
    "BreakerPolicy",
    "BreakerStore",
    "CallNotPermitted",
    "CircuitBreaker",
    "Outcome",
    "Permit",
    "Snapshot",
    "State",
    "Transition",
    "WhenOpen",
    "failures_only",
]

log = logging.getLogger(__name__)

#: Decides how an exception of a call counts.
Classify = Callable[[BaseException], Outcome]

#: Maximum time for which a CLOSED answer may be reused, in ms.
MAX_REUSE_MS = 250


class BreakerStore(Protocol):
    """The store of breakers. Each method is atomic; all raise ``StoreUnavailable``."""

    def acquire(self, name: str, policy: BreakerPolicy, token: str) -> Permit:
        """Ask for a permit for the call ``token``; idempotent by token."""
        ...

    def record(self, name: str, policy: BreakerPolicy, entries: Sequence[Entry]) -> Recorded:
        """Count outcomes in order, with the same effect as one by one."""
        ...

    def admin(self, name: str, policy: BreakerPolicy, state: State, *, actor: str, reason: str) -> None:
        """Set the breaker to ``state``: always one transition."""
        ...

    def peek(self, name: str, policy: BreakerPolicy) -> Snapshot:
        """Read the breaker; write nothing."""
        ...

    def transitions(self, name: str, limit: int) -> list[Transition]:
        """Changes of state, newest first."""
        ...


def _is_text(words: str) -> bool:
    """Whether ``words`` can be stored and shown: no control characters but line breaks and tabs, no lone surrogates."""
    return all(letter.isprintable() or letter in "\n\t\u00a0" for letter in words)


def failures_only(error: BaseException) -> Outcome:
    """The default classification: an ``Exception`` is a failure, anything else (such as an interrupt) is ignored."""
    return Outcome.FAILURE if isinstance(error, Exception) else Outcome.IGNORED


class CircuitBreaker:
    """The breaker of one downstream, for one process. Thread-safe; constructing it writes nothing.

    While the store is unavailable, a local breaker of this process decides by the same rules, so calls are neither all
    allowed nor all refused. Each permit records which of the two issued it.

    ``reuse_ms`` (0 to 250, off by default): after a CLOSED answer, ``acquire`` returns the same permit for this long
    without asking the store. A trip elsewhere is then noticed later by as much; outcomes recorded with the old
    generation are not counted. ``classify`` decides how an exception inside ``guard`` counts.
    """

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        store: BreakerStore,
        *,
        classify: Classify = failures_only,
        reuse_ms: int = 0,
        local: LocalBreakerStore | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not NAME.fullmatch(name):
            raise ValueError(f"not a breaker name: {name!r}; it must match {NAME.pattern}")
        if not 0 <= reuse_ms <= MAX_REUSE_MS:
            raise ValueError(f"reuse_ms = {reuse_ms!r}: must be from 0 to {MAX_REUSE_MS}")
        self.name = name
        self.policy = policy
        self._store = store
        self._local = local or LocalBreakerStore()
        self._classify = classify
        self._reuse_s = reuse_ms / 1_000
        self._monotonic = monotonic
        #: The last CLOSED answer and the instant until which it may be reused. Replaced as one value, so no lock is
        #: needed.
        self._kept: tuple[Permit, float] | None = None

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name}>"

    def acquire(self, token: str | None = None) -> Permit:
        """Ask for a permit. Record every allowed permit exactly once.

        ``token`` identifies the call; by default it is random. Asking twice with one token admits one probe.
        """
        if token is None:
            kept = self._kept
            if kept is not None and self._monotonic() < kept[1]:
                return kept[0]
            token = os.urandom(12).hex()
        asked_at = self._monotonic() if self._reuse_s else 0.0
        try:
            permit = self._store.acquire(self.name, self.policy, token)
        except StoreUnavailable:
            self._kept = None
            return self._local.acquire(self.name, self.policy, token)
        if self._reuse_s:
            self._kept = (permit, asked_at + self._reuse_s) if permit.state is State.CLOSED else None
        return permit

    def record(self, permit: Permit, outcome: Outcome, duration_ms: int = 0) -> bool:
        """Record the outcome of the call that ``permit`` allowed. True if the outcome was counted."""
        return self.record_many([(permit, outcome, duration_ms)])[0]

    def record_many(self, entries: Sequence[Entry]) -> list[bool]:
        """Record several outcomes, in the order in which the calls ended: one round trip, same effect as one by one.

        Outcomes of refused calls are not sent. Outcomes that the store does not accept in time are dropped, never sent
        again: a lost outcome is harmless, one that is counted twice is not.
        """
        used = [False] * len(entries)
        shared = [at for at, (permit, _, _) in enumerate(entries) if permit.allowed and not permit.local]
        local = [at for at, (permit, _, _) in enumerate(entries) if permit.allowed and permit.local]
        if shared:
            self._fill(used, shared, self._record_shared([entries[at] for at in shared]))
        if local:
            answer = self._local.record(self.name, self.policy, [entries[at] for at in local])
            self._fill(used, local, answer.used)
        return used

    def _record_shared(self, entries: Sequence[Entry]) -> Sequence[bool]:
        try:
            answer = self._store.record(self.name, self.policy, entries)
        except StoreUnavailable:
            self._kept = None
            return ()
        kept = self._kept
        if kept is not None and kept[0].generation != answer.generation:
            self._kept = None
        return answer.used

    @staticmethod
    def _fill(used: list[bool], places: Sequence[int], values: Sequence[bool]) -> None:
        """Put ``values`` in their places. There are none if the store was unavailable."""
        for at, value in zip(places, values, strict=False):
            used[at] = value

    def peek(self) -> Snapshot:
        """Read the breaker without changing it. ``shared`` is False while the store is unavailable."""
        try:
            return self._store.peek(self.name, self.policy)
        except StoreUnavailable:
            return self._local.peek(self.name, self.policy)

    def transitions(self, limit: int = 100) -> list[Transition]:
        """Changes of state, newest first. Raises ``StoreUnavailable``."""
        return self._store.transitions(self.name, limit)

    def force(self, state: State, *, actor: str, reason: str, store: BreakerStore | None = None) -> None:
        """Set the state by hand; the reason is kept. Raises ``StoreUnavailable``, ``InvalidRequest``.

        ``store``: the same store with another timeout, if the timeout of calls is too short.
        """
        if state not in ADMIN_STATES:
            raise InvalidRequest(f"A breaker cannot be set to {state}: only a call can be a probe.")
        kept_reason = reason.strip()
        if not 0 < len(kept_reason) <= MAX_REASON or not _is_text(kept_reason):
            message = f"A reason of 1 to {MAX_REASON} characters of text is required."
            raise InvalidRequest(message, errors=[{"field": "reason", "message": message}])
        self._kept = None
        (store or self._store).admin(self.name, self.policy, state, actor=actor, reason=kept_reason)

    def guard(self, classify: Classify | None = None) -> Guard:
        """``with breaker.guard() as permit:`` acquires, runs the block, and records its outcome exactly once.

        Raises ``CallNotPermitted`` instead of running the block when the circuit is open. Everything that the block
        raises is re-raised, including ``BaseException``.
        """
        return Guard(self, classify or self._classify)


class Guard:
    """One guarded call. Do not use it twice."""

    def __init__(self, breaker: CircuitBreaker, classify: Classify) -> None:
        self._breaker = breaker
        self._classify = classify

    def __enter__(self) -> Permit:
        permit = self._breaker.acquire()
        if not permit.allowed:
            wait = permit.retry_after_ms
            raise CallNotPermitted(wait / 1_000 if wait >= 0 else None, name=self._breaker.name, state=permit.state)
        self._permit = permit
        self._began = time.monotonic()
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        took = int((time.monotonic() - self._began) * 1_000)
        self._breaker.record(self._permit, self._outcome(error), took)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            return Outcome.SUCCESS
        try:
            return self._classify(error)
        # A broken classification must not hide the error of the call, nor keep the permit of a probe.
        except Exception:
            log.exception("breaker %s: classifying %s failed", self._breaker.name, type(error).__name__)
            return failures_only(error)
