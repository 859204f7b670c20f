"""Recording outcomes in the ledger, many at once. None is dropped while the ledger is unavailable."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from queue import Empty

from messages_app.attempt import report
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Completed, Deferred, Failed, Outcome, OutcomeAnswer, Verdict
from messages_app.failures import UNKNOWN_ERROR, ErrorKind, Failure, clip
from messages_app.store.ledger import Ledger
from messages_app.work.call_reports import BreakerReporter
from messages_app.work.ended import Ended
from messages_app.work.letter_writer import LetterWriter
from messages_app.work.pool import Pool
from processes.essential import Essential
from processes.turns import OutageLog

log = logging.getLogger(__name__)

#: Maximum wait of an outcome for others. A kill loses waiting outcomes, and those messages run again.
WINDOW_S = 0.005
#: Number of outcomes that are sent without waiting for more.
MIN_BATCH = 50
#: Maximum number of outcomes per flush.
MAX_BATCH = 250
_STEP_S = 0.001
_IDS_SHOWN = 20
_MAX_PAUSE_S = 2.0
#: Seconds to send the last reports to the breakers after the last flush.
_REPORT_TIMEOUT_S = 0.3

_UNWRITTEN = "The attempt failed, and what was known of it could not be written: "
#: The time of a failure as ``report.last_error`` writes it. Quotes in texts are escaped.
_AT = re.compile(r'"at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z)","systemState"')
_NOTE = '{"note":"The result could not be written and was not kept."}'
#: The longest wait that a policy computes.
_MAX_WAIT_MS = 86_400_000


def reduced(outcome: Outcome, why: str) -> Outcome:
    """Reduce an outcome to what can always be written: the same move, with a plain text instead of its content.

    A reduced outcome is returned as it is. ``why`` becomes part of a failure.
    """
    match outcome:
        case Completed():
            return replace(outcome, result=_NOTE, attempt_json="", ran="", call_report=None)
        case Failed():
            if not outcome.attempt_json and _UNWRITTEN in outcome.error:
                return outcome
            failure = Failure(UNKNOWN_ERROR, ErrorKind.UNKNOWN, _UNWRITTEN + clip(why, 300))
            # The original time, by Redis' clock; by this host's clock only if that is unreadable.
            at = _AT.search(outcome.error or "")
            at_ms = round(datetime.fromisoformat(at[1]).timestamp() * 1000) if at else int(time.time() * 1000)
            error = report.last_error(failure, at_ms, "", "{}")
            return replace(outcome, delay_ms=_wait(outcome.delay_ms), error=error, attempt_json="", call_report=None)
        case Deferred():
            return replace(outcome, delay_ms=_wait(outcome.delay_ms) or 0, attempt_json="", call_report=None)


def _wait(delay_ms: int | None) -> int | None:
    """A valid wait as it is, else a second: too early is better than never."""
    if delay_ms is None or (type(delay_ms) is int and 0 <= delay_ms <= _MAX_WAIT_MS):
        return delay_ms
    return 1000


class Flusher:
    """The thread that sends outcomes to the ledger, then their reports to the breakers.

    In this order a kill in between loses reports, which is harmless. In the other order those calls would have been
    counted already, and their messages would run and be counted again. Only a probe's report goes first: there are few,
    each has its own permit, and the state of the breaker depends on it.
    """

    def __init__(self, ledger: Ledger, pool: Pool, letters: LetterWriter | None = None) -> None:
        """``letters`` gets the messages that need a letter, once the outbox has them."""
        self._ledger = ledger
        self._pool = pool
        self._letters = letters
        self._reporter = BreakerReporter()
        self._finishing = False
        self._thread = Essential(self._run, "flush", may_end=lambda: self._finishing)
        #: Outcomes that the ledger has answered, by kind.
        self.completed = 0
        self.failed = 0
        self.deferred = 0
        #: Outcomes that were too late: another process runs or ran the message.
        self.stale = 0
        self._outage = OutageLog(log, "ledger_away", "ledger_back")

    @property
    def flushed(self) -> int:
        return self.completed + self.failed + self.deferred

    def start(self) -> None:
        self._reporter.start()
        self._thread.start()

    def finish(self, timeout_s: float) -> bool:
        """Send all outcomes. Returns False when the ledger did not answer in time."""
        self._finishing = True
        self._pool.outcomes.put(None)
        self._thread.join(timeout_s)
        self._reporter.finish(_REPORT_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last = False
        while not last:
            batch, last = self._gather()
            if batch:
                self._report_calls(batch, probes=True)
                self._send(batch)

    def _gather(self) -> tuple[list[Outcome], bool]:
        """The next batch of outcomes, and whether it is the last."""
        outcomes = self._pool.outcomes
        first = outcomes.get()
        if first is None:
            return [], True
        batch = [first]
        until = time.monotonic() + WINDOW_S
        while outcomes.qsize() < MIN_BATCH - 1 and self._pool.held() and time.monotonic() < until:
            time.sleep(_STEP_S)
        while len(batch) < MAX_BATCH:
            try:
                outcome = outcomes.get_nowait()
            except Empty:
                break
            if outcome is None:
                return batch, True
            batch.append(outcome)
        return batch, False

    def _send(self, batch: Sequence[Outcome], told: bool = False) -> None:
        """Repeat until the ledger answers: it knows a repeated outcome by its fence. ``told``: the breakers know."""
        pause = 0.05
        while True:
            sent_at = time.monotonic()
            try:
                answers = self._ledger.flush_for_letters(batch)
            except StoreUnavailable as error:
                self._outage.failed(error, outcomes_waiting=len(batch))
                if not told:
                    # Not kept until the ledger is back: a sample counts from when it is told, and would then speak of
                    # the past as if it were now.
                    self._report_calls(batch, probes=False)
                    told = True
                time.sleep(pause)
                pause = min(pause * 2, _MAX_PAUSE_S)
            except Exception as error:
                # One outcome that cannot be sent must not block the others or this thread.
                self._send_each(batch, told, error)
                return
            else:
                break
        self._outage.succeeded()
        if not told:
            self._report_calls(batch, probes=False)
        self._count(batch, answers)
        self._pass_on(batch, answers, sent_at)
        for outcome, answer in zip(batch, answers, strict=True):
            if answer.verdict is Verdict.REFUSED:
                self._send_reduced(outcome, "the ledger cannot write it")

    def _report_calls(self, batch: Sequence[Outcome], *, probes: bool) -> None:
        reports = [outcome.call_report for outcome in batch if outcome.call_report is not None]
        self._reporter.add([report for report in reports if report.is_of_probe is probes])

    def _send_each(self, batch: Sequence[Outcome], told: bool, error: Exception) -> None:
        if len(batch) == 1:
            if not told:
                self._report_calls(batch, probes=False)
            self._send_reduced(batch[0], f"{type(error).__name__}: {error}")
            return
        for outcome in batch:
            self._send([outcome], told)

    def _send_reduced(self, outcome: Outcome, why: str) -> None:
        """Reduce and send an outcome that cannot be written as it is."""
        less = reduced(outcome, why)
        if less == outcome:
            log.error("outcome_refused", extra={"message_id": outcome.message_id, "why": why})
            self.deferred += 1  # drop it; the message is requeued when its lease ends
            return
        log.error("outcome_reduced", extra={"message_id": outcome.message_id, "why": why})
        self._send([less], told=True)

    def _pass_on(self, batch: Sequence[Outcome], answers: Sequence[OutcomeAnswer], sent_at: float) -> None:
        if self._letters is None:
            return
        ended = [
            Ended(outcome.claimed, outcome, answer, sent_at)
            for outcome, answer in zip(batch, answers, strict=True)
            if answer.verdict is Verdict.TO_OUTBOX and not isinstance(outcome, Deferred) and outcome.claimed is not None
        ]
        if ended:
            self._letters.add(ended)

    def _count(self, batch: Sequence[Outcome], answers: Sequence[OutcomeAnswer]) -> None:
        given_up: list[str] = []
        for outcome, (verdict, *_) in zip(batch, answers, strict=True):
            if verdict is Verdict.REFUSED:
                continue  # it is sent again, reduced
            if isinstance(outcome, Completed):
                self.completed += 1
            elif isinstance(outcome, Failed):
                self.failed += 1
                if verdict is Verdict.TO_OUTBOX:
                    given_up.append(outcome.message_id)
            elif isinstance(outcome, Deferred):
                self.deferred += 1
            if verdict is Verdict.STALE:
                self.stale += 1
                log.warning("stale_outcome", extra={"message_id": outcome.message_id})
        if given_up:
            # One line for all: there may be thousands a second, and each has its letter.
            log.info("messages_given_up", extra={"count": len(given_up), "message_ids": given_up[:_IDS_SHOWN]})
