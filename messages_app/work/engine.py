"""The engine of a worker process: claiming, running, recording outcomes and renewing leases."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from breaker_app.breaker import MAX_REUSE_MS
from messages_app.domain.slow_calls import SlowCallLimit
from messages_app.store.ledger import Ledger
from messages_app.work.claiming import Claimer
from messages_app.work.flushing import Flusher
from messages_app.work.leases import LeaseRenewer
from messages_app.work.letter_writer import LetterWriter
from messages_app.work.pool import Pool
from messages_app.work.runner import Runner

log = logging.getLogger(__name__)

#: Seconds to record the last outcomes after the grace period of a shutdown.
FINAL_FLUSH_S = 3.0
_STEP_S = 0.01


class Engine:
    """Claims messages and runs them on ``concurrency`` threads, from ``start`` to ``stop``."""

    def __init__(
        self, ledger: Ledger, *, name: str, concurrency: int, letters: LetterWriter | None = None
    ) -> None:  # fmt: skip
        """``letters``: without it, drainers write all letters."""
        self.pool = Pool(concurrency, Runner(name, reuse_ms=MAX_REUSE_MS, slow_calls=SlowCallLimit(concurrency)))
        self.flusher = Flusher(ledger, self.pool, letters)
        self.claimer = Claimer(ledger, self.pool, self.flusher, name, letters)
        self._lease_renewer = LeaseRenewer(ledger, self.pool)

    def start(self) -> None:
        self.pool.start()
        self.flusher.start()
        self._lease_renewer.start()
        self.claimer.start()

    def is_worn_out(self) -> bool:
        """Whether the process should be replaced: it has abandoned as many threads as it should have."""
        return self.pool.abandoned() >= self.pool.size

    def is_drained(self) -> bool:
        """Whether the queues are empty and every outcome is recorded."""
        return self.claimer.saw_empty and self.claimer.holding() == 0

    def stop(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Stop claiming and requeue messages that have not started. After ``grace_s`` requeue running ones, too.

        ``hurry``: whether to end the grace period now. Returns False when outcomes could not be recorded: those
        messages are requeued when their leases end.
        """
        until = time.monotonic() + grace_s
        self.claimer.stop()
        self._hand_back("shutdown")
        self.claimer.join(1.5)
        self._hand_back("shutdown")
        while self.pool.held() and time.monotonic() < until and not hurry():
            time.sleep(_STEP_S)
        self._lease_renewer.stop()
        self.pool.interrupt_all("shutdown")
        flushed = self.flusher.finish(FINAL_FLUSH_S)
        self.pool.close()
        if not flushed:
            log.error("outcomes_lost", extra={"outcomes": self.claimer.holding()})
        return flushed

    def _hand_back(self, why: str) -> None:
        for attempt in self.pool.take_unstarted():
            self.pool.outcomes.put(self.pool.runner.hand_back(attempt, why))
