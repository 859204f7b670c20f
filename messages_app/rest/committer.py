"""Accepts submissions in groups: all that have arrived while the last group was on its way to Redis.

For a web server with an event loop. The loop prepares submissions and sends replies; a thread waits for Redis, so the
loop never does. One group is on its way at any time: with many clients groups grow, and a message costs less.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final

from messages_app.domain.errors import IntakeBusy, NotConfirmed, StoreUnavailable
from messages_app.rest.intake import Pending, conclude, fail
from processes.essential import Essential
from processes.measured import measured

log = logging.getLogger(__name__)

#: Submissions in one group, and the size of their payloads, unless one alone is larger.
MAX_GROUP: Final = 250
MAX_GROUP_BYTES: Final = 1024 * 1024
#: Submissions that wait for the next groups, and the size of their payloads. Beyond it, new ones are refused.
MAX_WAITING: Final = 1000
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
#: Seconds after which nothing waits for a group any longer. Requests to Redis end sooner, by their timeouts.
STUCK_S: Final = 15.0
#: Names of the measurements.
GROUPS: Final = "intake_groups"
GROUPED: Final = "intake_grouped"
BUSY: Final = "intake_busy"
_REPORT_S = 60.0

Then = Callable[[Pending], None]
_Waiting = tuple[Pending, Then, int]


class Committer:
    """The groups of one process. Only the event loop may call it."""

    def __init__(self, post: Callable[..., None]) -> None:
        """``post(function, *arguments)``: calls the function in the event loop, soon. Called by a thread."""
        self._post = post
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0
        self._on_the_way: list[_Waiting] | None = None
        #: The thread has a group, even if nothing waits for it any longer.
        self._is_busy = False
        self._since = self._reported = 0.0
        self._refused = 0
        self._is_stopping = False
        self._groups: SimpleQueue[Sequence[Pending] | None] = SimpleQueue()
        self._thread = Essential(self._run, "committer", may_end=lambda: self._is_stopping)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the group on its way."""
        self._is_stopping = True
        self._groups.put(None)

    def add(self, pending: Pending, then: Then) -> None:
        """Accept a submission with the next group, and call ``then`` afterwards, never before this method returns.

        It has its reply then, or none after an unexpected error. It is refused while too many wait.
        """
        size = len(pending.acceptance.body) if pending.acceptance else 0
        if len(self._waiting) >= MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES or self._is_stuck():
            self._refused += 1
            measured.count(BUSY)
            fail(pending, IntakeBusy("Too many messages wait for Redis at once."))
            self._post(then, pending)
            return
        self._waiting.append((pending, then, size))
        self._bytes += size

    def turn(self) -> None:
        """Send what waits, unless a group is on its way. For every turn of the event loop, after its events."""
        if not self._waiting or self._is_busy:
            return
        group: list[_Waiting] = []
        size = 0
        while self._waiting and len(group) < MAX_GROUP and (not group or size + self._waiting[0][2] <= MAX_GROUP_BYTES):
            group.append(self._waiting.popleft())
            size += group[-1][2]
        self._bytes -= size
        self._on_the_way, self._is_busy, self._since = group, True, time.monotonic()
        measured.count(GROUPS)
        measured.count(GROUPED, by=len(group))
        self._groups.put([pending for pending, _, _ in group])

    def check(self) -> None:
        """Give up a group without an answer. Call it about every second."""
        if self._on_the_way is not None and self._is_stuck():
            log.error("committer_stuck", extra={"messages": len(self._on_the_way)})
            self._refuse_all(self._on_the_way, StoreUnavailable("Redis does not answer."))
            self._on_the_way = None
            self._refuse_waiting(StoreUnavailable("Redis does not answer."))
        if self._refused and time.monotonic() >= self._reported + _REPORT_S:
            log.warning("intake_busy", extra={"refused": self._refused, "waiting": len(self._waiting)})
            self._reported, self._refused = time.monotonic(), 0

    def _is_stuck(self) -> bool:
        return self._is_busy and time.monotonic() > self._since + STUCK_S

    def _run(self) -> None:
        while (group := self._groups.get()) is not None:
            self._post(self._finished, _conclude(group))

    def _finished(self, outage: StoreUnavailable | None) -> None:
        group, self._on_the_way, self._is_busy = self._on_the_way, None, False
        if outage is not None and not isinstance(outage, NotConfirmed):
            # They would each wait for the same timeout again, one group after the other.
            self._refuse_waiting(outage)
        self.turn()  # the thread works while the replies are sent
        for pending, then, _ in group or ():
            then(pending)

    def _refuse_waiting(self, error: StoreUnavailable) -> None:
        waiting, self._waiting, self._bytes = self._waiting, deque(), 0
        self._refuse_all(waiting, error)

    @staticmethod
    def _refuse_all(waiting: Sequence[_Waiting] | deque[_Waiting], error: StoreUnavailable) -> None:
        for pending, then, _ in waiting:
            fail(pending, error)
            then(pending)


def _conclude(group: Sequence[Pending]) -> StoreUnavailable | None:
    """``conclude`` that never raises: one at a time after an unexpected error, so that it fails one submission.

    That one keeps no reply.
    """
    try:
        return conclude(group)
    except Exception:
        if len(group) == 1:
            log.exception("submission_failed")
            return None
    outage = None
    for pending in group:
        if pending.reply is not None:
            continue
        if outage is None:
            outage = _conclude([pending])
        else:
            fail(pending, outage)
    return outage
