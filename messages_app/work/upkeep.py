"""Upkeep of the ledger, in every worker process, so that one living process is enough.

Four threads: the first moves due retries, due schedules and lost runs; the second sends outcomes to the dead-letter
queue; the third announces the process and takes samples of the figures; the fourth detects a ledger that lost data.
Each step is atomic in the ledger or repeatable, so any number of processes may run them at the same time.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dlq_app.domain.letter import Death, Recorded, Settled
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import OutboxEntry, Record
from messages_app.failures import UNKNOWN_ERROR, ErrorKind
from messages_app.store import presence
from messages_app.store.ledger import Ledger
from messages_app.store.marks import marks
from messages_app.store.series import series
from messages_app.work import measuring
from messages_app.work.store_losses import LossDetector
from processes import tracing
from processes.essential import Essential
from processes.steps import is_stuck
from processes.turns import OutageLog, Turns
from wire import errors

log = logging.getLogger(__name__)

Recorder = Callable[[Sequence[Death], Sequence[Settled]], list[Recorded]]

BATCH = 100
#: Outcomes sent together while more wait than fit into one batch.
MAX_DRAIN = 200
#: Maximum time between two steps of the mover; shorter when something is due sooner.
MOVE_EVERY_S = 0.1
DRAIN_EVERY_S = 1.0
#: A process that runs no messages leaves younger outcomes to the others: two that send the same ones double the work.
LEAVE_MS = 3000
#: Maximum pause while MongoDB is unavailable, and so the delay after its return.
MAX_DRAIN_PAUSE_S = 15.0
ANNOUNCE_EVERY_S = 5.0
#: Entries read longer ago are read again before they are written: the process may have been suspended in between.
STALE_READ_S = 60.0
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
        record_outcomes: Recorder | None = None, leave_ms: int = 0, keep_marks: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """``leave_ms``: send outcomes only once the oldest has waited this long, so that no other process does.

        ``keep_marks``: ``store_losses.mark_keeper``, for a process that keeps the ledger's marks in MongoDB.
        """
        self._ledger = ledger
        self._name = name
        self._role = role
        self._details = details
        self._recorder = record_outcomes
        self._leave_ms = leave_ms
        self._started_at_ms = 0
        self._drain_limit = BATCH
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
        """Drain now rather than in a second."""
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
        if due.moved >= BATCH:
            return 0.0
        until_next = MOVE_EVERY_S if due.next_ms is None else (due.next_ms - due.now_ms) / 1000
        return min(max(until_next, 0.002), MOVE_EVERY_S)

    def _drain(self) -> float:
        if self._leave_ms and self._others_drain():
            return DRAIN_EVERY_S
        drained = drain(self._ledger, self._record, self._drain_limit)
        self._drain_limit = MAX_DRAIN if drained >= self._drain_limit else BATCH
        # Fewer than requested does not mean that none are left: large ones are read a few at a time.
        return 0.0 if drained else DRAIN_EVERY_S

    def _others_drain(self) -> bool:
        found = self._ledger.figures()
        return found.outbox_oldest_ms is None or found.now_ms - found.outbox_oldest_ms < self._leave_ms

    def _record(self, deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
        if self._recorder is None:
            # Imported with the first outcome: until then a worker needs no driver.
            from dlq_app.services.dead_letters import record_outcomes

            self._recorder = record_outcomes
        return self._recorder(deaths, settles)

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


def drain(ledger: Ledger, record_outcomes: Recorder, limit: int = BATCH) -> int:
    """Send up to ``limit`` outcomes from the ledger's outbox to the dead-letter queue; return their number.

    A kill at any point loses nothing: an outcome leaves the outbox only after MongoDB has acknowledged it, and
    recording it twice has no further effect. Raises the ``StoreUnavailable`` of either store.
    """
    read_at = time.monotonic()
    entries = ledger.outbox(limit)
    if not entries:
        return 0
    if time.monotonic() - read_at > STALE_READ_S:
        return drain(ledger, record_outcomes, limit)
    deaths: list[tuple[OutboxEntry, Death]] = []
    settles: list[tuple[OutboxEntry, Settled]] = []
    for entry in entries:
        try:
            if entry.kind == "death":
                deaths.append((entry, death_of(entry.record)))
            else:
                settles.append((entry, settled_of(entry.record)))
        except Exception as error:
            # One unreadable record must not block the others.
            _quarantine(ledger, entry, f"{type(error).__name__}: {error}")
    ordered = [entry for entry, _ in deaths] + [entry for entry, _ in settles]
    if ordered:
        recorded = _recorded(record_outcomes, [death for _, death in deaths], [settled for _, settled in settles])
        _acknowledge(ledger, zip(ordered, recorded, strict=True))
    return len(entries)


def _recorded(record_outcomes: Recorder, deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
    """Record all together; after an error each alone, so that one does not block the others."""
    try:
        return record_outcomes(deaths, settles)
    except errors.StoreUnavailable:
        raise
    except Exception as error:
        if len(deaths) + len(settles) == 1:
            log.exception("outcome_broken", extra={"message_id": (deaths or settles)[0].message_id})
            return [Recorded(ok=False, why=f"{type(error).__name__}: {error}"[:300])]
    alone = [_recorded(record_outcomes, [death], []) for death in deaths]
    alone += [_recorded(record_outcomes, [], [settled]) for settled in settles]
    return [answer for answers in alone for answer in answers]


def _acknowledge(ledger: Ledger, recorded: Iterable[tuple[OutboxEntry, Recorded]]) -> None:
    done: list[tuple[str, int, str]] = []
    for entry, answer in recorded:
        if answer.ok:
            done.append((entry.record.message_id, entry.record.epoch, entry.kind))
            if tracing.is_on and entry.kind == "death":
                _mark(entry.record)
        else:
            _quarantine(ledger, entry, answer.why)
    ledger.drained(done)


def _mark(record: Record) -> None:
    """Mark in the message's trace that its letter is stored."""
    about = {
        "messaging.destination.name": record.type, "messaging.message.id": record.message_id, "dlq.epoch": record.epoch
    }  # fmt: skip
    tracing.mark(f"dead letter {record.type}", "internal", record.traceparent, about)


def _quarantine(ledger: Ledger, entry: OutboxEntry, why: str) -> None:
    log.error("outcome_quarantined", extra={"message_id": entry.record.message_id, "kind": entry.kind, "why": why})
    ledger.quarantine(entry.record.message_id, entry.record.epoch, why)


def death_of(record: Record) -> Death:
    """The death of a given-up message, for the dead-letter queue. Raises ``ValueError`` for a broken record."""
    error: dict[str, Any] = json.loads(record.last_error) if record.last_error else {}
    return Death(
        message_id=record.message_id,
        epoch=record.epoch,
        type=record.type,
        body=record.body or b"null",
        priority=record.priority,
        source=record.source,
        client=record.client,
        tags=tuple(json.loads(record.tags or "[]")),
        queued_at=_instant(record.queued_at_ms),
        acct_day=record.acct_day,
        error_type=error.get("errorType", UNKNOWN_ERROR),
        error_kind=error.get("errorKind", ErrorKind.UNKNOWN),
        error_reason=error.get("errorReason", ""),
        error_stack=error.get("errorStack", ""),
        system_state=error.get("systemState") or {},
        attempts=_attempts(record),
        retry_count=record.attempt,
        died_at=_instant(record.finished_at_ms or record.queued_at_ms),
        prior_runs=record.prior_runs,
        replay_id=record.replay_id or None,
        batch_id=record.batch_id or None,
        version=record.version,
        traceparent=record.traceparent,
    )


def settled_of(record: Record) -> Settled:
    """The outcome of a successful replay. Raises ``ValueError`` for a broken record."""
    return Settled(
        message_id=record.message_id,
        epoch=record.epoch,
        replay_id=record.replay_id,
        attempts=_attempts(record),
        finished_at=_instant(record.finished_at_ms or record.queued_at_ms),
        result=json.loads(record.result) if record.result else None,
    )


def _attempts(record: Record) -> list[dict[str, Any]]:
    attempts: list[dict[str, Any]] = json.loads(f"[{record.attempts}]")
    return attempts


def _instant(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
