"""What circuit breakers have to be told of calls that have ended, carried with the outcome and sent many at once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple

from breaker_app.breaker import CircuitBreaker, Outcome, Permit, State
from processes.essential import Essential

if TYPE_CHECKING:
    from breaker_app.states import Entry

log = logging.getLogger(__name__)

#: More do not go into one question: the server answers nobody else meanwhile.
MAX_REPORTS = 500


class CallReport(NamedTuple):
    """How one permitted call went. Whoever holds it sends it, once."""

    breaker: CircuitBreaker
    permit: Permit
    outcome: Outcome
    took_ms: int

    @property
    def is_of_probe(self) -> bool:
        """Others wait for what becomes of it: the circuit is closed or opened by it."""
        return self.permit.state is State.HALF_OPEN

    def send(self) -> None:
        """Tell the breaker now; waits for its store, 0.1 s at most."""
        self.breaker.record(self.permit, self.outcome, self.took_ms)


class BreakerReporter:
    """One thread that tells breakers what it is given, so that nobody else ever waits for their store.

    Nothing is sent a second time: what the store does not take, and what waits when the process is killed, is lost. One
    sample lost is harmless, one sample twice is not.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Sequence[CallReport] | None] = SimpleQueue()
        self._finishing = False
        self._thread = Essential(self._run, "tell", may_end=lambda: self._finishing)

    def start(self) -> None:
        self._thread.start()

    def add(self, samples: Sequence[CallReport]) -> None:
        """Have these sent, in this order. Returns at once."""
        if samples:
            self._queue.put(samples)

    def finish(self, timeout_s: float) -> None:
        """Send what is there, as far as the time goes."""
        self._finishing = True
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        last = False
        while not last:
            samples, last = self._gather()
            try:
                send(samples)
            except Exception:
                # A breaker that cannot be told must not leave the others without news.
                log.exception("samples_lost", extra={"samples": len(samples)})

    def _gather(self) -> tuple[list[CallReport], bool]:
        """All that has been given so far, and whether it is the last."""
        gathered: list[CallReport] = []
        given = self._queue.get()
        try:
            while given is not None:
                gathered += given
                given = self._queue.get_nowait()
        except Empty:
            return gathered, False
        return gathered, True


def send(samples: Sequence[CallReport]) -> None:
    """Tell each breaker what concerns it, in the order in which the calls ended: one question per breaker."""
    entries: dict[CircuitBreaker, list[Entry]] = {}
    for breaker, permit, outcome, took_ms in samples:
        entries.setdefault(breaker, []).append((permit, outcome, took_ms))
    for breaker, told in entries.items():
        for first in range(0, len(told), MAX_REPORTS):
            breaker.record_many(told[first : first + MAX_REPORTS])
