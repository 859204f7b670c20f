"""The threads that run handlers, what waits for them, and the watch over their deadlines.

Nothing here knows Redis: claimed messages come in with ``add``, outcomes leave through ``outcomes``.
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

#: Seconds that an interrupted handler has to come to an end before its thread is given up.
GRACE_S = 2.0
#: How often deadlines are looked at: an attempt may overrun its limit by this much.
WATCH_S = 0.05

_monotonic = time.monotonic


class Slot:
    """One thread's place in the pool; its numbers are written by its thread only."""

    __slots__ = ("broken", "busy_s", "current", "ended", "is_left", "thread")

    def __init__(self) -> None:
        #: What is being run right now.
        self.current: Attempt | None = None
        #: Attempts that ended here, and how long they took together.
        self.ended = 0
        self.busy_s = 0.0
        #: Those among them that no outcome tells of.
        self.broken = 0
        #: Its thread ends: the attempt was reported in its stead.
        self.is_left = False
        self.thread: threading.Thread | None = None


class Pool:
    """``size`` threads on one backlog.

    The backlog is a deque, whose ends are safe to use from any thread; sleeping threads wait for tokens. A batch puts
    one token per thread that may be needed, so that a running thread takes message after message without any lock.
    """

    def __init__(self, size: int, runner: Runner) -> None:
        self.size = size
        self.runner = runner
        self.outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self.backlog: deque[Attempt] = deque()
        #: Gets an entry when the backlog falls to ``low_water`` or below: time to claim more.
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
        """Hand claimed messages to the threads. Only one thread may call this."""
        self._added += len(attempts)
        self.backlog.extend(attempts)
        wanted = min(len(attempts), self.size)
        while self._tokens.qsize() < wanted:
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
                    break
                taken.append(attempt)
            self._taken_back += len(taken)
        return taken

    def running(self) -> list[Attempt]:
        """What is being run right now."""
        return [attempt for slot in tuple(self._slots) if (attempt := slot.current) is not None]

    def busy(self) -> int:
        """How many threads run something."""
        return sum(slot.current is not None for slot in self._slots)

    def abandoned(self) -> int:
        """How many threads were given up and still have not come back from their handler."""
        return sum(slot.thread is not None and slot.thread.is_alive() for slot in tuple(self._lost))

    def totals(self) -> tuple[int, float]:
        """Attempts ended since the start, and the seconds that they took together."""
        slots = (*self._slots, *self._lost)
        return sum(slot.ended for slot in slots), sum(slot.busy_s for slot in slots)

    def held(self) -> int:
        """Messages that were added and have neither ended nor been taken back. 0: every outcome is in ``outcomes``."""
        return self._added - self._taken_back - self.totals()[0]

    def broken(self) -> int:
        """Attempts that ended without an outcome: their messages are no longer held, and come back by their leases."""
        return sum(slot.broken for slot in (*self._slots, *self._lost))

    def interrupt_all(self, why: str) -> None:
        """Stop what runs and hand it back; what the handlers still return is dropped."""
        for attempt in self.running():
            if attempt.interrupt(why) and attempt.take_report():
                self.outcomes.put(self.runner.hand_back(attempt, why))

    def close(self) -> None:
        """Let the threads go once the backlog is empty; those inside a handler go with the process."""
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
        while True:
            try:
                attempt = backlog.popleft()
            except IndexError:
                if demand.empty():
                    demand.put(None)
                if not self._tokens.get():
                    return
                continue
            if len(backlog) <= self.low_water and demand.empty():
                demand.put(None)
            begun = _monotonic()
            slot.current = attempt
            try:
                outcome = run(attempt)
            except BaseException:
                # Nothing that a handler does gets here: the mistake is ours. When the lease ends, it comes back. The
                # thread goes on whatever it was: nobody would take its place.
                log.exception("attempt_broken", extra=_whose(attempt))
                slot.broken += 1
            else:
                if outcome is None:
                    slot.is_left = True
                    return  # reported in our stead; somebody else has our slot, or the process is about to end
                outcomes.put(outcome)
            slot.current = None
            slot.busy_s += _monotonic() - begun
            slot.ended += 1

    def _watch(self) -> None:
        """Interrupt attempts at their deadline and give up threads that do not come back."""
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
        """Report in the thread's stead and put a fresh one in its place."""
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
