"""The DLQ worker: frees stale claims and replays what is due, every 30 seconds and when told, until told to stop.

On a thread of its own it carries out replay batches, whoever holds the poll's lease.
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
from processes.essential import Essential
from processes.names import new_name
from processes.steps import step

log = logging.getLogger(__name__)

EVERY_S = 30.0
#: Workers that were started together drift apart by this share of the pause.
JITTER = 0.2
#: Letters of one round. Small: between rounds the worker hears that it shall stop.
ROUND = 50
#: The poll's lease. Another worker takes over this long after one was killed.
LEASE = "replay_due"
LEASE_TIME = timedelta(seconds=45)
_LEAST_PAUSE_S = 0.2
#: How long after trouble batches are tried again.
BATCHES_AGAIN_S = 2.0
#: A signal is answered within so long, whatever does not answer meanwhile.
_STOP_S = 6.0


class DlqWorker:
    """Polls while it holds the lease. Several may run: the lease spares work, and every letter has its own claim.

    ``dice`` answers a number from 0 to 1.
    """

    def __init__(self, *, dice: Callable[[], float] = random.random) -> None:
        self.name = f"dlq-{new_name()}"
        self._dice = dice
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._stop_by = 0.0
        self._started = time.monotonic()
        self._has_lease = False
        self._replayed = 0
        self._released = 0
        self._away = ""
        self._executor = batches.executor()
        self._batches = Essential(self._run_batches, "batches", may_end=self._stop.is_set)
        self._batches_away = ""

    def run(self) -> None:
        """Poll until ``stop``. A store that is away is said once, and asked again; nothing else ends the loop."""
        log.info("dlq_worker_started", extra={"worker": self.name})
        self._batches.start()
        while not self._stop.is_set():
            pause = self._turn()
            if pause > 0:
                self._wake.wait(pause)
            self._wake.clear()
        self._batches.join(max(1.0, self._stop_by - time.monotonic()))
        if not self._away:
            # Else it ends by itself, and asking a store that is silent would hold up the stop.
            self._give_back_lease()
        log.info("dlq_worker_stopped", extra={"worker": self.name, "replayed": self._replayed})

    def stop(self) -> None:
        """End after the round under way. From a signal handler, call it on another thread."""
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
        while not self._stop.is_set():
            self._stop.wait(self._batches_turn())
        try:
            self._executor.stop()
        except DeadLetterError as error:
            log.info("chunk_left", extra={"worker": self.name, "why": str(error)})

    def _batches_turn(self) -> float:
        away = ""
        try:
            with step("batches"):
                return self._executor.tick()
        except DeadLetterError as error:
            away = str(error)
        except Exception:
            # One batch or one bug must not end all others; the pause keeps it from spinning.
            log.exception("batches_broken", extra={"worker": self.name})
        finally:
            if away and not self._batches_away:
                log.warning("batches_wait", extra={"worker": self.name, "why": away})
            elif self._batches_away and not away:
                log.info("batches_go_on", extra={"worker": self.name})
            self._batches_away = away
        return BATCHES_AGAIN_S

    def _turn(self) -> float:
        try:
            pause = self.tick()
        except DeadLetterError as error:
            pause = self._jittered(EVERY_S / 6)
            self._note(str(error))
        except Exception:
            # One letter or one bug must not stop the automatic replays of all others; the pause keeps it from spinning.
            log.exception("dlq_worker_broken", extra={"worker": self.name})
            pause = self._jittered(EVERY_S)
        else:
            self._note("")
        return pause

    def tick(self) -> float:
        """One round, if the lease is ours; seconds until the next. Raises ``StoreUnavailable``."""
        with step("look for what is due"):
            self._has_lease = repository.leases().take(LEASE, self.name, LEASE_TIME)
            if not self._has_lease:
                return self._jittered(EVERY_S)
            figures.keep_fresh()
            self._released += dead_letters.release_stale(ROUND)
        with step("replay what is due"):
            done = dead_letters.replay_due(ROUND)
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
        """The usual pause, or less when a letter falls due sooner: then it is replayed on time."""
        pause = self._jittered(EVERY_S)
        due_at = repository.letters().next_due_at()
        if due_at is not None:
            # Only how long to sleep: what is due, the server's clock says.
            pause = min(pause, (due_at - datetime.now(UTC)).total_seconds())
        return max(pause, _LEAST_PAUSE_S)

    def _jittered(self, seconds: float) -> float:
        return seconds * (1 + JITTER * (2 * self._dice() - 1))

    def _note(self, away: str) -> None:
        if away and not self._away:
            log.warning("store_away", extra={"worker": self.name, "why": away})
        elif self._away and not away:
            log.info("store_back", extra={"worker": self.name})
        self._away = away

    def _give_back_lease(self) -> None:
        try:
            repository.leases().give_back(LEASE, self.name)
        except DeadLetterError as error:
            log.info("lease_left", extra={"worker": self.name, "why": str(error)})
