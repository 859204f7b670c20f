"""The circuit breaker around an attempt: permission before the call, a report after it."""

from __future__ import annotations

import logging
import time
from _thread import allocate_lock
from collections.abc import Callable, Collection
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Protocol

from breaker_app import services as breakers
from breaker_app.breaker import Outcome, Permit, State
from breaker_app.conf import announce, breaker_for
from breaker_app.errors import StoreUnavailable
from breaker_app.held import MAX_TRIAL_WAIT_MS
from breaker_app.policy import WhenOpen
from dlq_app.domain.replay_batch import BreakerSeen
from messages_app import conf, registry
from messages_app.domain.errors import CircuitOpen
from messages_app.failures import ErrorKind
from messages_app.work.call_reports import CallReport
from wire.cached import Cached

if TYPE_CHECKING:
    from messages_app.domain.slow_calls import SlowCallLimit

log = logging.getLogger(__name__)

#: Minimum wait of a rejected message.
MIN_WAIT_MS = 1_000
#: Wait of a message that is rejected by the limit on slow calls; up to twice as much with jitter.
CROWDED_WAIT_MS = 2_000

#: Minimum time between two reads of a breaker's state in intake, per process.
_PEEK_S = 0.25

_monotonic = time.monotonic


class GuardedAttempt(Protocol):
    """An attempt, as far as its breaker uses it; see ``runner.Attempt``."""

    started_at: float
    cut: str
    raised: type[BaseException] | None


class Protection:
    """The permit of one attempt. An allowed one is reported once: by the first caller of ``call_report``.

    ``reuse_ms``: how long a closed breaker's permission is reused for other attempts. ``slow_calls``: limits the
    threads that unresponsive services hold; at the limit the breaker is not asked.
    """

    __slots__ = ("_attempt", "_breaker", "_permit", "_reported", "_slow_calls", "name")

    def __init__(
        self, name: str, attempt: GuardedAttempt, reuse_ms: int = 0, slow_calls: SlowCallLimit | None = None
    ) -> None:
        self.name = name
        self._attempt = attempt
        self._breaker = breaker_for(name, reuse_ms=reuse_ms)
        self._slow_calls = slow_calls
        self._permit: Permit | None = None
        #: Taken once and never released, by the caller who gets the report.
        self._reported = allocate_lock()
        if slow_calls is not None and not slow_calls.enter(name):
            return
        try:
            self._permit = self._breaker.acquire()
        finally:
            if slow_calls is not None and not self.allowed:
                slow_calls.leave(name)

    @property
    def allowed(self) -> bool:
        return self._permit is not None and self._permit.allowed

    def call_report(self, kind: ErrorKind | None) -> CallReport | None:
        """The report, to be sent by the caller; None when another caller has it. ``kind`` is None for success."""
        if self._permit is None or not self._reported.acquire(False):
            return None
        begun = self._attempt.started_at
        took_ms = int((_monotonic() - begun) * 1000) if begun else 0
        outcome = self._outcome(kind)
        if self._slow_calls is not None:
            failed = None if self._attempt.cut and outcome is Outcome.IGNORED else outcome is Outcome.FAILURE
            self._slow_calls.leave(self.name, failed=failed, took_s=took_ms / 1000)
        return CallReport(self._breaker, self._permit, outcome, took_ms)

    def give_back(self) -> None:
        """Release the permit of an attempt without an outcome. Its call is not counted."""
        if self._permit is not None and self._reported.acquire(False):
            if self._slow_calls is not None:
                self._slow_calls.leave(self.name)
            CallReport(self._breaker, self._permit, Outcome.IGNORED, 0).send()

    def wait_ms(self, dice: Callable[[], float]) -> int:
        """Wait of a rejected message, with jitter, so that messages do not return all at once."""
        if self._permit is None:
            return round(CROWDED_WAIT_MS * (1 + dice()))
        open_ms = self._breaker.policy.open_timeout_ms
        # Negative: forced open by an operator, for an unknown time.
        base = self._permit.retry_after_ms if self._permit.retry_after_ms >= 0 else open_ms
        wait = max(MIN_WAIT_MS, round(base + dice() * open_ms / 2))
        return min(wait, MAX_TRIAL_WAIT_MS) if self._permit.state is State.HALF_OPEN else wait

    def _outcome(self, kind: ErrorKind | None) -> Outcome:
        """The outcome for the breaker. Permanent failures and interruptions by a shutdown do not count."""
        cut = self._attempt.cut
        # If the handler had raised before, the call had ended; only reading its exception was interrupted.
        if cut and (self._attempt.raised is None or cut != "timeout"):
            return Outcome.FAILURE if cut == "timeout" else Outcome.IGNORED
        if kind is None:
            return Outcome.SUCCESS
        return Outcome.IGNORED if kind is ErrorKind.PERMANENT else Outcome.FAILURE


def open_for_ms(name: str) -> int | None:
    """Milliseconds until the breaker allows a call (if forced open, its whole open period); None if it does now."""
    breaker = breaker_for(name)
    seen = breaker.peek()
    if seen.state is State.FORCED_OPEN:
        return breaker.policy.open_timeout_ms
    return seen.retry_after_ms if seen.state is State.OPEN and seen.retry_after_ms > 0 else None


@partial(Cached, keep_s=_PEEK_S, max_answers=10_000)
def _wait_ms(name: str) -> int | None:
    return open_for_ms(name) if breaker_for(name).policy.when_open is WhenOpen.REJECT else None


def reject_while_open(name: str, message_type: str) -> None:
    """Raise ``CircuitOpen`` while the breaker is open and its policy rejects messages for it.

    Reads the state without a permit, at most every quarter of a second per process; the worker asks again. While the
    breaker's store is unavailable the message is accepted.
    """
    wait_ms = _wait_ms(name)
    if wait_ms is not None:
        seconds = max(1, ceil(wait_ms / 1000))
        raise CircuitOpen(
            # Not "is failing": an operator may have forced it open.
            f"The circuit breaker {name} is open, so {message_type} messages are rejected; try again in {seconds} s. "
            f"GET /api/breakers/{name} shows why.",
            retry_after=seconds,
        )


def seen_many(names: Collection[str], *, with_held: bool = False) -> dict[str, BreakerSeen]:
    """The breakers by name, each with the number of trial calls that it allows while it is not closed.

    One round trip; two ``with_held``, for the number of messages that each breaker holds. Raises
    ``breaker_app.errors.StoreUnavailable``.
    """
    found = {}
    for card in breakers.with_held(breakers.cards(names)) if with_held else breakers.cards(names):
        seen, trials = card.seen, 0
        if seen.state is State.HALF_OPEN or (seen.state is State.OPEN and seen.due):
            used = seen.leases + seen.probes_succeeded + seen.probes_failed + seen.probes_lost
            trials = max(0, card.policy.half_open_max_requests - used)
        held = card.held.count if card.held else None
        found[card.name] = BreakerSeen(card.name, seen.state.value, trials, since=card.since, held=held)
    return found


def announce_breakers() -> None:
    """Announce the breakers that this process's handlers use, each with its maximum call duration."""
    limits: dict[str, int] = {}
    for spec in registry.specs():
        limit_s = spec.timeout or conf.retry_policy(spec.type).timeout_ms / 1000
        for name in spec.breaker_names():
            limits[name] = max(limits.get(name, 0), int(limit_s * 1000))
    if not limits:
        return
    try:
        announce(limits)
    except StoreUnavailable as error:
        log.warning("breakers_not_announced", extra={"why": str(error)})
