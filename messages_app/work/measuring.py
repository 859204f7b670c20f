"""Adds the measurements of this process to those of all processes: every five seconds, and when it ends.

A killed process loses those of its last seconds. None is added twice: each call has a number, which Redis remembers.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping

from messages_app.domain.errors import StoreUnavailable
from messages_app.store.measurements import Measurements, measurements
from processes.essential import Essential
from processes.measured import Measured, measured
from processes.names import new_name
from processes.once import OncePerProcess
from processes.turns import OutageLog, Turns

log = logging.getLogger(__name__)

EVERY_S = 5.0
#: Maximum pause while Redis is unavailable.
MAX_PAUSE_S = 30.0


class Sender:
    """Sends what a process has counted, from a thread of its own between ``start`` and ``stop``."""

    def __init__(self, source: Measured, store: Callable[[], Measurements]) -> None:
        """``store`` is called for each use, and may raise ``StoreUnavailable``."""
        self._source = source
        self._store = store
        # Not the name of the process: a later one may have the same.
        self._name = new_name()
        self._number = 0
        #: Sent, but without an answer so far. Sent again as it is, since Redis may have it.
        self._unanswered: Mapping[str, int] = {}
        self._sending = threading.Lock()
        self._stopping = threading.Event()
        self._turns = Turns(
            self._turn, OutageLog(log, "store_away", "store_back", part="measurements"),
            broken="measurements_broken", max_pause_s=MAX_PAUSE_S,
        )  # fmt: skip
        self._thread = Essential(self._run, "measurements", may_end=self._stopping.is_set)

    def start(self) -> None:
        self._thread.start()

    def send(self) -> None:
        """Add everything that was counted until now. Raises ``StoreUnavailable``: then it is added by a later call."""
        with self._sending:
            self._add()
            self._unanswered = self._source.take()
            self._number += 1
            self._add()

    def _add(self) -> None:
        if self._unanswered:
            self._store().add(self._name, self._number, self._unanswered)
            self._unanswered = {}

    def stop(self) -> None:
        """Send the rest, unless Redis was unavailable a moment ago. A second call changes nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._turns.outage.why:
            return
        try:
            self.send()
        except StoreUnavailable as error:
            log.warning("measurements_lost", extra={"why": str(error)})

    def _run(self) -> None:
        pause_s = EVERY_S
        while not self._stopping.wait(pause_s):
            pause_s = self._turns.turn()

    def _turn(self) -> float:
        self.send()
        return EVERY_S


@OncePerProcess
def _sender() -> Sender:
    return Sender(measured, measurements)


_started_in = 0
_starting = threading.Lock()


def begin() -> None:
    """Send the measurements of this process from now on. Cheap to call again, from any thread. Never raises."""
    global _started_in
    process = os.getpid()
    if _started_in == process:
        return
    with _starting:
        if _started_in == process:
            return
        if _started_in:
            # A child of a process that counts: what that one has counted is its own to send.
            measured.take()
        try:
            _sender().start()
        except RuntimeError as error:
            # The process ends, or the host has no thread left. No request fails for it; the next one tries again.
            log.warning("measurements_not_sent", extra={"why": str(error)})
            return
        # Not the sender's method: a forked child would send what its parent has counted.
        atexit.register(end)
        _started_in = process


def end() -> None:
    """Send the rest now, if this process has begun."""
    if _started_in == os.getpid():
        _sender().stop()
