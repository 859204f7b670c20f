"""Results of calls for the circuit breakers: passed along with the outcome, and sent in batches."""

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

#: Maximum number of reports per command: Redis serves nobody else meanwhile.
MAX_REPORTS = 500


class CallReport(NamedTuple):
    """The result of one permitted call. Its holder sends it once."""

    breaker: CircuitBreaker
    permit: Permit
    outcome: Outcome
    took_ms: int

    @property
    def is_of_probe(self) -> bool:
        """Whether it decides if the circuit closes or opens."""
        return self.permit.state is State.HALF_OPEN

    def send(self) -> None:
        """Send the report now; waits at most 0.1 s for the breaker's store."""
        self.breaker.record(self.permit, self.outcome, self.took_ms)


class BreakerReporter:
    """The thread that sends reports to the breakers, so that no other thread waits for their store.

    Reports are sent once: those that the store does not take are lost, and those that wait when the process is killed.
    A lost report is harmless, a repeated one is not.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Sequence[CallReport] | None] = SimpleQueue()
        self._finishing = False
        self._thread = Essential(self._run, "call_reports", may_end=lambda: self._finishing)

    def start(self) -> None:
        self._thread.start()

    def add(self, reports: Sequence[CallReport]) -> None:
        """Queue reports, to be sent in this order."""
        if reports:
            self._queue.put(reports)

    def finish(self, timeout_s: float) -> None:
        """Send the queued reports within ``timeout_s``."""
        self._finishing = True
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        last = False
        while not last:
            reports, last = self._gather()
            try:
                send(reports)
            except Exception:
                # An error of one breaker must not stop the reports to others.
                log.exception("samples_lost", extra={"samples": len(reports)})

    def _gather(self) -> tuple[list[CallReport], bool]:
        """All queued reports, and whether they are the last."""
        gathered: list[CallReport] = []
        given = self._queue.get()
        try:
            while given is not None:
                gathered += given
                given = self._queue.get_nowait()
        except Empty:
            return gathered, False
        return gathered, True


def send(reports: Sequence[CallReport]) -> None:
    """Send reports in the order in which the calls ended, with one command per breaker."""
    entries: dict[CircuitBreaker, list[Entry]] = {}
    for breaker, permit, outcome, took_ms in reports:
        entries.setdefault(breaker, []).append((permit, outcome, took_ms))
    for breaker, results in entries.items():
        for first in range(0, len(results), MAX_REPORTS):
            breaker.record_many(results[first : first + MAX_REPORTS])
