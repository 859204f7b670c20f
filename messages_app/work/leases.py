"""Renew the leases of running attempts; requeue messages that were claimed too early."""

from __future__ import annotations

import logging
import threading
import time

from messages_app.domain.errors import StoreUnavailable
from messages_app.store.ledger import Ledger
from messages_app.work.claiming import UNSTARTED_S
from messages_app.work.pool import Pool
from messages_app.work.runner import Attempt
from processes.essential import Essential

log = logging.getLogger(__name__)

RENEW_EVERY_S = 10.0
_TICK_S = 0.25


def renew(ledger: Ledger, attempts: list[Attempt]) -> None:
    """Renew the leases of running attempts, at most until their time limit plus a margin.

    An attempt whose lease is lost continues and its outcome is sent: the ledger decides. Raises ``StoreUnavailable``.
    """
    sent_at = time.monotonic()
    wanted = [(a.claimed.message_id, a.claimed.fence, a.lease_cap_ms()) for a in attempts]
    lost = ledger.renew(wanted)
    for attempt in attempts:
        if attempt.claimed.message_id in lost:
            log.warning("lease_lost", extra={"message_id": attempt.claimed.message_id, "attempt": attempt.number})
        else:
            attempt.renewed_at = sent_at


class LeaseRenewer:
    """The thread that renews leases and requeues messages that did not start in time."""

    def __init__(self, ledger: Ledger, pool: Pool) -> None:
        self._ledger = ledger
        self._pool = pool
        self._stopping = threading.Event()

    def start(self) -> None:
        Essential(self._run, "keep", may_end=self._stopping.is_set).start()

    def stop(self) -> None:
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_S):
            try:
                self._tick()
            except StoreUnavailable:
                # Claimer and flusher log it. A lease is three renewal intervals long.
                self._stopping.wait(1.0)
            except Exception:
                # Without this thread every long attempt would run twice.
                log.exception("keeper_broken")
                self._stopping.wait(1.0)

    def _tick(self) -> None:
        now = time.monotonic()
        for attempt in self._pool.take_unstarted(older_than=now - UNSTARTED_S):
            self._pool.outcomes.put(self._pool.runner.hand_back(attempt, "prefetch"))
        due = [attempt for attempt in self._pool.running() if now - attempt.renewed_at >= RENEW_EVERY_S]
        if due:
            renew(self._ledger, due)
