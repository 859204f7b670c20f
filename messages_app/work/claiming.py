"""Claiming messages: one for each free thread, and a few ahead when they are short."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from queue import Empty

from messages_app.store.ledger import Ledger
from messages_app.work.flushing import Flusher
from messages_app.work.letter_writer import LetterWriter
from messages_app.work.pool import Pool, drain
from messages_app.work.runner import Attempt
from processes.essential import Essential
from processes.turns import OutageLog, Turns

log = logging.getLogger(__name__)

#: Messages are claimed ahead for this long, at the rate of the last second.
AHEAD_S = 0.2
#: Maximum number claimed ahead. 0 when a message takes longer than ``SLOW_S``: it would wait too long for a thread.
MAX_AHEAD = 100
SLOW_S = 0.1
#: A claimed message that no thread starts within this time is requeued.
UNSTARTED_S = 1.0
#: A message that must run alone waits this long for an idle process; then this one stops claiming to become idle.
ALONE_PATIENCE_S = 1.0
#: Above this rate, wait for more messages before a claim, so that each claim gets several.
LINGER_RATE = 100.0
LINGER_S = 0.003
#: Maximum outcomes that wait for the ledger; above it claiming stops.
MAX_UNFLUSHED = 1000
_MAX_PAUSE_S = 2.0
#: Redis remembers the token of a claim for a minute. Repeated later, it would be a new claim.
ANSWER_KEPT_S = 55.0


class Pace:
    """The rate at which messages ended in the last second, and the number to claim ahead."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._at = time.monotonic()
        self._ended, self._busy_s = 0, 0.0
        #: Messages per second.
        self.rate = 0.0
        self.ahead = 0

    def measure(self, now: float) -> None:
        """Measure the rate, once a second."""
        span = now - self._at
        if span < (1.0 if self.rate else 0.1):
            return
        ended, busy_s = self._pool.totals()
        count = ended - self._ended
        self.rate = count / span
        each_s = (busy_s - self._busy_s) / count if count else SLOW_S
        self.ahead = min(MAX_AHEAD, int(self.rate * AHEAD_S)) if each_s < SLOW_S else 0
        self._at, self._ended, self._busy_s = now, ended, busy_s


class Claimer:
    """The thread that claims messages for the pool."""

    def __init__(
        self, ledger: Ledger, pool: Pool, flusher: Flusher, owner: str, letters: LetterWriter | None = None
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._flusher = flusher
        self._owner = owner
        self._letters = letters
        self.pace = Pace(pool)
        self._claimed = 0
        #: Whether the last claim found the queues empty.
        self.saw_empty = False
        self._alone_since: float | None = None
        #: Whether a message runs alone, until its outcome is recorded.
        self._alone = False
        self._stopping = threading.Event()
        self._resumed = threading.Event()
        self._resumed.set()
        #: The claim without an answer so far, and when it was first sent.
        self._token = ""
        self._token_at = 0.0
        self._thread = Essential(self._run, "claim", may_end=self._stopping.is_set)

    def start(self) -> None:
        self._thread.start()

    def pause(self) -> None:
        self._resumed.clear()

    def resume(self) -> None:
        self._resumed.set()

    def stop(self) -> None:
        """Stop claiming. Messages of a claim in progress are in the backlog once ``join`` returns."""
        self._stopping.set()
        self._resumed.set()
        self._pool.demand.put(None)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def holding(self) -> int:
        """Number of claimed messages whose outcome is not recorded in the ledger yet."""
        return self._claimed - self._flusher.flushed - self._pool.broken()

    def _run(self) -> None:
        outage = OutageLog(log, "ledger_away", "ledger_back")
        # Log errors and go on: a worker must not stop claiming silently.
        turns = Turns(self._turn, outage, broken="claim_broken", min_pause_s=0.05, max_pause_s=_MAX_PAUSE_S)
        while not self._stopping.is_set():
            self._resumed.wait()
            if pause_s := turns.turn():
                self._stopping.wait(pause_s)

    def _turn(self) -> float:
        """Claim once, or wait until claiming is possible."""
        now = time.monotonic()
        self.pace.measure(now)
        pool = self._pool
        pool.low_water = self.pace.ahead // 2
        room = pool.size + self.pace.ahead - pool.held()
        holding = self.holding()
        if self._must_wait_for_alone(now, holding) or (self._letters is not None and self._letters.is_behind()):
            time.sleep(0.01)
        elif room < 1 or len(pool.backlog) > pool.low_water or holding - pool.held() > MAX_UNFLUSHED:
            self._wait_for_demand()
        else:
            self._claim(now, room, holding)
        return 0.0

    def _claim(self, now: float, room: int, holding: int) -> None:
        if not self._token or now - self._token_at > ANSWER_KEPT_S:
            self._token, self._token_at = uuid.uuid4().hex, now
        claim = self._ledger.claim(token=self._token, limit=room, owner=self._owner, holding=holding)
        sent_at, self._token = self._token_at, ""
        records = claim.records
        self.saw_empty = claim.lanes_empty and not claim.alone_waiting and not records
        self._alone = any(record.alone for record in records)
        if claim.alone_waiting and not self._alone:
            self._alone_since = self._alone_since or now
        else:
            self._alone_since = None
        if records:
            self._claimed += len(records)
            drain(self._pool.demand)
            # Leases count from the first time the claim was sent: that one may have been carried out.
            self._pool.add([Attempt(record, sent_at) for record in records])
        if self._stopping.is_set() or not claim.lanes_empty:
            return
        if self._alone_since is not None:
            time.sleep(0.01)
            return
        self._ledger.wait_for_work(1.0)
        if self.pace.rate > LINGER_RATE:
            time.sleep(LINGER_S)

    def _must_wait_for_alone(self, now: float, holding: int) -> bool:
        """Whether to wait: for this process to become idle, or for a message that runs alone to end."""
        if self._alone:
            return holding > 0
        return self._alone_since is not None and now - self._alone_since > ALONE_PATIENCE_S and holding > 0

    def _wait_for_demand(self) -> None:
        try:
            self._pool.demand.get(timeout=0.25)
        except Empty:
            return
