"""Writes the letters of messages that ended in this process, from memory.

A drainer would have to read them from the ledger first. The outbox holds each until MongoDB has acknowledged it, so
dropping one here only costs time: after ``upkeep.LEAVE_MS`` any drainer sends it. It is dropped when the process ends,
when too many wait, when it has waited too long, and when MongoDB is unavailable.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence

from dlq_app.domain.letter import Death, Settled
from messages_app.store.ledger import Ledger
from messages_app.work import draining
from messages_app.work.draining import Recorder
from messages_app.work.ended import Ended
from processes.essential import Essential
from wire.errors import StoreUnavailable

log = logging.getLogger(__name__)

#: Letters per command, and bytes of their texts: a large command delays others and times out.
BATCH, BATCH_BYTES = 200, 4 * 1024 * 1024
#: Maximum number of waiting messages, and bytes of their texts.
MAX_WAITING, MAX_BYTES = 1000, 16 * 1024 * 1024
#: With more waiting, the process is behind: it claims no messages, which would take the time that letters need.
FULL = 400
#: A command that takes longer waits for MongoDB rather than for this process: then no message is held up for it.
PATIENCE_S = 1.0
#: Seconds after which a message is left to the drainers, before they take it.
KEEP_S = 2.0
#: Limits of the pause after an error. Until it is over, all messages are left to the drainers.
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.25, 5.0


class LetterWriter:
    """A thread that writes letters. ``add`` does not wait for MongoDB, and can be called from any thread."""

    def __init__(self, ledger: Ledger, recorder: Recorder = draining.record_outcomes) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._changed = threading.Condition()
        self._waiting: deque[Ended] = deque()
        self._bytes = 0
        #: When the running command began; 0 while there is none.
        self._began_at = 0.0
        #: After an error, until a command succeeds: the pause after it, and its end.
        self._pause_s = 0.0
        self._resumes_at = 0.0
        self._finishing = False
        self._thread = Essential(self._run, "letters", may_end=lambda: self._finishing)
        #: Number of letters written from memory, and of those left to the drainers.
        self.written = 0
        self.left = 0

    def start(self) -> None:
        self._thread.start()

    def add(self, ended: Sequence[Ended]) -> None:
        """Write the letters of these messages soon, or leave them to the drainers."""
        with self._changed:
            for one in ended:
                size = one.size
                if (
                    not one.is_known
                    or len(self._waiting) >= MAX_WAITING
                    or self._bytes + size > MAX_BYTES
                    or time.monotonic() < self._resumes_at
                ):
                    self.left += 1
                else:
                    self._waiting.append(one)
                    self._bytes += size
            self._changed.notify()

    def is_behind(self) -> bool:
        """Whether too many messages wait for this thread; never because MongoDB is slow or unavailable."""
        if len(self._waiting) <= FULL or self._pause_s:
            return False
        began_at = self._began_at
        return not began_at or time.monotonic() - began_at < PATIENCE_S

    def finish(self, timeout_s: float) -> bool:
        """Write what waits. Returns False when MongoDB did not answer in time: drainers write the rest."""
        with self._changed:
            self._finishing = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while batch := self._next():
            self._began_at = time.monotonic()
            try:
                self._write(batch)
            except StoreUnavailable:
                # Not logged: the drainer of this process meets the same store, and logs the end of the outage, too.
                self._give_way(len(batch))
            except Exception:
                log.exception("letters_broken", extra={"count": len(batch)})
                self._give_way(len(batch))
            else:
                self._pause_s = 0.0
                self.written += len(batch)
            self._began_at = 0.0

    def _next(self) -> list[Ended]:
        """The next messages; empty when there will be no more."""
        with self._changed:
            while True:
                batch: list[Ended] = []
                size = 0
                too_old = time.monotonic() - KEEP_S
                while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
                    one = self._waiting.popleft()
                    self._bytes -= one.size
                    if one.sent_at < too_old:
                        self.left += 1
                    else:
                        batch.append(one)
                        size += one.size
                if batch or self._finishing:
                    return batch
                self._changed.wait()

    def _write(self, batch: Sequence[Ended]) -> None:
        deaths: list[Death] = []
        settles: list[Settled] = []
        for one in batch:
            try:
                outcome = one.outcome_of()
            except Exception:
                self.left += 1  # a drainer will quarantine it
                continue
            if isinstance(outcome, Death):
                deaths.append(outcome)
            else:
                settles.append(outcome)
        draining.record(self._ledger, self._recorder, deaths, settles)

    def _give_way(self, count: int) -> None:
        """Leave all that waits to the drainers, which wait for MongoDB without using memory."""
        with self._changed:
            self._pause_s = min(max(2 * self._pause_s, _MIN_PAUSE_S), _MAX_PAUSE_S)
            self._resumes_at = time.monotonic() + self._pause_s
            self.left += count + len(self._waiting)
            self._waiting.clear()
            self._bytes = 0
