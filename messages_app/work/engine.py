"""What runs messages in one worker process: claiming, running, flushing and keeping, put together and taken apart."""

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
from messages_app.work.pool import Pool
from messages_app.work.runner import Runner

log = logging.getLogger(__name__)

#: After the grace of a shutdown, seconds for the ledger to take what is left.
FINAL_FLUSH_S = 3.0
_STEP_S = 0.01


class Engine:
    """Takes messages from the ledger and runs them on ``concurrency`` threads, from ``start`` to ``stop``."""

    def __init__(
        self, ledger: Ledger, *, name: str, concurrency: int, outbox_filled: Callable[[], None] = lambda: None
    ) -> None:
        self.pool = Pool(concurrency, Runner(name, reuse_ms=MAX_REUSE_MS, slow_calls=SlowCallLimit(concurrency)))
        self.flusher = Flusher(ledger, self.pool, outbox_filled)
        self.claimer = Claimer(ledger, self.pool, self.flusher, name)
        self._lease_renewer = LeaseRenewer(ledger, self.pool)

    def start(self) -> None:
        self.pool.start()
        self.flusher.start()
        self._lease_renewer.start()
        self.claimer.start()

    def is_worn_out(self) -> bool:
        """True when as many threads have been given up as the process was meant to have: it should be replaced."""
        return self.pool.abandoned() >= self.pool.size

    def is_drained(self) -> bool:
        """True when nothing waits in the lanes and every outcome is in the ledger."""
        return self.claimer.saw_empty and self.claimer.holding() == 0

    def stop(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> bool:
        """Stop taking, hand back what was not begun, let the rest finish for ``grace_s``, hand that back too.

        ``hurry`` is asked meanwhile whether to wait no longer. False when the ledger did not take everything: those
        messages come back when their leases end.
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
