"""The threads that run handlers, their backlog, and the watch over deadlines.

Independent of Redis: ``add`` takes claimed messages, ``outcomes`` holds their outcomes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue

from messages_app.domain.records import Outcome
from messages_app.work.runner import Attempt, Runner
from processes.essential import Essential

log = logging.getLogger(__name__)

#: Seconds for an interrupted handler to end before its thread is abandoned.
GRACE_S = 2.0
#: Interval of the check of deadlines: the maximum by which an attempt exceeds its limit.
WATCH_S = 0.05

_monotonic = time.monotonic


class Slot:
    """A thread of the pool with its counts. Only that thread writes them."""

    __slots__ = ("broken", "busy_s", "current", "ended", "is_left", "thread")

    def __init__(self) -> None:
        #: The running attempt.
        self.current: Attempt | None = None
        #: Number and total duration of ended attempts.
        self.ended = 0
        self.busy_s = 0.0
        #: Ended attempts without an outcome.
        self.broken = 0
        #: Whether the thread ends because the watch reported its attempt.
        self.is_left = False
        self.thread: threading.Thread | None = None


class Pool:
    """``size`` threads with one backlog.

    The backlog is a deque, whose ends are safe to use from any thread; sleeping threads wait for tokens. A batch puts
    one, and a thread that a token wakes puts the next while messages are left. So a running thread takes messages
    without a lock, and short ones do not wake threads that would find nothing.
    """

    def __init__(self, size: int, runner: Runner) -> None:
        self.size = size
        self.runner = runner
        self.outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self.backlog: deque[Attempt] = deque()
        #: Gets an entry when the backlog falls to ``low_water``: the claimer should claim more.
        self.demand: SimpleQueue[None] = SimpleQueue()
        self.low_water = 0
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._slots: list[Slot] = []
        self._lost: list[Slot] = []
        self._added = 0
        self._taken_back = 0
        self._taking_back = threading.Lock()
        self._closing = threading.Event()

    def start(self) -> None:
        for _ in range(self.size):
            self._add_slot()
        Essential(self._watch, "watch", may_end=self._closing.is_set).start()

    def add(self, attempts: Sequence[Attempt]) -> None:
        """Add claimed messages to the backlog. Only one thread may call this."""
        self._added += len(attempts)
        self.backlog.extend(attempts)
        self._wake_one()

    def _wake_one(self) -> None:
        """Wake a sleeping thread, unless one is woken already: that one wakes the next."""
        if self._tokens.empty():
            self._tokens.put(True)

    def take_unstarted(self, older_than: float = float("inf")) -> list[Attempt]:
        """Remove and return unstarted attempts that were claimed before ``older_than`` (monotonic)."""
        taken: list[Attempt] = []
        with self._taking_back:
            while self.backlog:
                try:
                    attempt = self.backlog.popleft()
                except IndexError:
                    break
                if attempt.taken_at >= older_than:
                    self.backlog.appendleft(attempt)
                    self._wake_one()  # a thread that woke meanwhile may have found nothing
                    break
                taken.append(attempt)
            self._taken_back += len(taken)
        return taken

    def running(self) -> list[Attempt]:
        return [attempt for slot in tuple(self._slots) if (attempt := slot.current) is not None]

    def busy(self) -> int:
        """Number of busy threads."""
        return sum(slot.current is not None for slot in self._slots)

    def abandoned(self) -> int:
        """Number of abandoned threads that are still in their handler."""
        return sum(slot.thread is not None and slot.thread.is_alive() for slot in tuple(self._lost))

    def totals(self) -> tuple[int, float]:
        """Number of attempts ended since the start, and their total duration in seconds."""
        slots = (*self._slots, *self._lost)
        return sum(slot.ended for slot in slots), sum(slot.busy_s for slot in slots)

    def held(self) -> int:
        """Number of added messages that have neither ended nor been removed. 0: every outcome is in ``outcomes``."""
        return self._added - self._taken_back - self.totals()[0]

    def broken(self) -> int:
        """Number of attempts that ended without an outcome. Their messages are requeued when their leases end."""
        return sum(slot.broken for slot in (*self._slots, *self._lost))

    def interrupt_all(self, why: str) -> None:
        """Interrupt running attempts and requeue their messages. Later results of the handlers are dropped."""
        for attempt in self.running():
            if attempt.interrupt(why) and attempt.take_report():
                self.outcomes.put(self.runner.hand_back(attempt, why))

    def close(self) -> None:
        """End the threads once the backlog is empty. Threads in a handler end with the process."""
        self._closing.set()
        for _ in range(self.size):
            self._tokens.put(False)

    def _add_slot(self) -> None:
        slot = Slot()
        self._slots.append(slot)
        slot.thread = Essential(self._work, "handler", (slot,), may_end=lambda: slot.is_left or self._closing.is_set())
        slot.thread.start()

    def _work(self, slot: Slot) -> None:
        backlog, demand, outcomes, run = self.backlog, self.demand, self.outcomes, self.runner.run
        woken = False
        while True:
            try:
                attempt = backlog.popleft()
            except IndexError:
                if demand.empty():
                    demand.put(None)
                if not self._tokens.get():
                    return
                woken = True
                continue
            if woken:
                woken = False
                if backlog:
                    self._wake_one()
            if len(backlog) <= self.low_water and demand.empty():
                demand.put(None)
            begun = _monotonic()
            slot.current = attempt
            try:
                outcome = run(attempt)
            except BaseException:
                # Handlers cannot cause this: it is an error of ours. The message is requeued when its lease ends.
                # The thread continues in any case: nothing would replace it.
                log.exception("attempt_broken", extra=_whose(attempt))
                slot.broken += 1
            else:
                if outcome is None:
                    slot.is_left = True
                    return  # the watch reported the attempt and replaced this thread, or the process ends
                outcomes.put(outcome)
            slot.current = None
            slot.busy_s += _monotonic() - begun
            slot.ended += 1

    def _watch(self) -> None:
        """Interrupt attempts at their deadline, and abandon threads that do not return."""
        while not self._closing.wait(WATCH_S):
            now = _monotonic()
            for slot in tuple(self._slots):
                attempt = slot.current
                if attempt is None or now < attempt.deadline:
                    continue
                if attempt.interrupt("timeout"):
                    log.warning("attempt_interrupted", extra=_whose(attempt))
                elif now >= attempt.deadline + GRACE_S and attempt.take_report():
                    self._abandon(slot, attempt)

    def _abandon(self, slot: Slot, attempt: Attempt) -> None:
        """Report the attempt as timed out and replace its thread."""
        self.outcomes.put(self.runner.time_out(attempt))
        slot.ended += 1
        self._lost.append(slot)
        self._slots.remove(slot)
        self._add_slot()
        log.error("thread_abandoned", extra={**_whose(attempt), "abandoned": self.abandoned()})


def _whose(attempt: Attempt) -> dict[str, object]:
    return {"message_id": attempt.claimed.message_id, "attempt": attempt.number}


def drain(queue: SimpleQueue[None]) -> None:
    """Empty a queue of signals."""
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return
