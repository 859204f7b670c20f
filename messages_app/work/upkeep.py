"""Upkeep of the ledger, in every worker process, so that one living process is enough.

Four threads: the first moves due retries, due schedules and lost runs; the second sends outcomes to the dead-letter
queue; the third announces the process and takes samples of the figures; the fourth detects a ledger that lost data.
Each step is atomic in the ledger or repeatable, so any number of processes may run them at the same time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from messages_app.domain.errors import StoreUnavailable
from messages_app.store import presence
from messages_app.store.ledger import Ledger
from messages_app.store.marks import marks
from messages_app.store.series import series
from messages_app.work import draining, measuring
from messages_app.work.draining import BATCH, Recorder, drain
from messages_app.work.store_losses import LossDetector
from processes.essential import Essential
from processes.steps import is_stuck
from processes.turns import OutageLog, Turns

log = logging.getLogger(__name__)

#: Outcomes sent together while more wait than fit into one batch.
MAX_DRAIN = 200
#: Payloads deleted by one step, and the time between steps when no more are due.
EXPIRED = 250
EXPIRE_EVERY_S = 1.0
#: Maximum time between two steps of the mover; shorter when something is due sooner.
MOVE_EVERY_S = 0.1
DRAIN_EVERY_S = 1.0
#: Drainers leave younger outcomes to the process in which the message ended: two that send the same double the work.
#: It writes most of them within milliseconds; if it was killed or could not, any drainer does it after this time.
LEAVE_MS = 3000
#: Maximum pause while MongoDB is unavailable, and so the delay after its return.
MAX_DRAIN_PAUSE_S = 15.0
ANNOUNCE_EVERY_S = 5.0
_MAX_LEDGER_PAUSE_S = 2.0
#: Short, because messages accepted before the first check after an outage make the size of a loss less exact.
MAX_WATCH_PAUSE_S = 0.5
#: Time for all running steps to end, together.
STOP_S = 1.0


class Loop:
    """A thread that repeats a step and survives its errors.

    ``step`` returns the seconds until the next one. An unavailable store is logged once, not for each step.
    """

    def __init__(self, name: str, step: Callable[[], float], *, max_pause_s: float) -> None:
        self._turns = Turns(
            step, OutageLog(log, "store_away", "store_back", part=name), broken="upkeep_broken",
            max_pause_s=max_pause_s,
        )  # fmt: skip
        self._wake = threading.Event()
        self._stopping = False
        self._thread = Essential(self._run, name, may_end=lambda: self._stopping)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Run the next step now, unless a store is unavailable."""
        if not self._turns.outage.why:
            self._wake.set()

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    def join(self, timeout_s: float) -> bool:
        """Whether the last step ended in time and found its stores available."""
        self._thread.join(timeout_s)
        return not (self._turns.outage.why or self._thread.is_alive())

    def _run(self) -> None:
        while not self._stopping:
            wait = self._turns.turn()
            if wait > 0:
                self._wake.wait(wait)
            self._wake.clear()


class Upkeep:
    """Mover, drainer and presence of one process."""

    def __init__(
        self, ledger: Ledger, *, name: str, role: str, details: Callable[[], Mapping[str, object]],
        record_outcomes: Recorder = draining.record_outcomes, leave_ms: int = 0,
        keep_marks: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """``leave_ms``: leave younger outcomes to the processes in which the messages ended.

        ``keep_marks``: ``store_losses.mark_keeper``, for a process that keeps the ledger's marks in MongoDB.
        """
        self._ledger = ledger
        self._name = name
        self._role = role
        self._details = details
        self._recorder = record_outcomes
        self._leave_ms = leave_ms
        #: The next step sends younger outcomes, too: no process has them in memory.
        self._leaves_none = False
        self._started_at_ms = 0
        self._drain_limit = BATCH
        self._expire_at = 0.0
        self._mover = Loop("mover", self._move, max_pause_s=_MAX_LEDGER_PAUSE_S)
        self._drainer = Loop("drainer", self._drain, max_pause_s=MAX_DRAIN_PAUSE_S)
        self._presence = Loop("presence", self._announce, max_pause_s=ANNOUNCE_EVERY_S)
        self._loss_detector = LossDetector(marks())
        self._keep_marks = keep_marks
        self._watcher = Loop("witness", self._watch, max_pause_s=MAX_WATCH_PAUSE_S)
        self._loops = (self._mover, self._drainer, self._presence, self._watcher)

    def start(self) -> None:
        for loop in self._loops:
            loop.start()
        measuring.begin()

    def outbox_filled(self) -> None:
        """Drain now, also outcomes that were added just now: no process has them in memory."""
        self._leaves_none = True
        self._drainer.wake()

    def stop(self) -> None:
        """Stop after the running steps. Other processes do what is left."""
        for loop in self._loops:
            loop.stop()
        until = time.monotonic() + STOP_S
        answered = {loop: loop.join(max(0.0, until - time.monotonic())) for loop in self._loops}
        try:
            # With an unavailable store this would take seconds and fail.
            if not answered[self._presence]:
                raise StoreUnavailable
            presence.withdraw(self._name)
            measuring.end()
        except StoreUnavailable:
            log.info("presence_left", extra={"why": "the store does not answer; the entry expires"})

    def _move(self) -> float:
        due = self._ledger.due(BATCH)
        if due.recovered or due.given_up or due.woken_again:
            log.warning(
                "messages_recovered",
                extra={"recovered": due.recovered, "given_up": due.given_up, "woken_again": due.woken_again},
            )
        if due.given_up:
            self.outbox_filled()
        if self._expire() or due.moved >= BATCH:
            return 0.0
        until_next = MOVE_EVERY_S if due.next_ms is None else (due.next_ms - due.now_ms) / 1000
        return min(max(until_next, 0.002), MOVE_EVERY_S)

    def _expire(self) -> bool:
        """Delete some payloads that are due; return whether more may be."""
        now = time.monotonic()
        if now < self._expire_at:
            return False
        if self._ledger.expire_payloads(EXPIRED) >= EXPIRED:
            return True
        self._expire_at = now + EXPIRE_EVERY_S
        return False

    def _drain(self) -> float:
        leave_ms = 0 if self._leaves_none else self._leave_ms
        self._leaves_none = False
        drained = drain(self._ledger, self._recorder, self._drain_limit, leave_ms=leave_ms)
        self._drain_limit = MAX_DRAIN if drained >= self._drain_limit else BATCH
        # Fewer than requested does not mean that none are left: large ones are read a few at a time.
        return 0.0 if drained else DRAIN_EVERY_S

    def _watch(self) -> float:
        wait = self._loss_detector.check()
        if self._keep_marks is not None:
            self._keep_marks()
        return wait

    def _announce(self) -> float:
        if is_stuck():
            # Not announced, so that health and doctor report it.
            return ANNOUNCE_EVERY_S
        if not self._started_at_ms:
            self._started_at_ms = self._ledger.now_ms()
        presence.announce(self._name, self._role, started_at_ms=self._started_at_ms, details=self._details())
        series().sample()
        return ANNOUNCE_EVERY_S
