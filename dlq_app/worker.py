"""The DLQ worker: releases stale claims and replays letters that are due, every 30 seconds or when nudged.

On two more threads it runs replay batches and renews the figures.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from dlq_app.domain.errors import DeadLetterError
from dlq_app.services import batches, dead_letters, figures
from dlq_app.store import repository
from processes import tracing
from processes.essential import Essential
from processes.names import new_name
from processes.steps import step
from processes.turns import OutageLog, Turns

log = logging.getLogger(__name__)

EVERY_S = 30.0
#: Each pause varies by this share, so that workers that start together do not poll together.
JITTER = 0.2
#: Letters of one round. Small: the worker can stop between two rounds.
ROUND = 50
#: The poll's lease. Another worker takes over this long after one was killed.
LEASE = "replay_due"
LEASE_TIME = timedelta(seconds=45)
_MIN_PAUSE_S = 0.2
#: Pauses after an error. A count that was too slow may have taken two minutes.
POLL_AGAIN_S = 5.0
BATCHES_AGAIN_S = 2.0
FIGURES_AGAIN_S = 60.0
#: The worker stops within this time after a signal, even if a store is not responding.
_STOP_S = 6.0


class DlqWorker:
    """Polls while it holds the lease. Several may run: the lease saves work; each letter is protected by its own claim.

    ``dice`` returns a number from 0 to 1.
    """

    def __init__(self, *, dice: Callable[[], float] = random.random) -> None:
        self.name = f"dlq-{new_name()}"
        self._dice = dice
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._stop_by = 0.0
        self._has_lease = False
        self._replayed = 0
        self._released = 0
        self._executor = batches.executor()
        self._poll = self._repeated("replays", self.tick, POLL_AGAIN_S)
        self._batches = Essential(self._run_batches, "batches", may_end=self._stop.is_set)
        self._figures = Essential(self._run_figures, "figures", may_end=self._stop.is_set)

    def _repeated(self, part: str, task: Callable[[], float], pause_s: float) -> Turns:
        return Turns(
            task, OutageLog(log, "store_away", "store_back", worker=self.name, part=part), broken="dlq_worker_broken",
            min_pause_s=pause_s, max_pause_s=pause_s, expected=DeadLetterError,
        )  # fmt: skip

    def run(self) -> None:
        """Poll until ``stop``."""
        tracing.begin()
        log.info("dlq_worker_started", extra={"worker": self.name})
        self._batches.start()
        self._figures.start()
        while not self._stop.is_set():
            pause = self._poll.turn()
            if pause > 0:
                self._wake.wait(pause)
            self._wake.clear()
        self._batches.join(max(1.0, self._stop_by - time.monotonic()))
        # A count may take minutes: the lease that it leaves ends by time.
        self._figures.join(1.0)
        if not self._poll.outage.why:
            # Otherwise the lease ends by time: an unavailable store would delay the stop.
            self._give_back_lease()
        log.info("dlq_worker_stopped", extra={"worker": self.name, "replayed": self._replayed})

    def stop(self) -> None:
        """Stop after the current round. From a signal handler, call it on another thread."""
        self._stop_by = time.monotonic() + _STOP_S
        self._stop.set()
        self._wake.set()

    def nudge(self) -> None:
        """Poll now."""
        self._wake.set()

    def details(self) -> Mapping[str, object]:
        """Figures for the console."""
        return {
            "polls": self._has_lease,
            "replayed": self._replayed,
            "released": self._released,
            "batches": self._executor.at_work,
        }

    def _run_batches(self) -> None:
        loop = self._repeated("batches", self._tick_batches, BATCHES_AGAIN_S)
        while not self._stop.is_set():
            self._stop.wait(loop.turn())
        try:
            self._executor.stop()
        except DeadLetterError as error:
            log.info("chunk_left", extra={"worker": self.name, "why": str(error)})

    def _tick_batches(self) -> float:
        with step("batches"):
            return self._executor.tick()

    def _run_figures(self) -> None:
        # Not a step: a count of millions of letters may take longer than a step may. It has a time limit of its own.
        loop = self._repeated("figures", figures.renew, FIGURES_AGAIN_S)
        while not self._stop.is_set():
            self._stop.wait(loop.turn())

    def tick(self) -> float:
        """One round, if this worker holds the lease; seconds until the next. Raises ``StoreUnavailable``."""
        with step("look for what is due"):
            self._has_lease = repository.leases().take(LEASE, self.name, LEASE_TIME)
            if not self._has_lease:
                return self._jittered(EVERY_S)
            self._released += dead_letters.release_stale(ROUND)
        with step("replay what is due"):
            done = dead_letters.replay_due(ROUND)
        dead_letters.record_round(done)
        self._replayed += done.replayed
        if done.due:
            log.info(
                "replays_started",
                extra={"due": done.due, "replayed": done.replayed, "postponed": done.postponed, "left": done.left},
            )
        if done.due >= ROUND and (done.replayed or done.postponed):
            return 0.0
        with step("look for the next"):
            return self._until_next()

    def _until_next(self) -> float:
        """The usual pause, or less if a letter is due sooner: it is then replayed on time."""
        pause = self._jittered(EVERY_S)
        due_at = repository.letters().next_due_at()
        if due_at is not None:
            # Only how long to sleep: the server's clock decides which letters are due.
            pause = min(pause, (due_at - datetime.now(UTC)).total_seconds())
        return max(pause, _MIN_PAUSE_S)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self._dice() - 1))

    def _give_back_lease(self) -> None:
        try:
            repository.leases().give_back(LEASE, self.name)
        except DeadLetterError as error:
            log.info("lease_left", extra={"worker": self.name, "why": str(error)})
