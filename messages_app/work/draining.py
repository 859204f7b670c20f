"""Sends outcomes to the dead-letter queue, then removes them from the ledger's outbox. Any process may do so.

A kill at any point loses nothing: an outcome leaves the outbox only after MongoDB has acknowledged it, and recording it
twice has no further effect.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from dlq_app.domain.letter import Death, Recorded, Settled
from messages_app.store.ledger import Ledger
from messages_app.work.ended import death_of, settled_of
from processes import tracing
from wire import errors

log = logging.getLogger(__name__)

Recorder = Callable[[Sequence[Death], Sequence[Settled]], list[Recorded]]

BATCH = 100
#: Entries read longer ago are read again before they are written: the process may have been suspended in between.
STALE_READ_S = 60.0


def record_outcomes(deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
    """That of the dead-letter queue, imported with the first outcome: until then a worker needs no driver."""
    from dlq_app.services import dead_letters

    return dead_letters.record_outcomes(deaths, settles)


def drain(ledger: Ledger, recorder: Recorder, limit: int = BATCH, *, leave_ms: int = 0) -> int:
    """Send up to ``limit`` outcomes of the outbox to the dead-letter queue; return their number.

    ``leave_ms``: leave younger entries to the processes that know them. Raises ``StoreUnavailable`` of either store.
    """
    read_at = time.monotonic()
    entries = ledger.outbox(limit, leave_ms=leave_ms)
    if not entries:
        return 0
    if time.monotonic() - read_at > STALE_READ_S:
        return drain(ledger, recorder, limit, leave_ms=leave_ms)
    deaths: list[Death] = []
    settles: list[Settled] = []
    for entry in entries:
        try:
            if entry.kind == "death":
                deaths.append(death_of(entry.record))
            else:
                settles.append(settled_of(entry.record))
        except Exception as error:
            # One unreadable record must not block the others.
            found = entry.record
            _quarantine(ledger, found.message_id, found.epoch, entry.kind, f"{type(error).__name__}: {error}")
    record(ledger, recorder, deaths, settles)
    return len(entries)


def record(ledger: Ledger, recorder: Recorder, deaths: Sequence[Death], settles: Sequence[Settled]) -> None:
    """Record outcomes of the outbox in MongoDB, then remove them from it; quarantine those that can never be stored.

    Raises the ``StoreUnavailable`` of either store; all of them can then be repeated.
    """
    if not deaths and not settles:
        return
    done: list[tuple[str, int, str]] = []
    outcomes: list[Death | Settled] = [*deaths, *settles]
    for outcome, answer in zip(outcomes, _recorded(recorder, deaths, settles), strict=True):
        kind = "death" if isinstance(outcome, Death) else "settle"
        if not answer.ok:
            _quarantine(ledger, outcome.message_id, outcome.epoch, kind, answer.why)
            continue
        done.append((outcome.message_id, outcome.epoch, kind))
        if tracing.is_on and isinstance(outcome, Death):
            _mark(outcome)
    ledger.drained(done)


def _recorded(recorder: Recorder, deaths: Sequence[Death], settles: Sequence[Settled]) -> list[Recorded]:
    """Record all together; after an error each alone, so that one does not block the others."""
    try:
        return recorder(deaths, settles)
    except errors.StoreUnavailable:
        raise
    except Exception as error:
        if len(deaths) + len(settles) == 1:
            log.exception("outcome_broken", extra={"message_id": (deaths or settles)[0].message_id})
            return [Recorded(ok=False, why=f"{type(error).__name__}: {error}"[:300])]
    alone = [_recorded(recorder, [death], []) for death in deaths]
    alone += [_recorded(recorder, [], [settled]) for settled in settles]
    return [answer for answers in alone for answer in answers]


def _mark(death: Death) -> None:
    """Mark in the message's trace that its letter is stored."""
    about = {
        "messaging.destination.name": death.type, "messaging.message.id": death.message_id, "dlq.epoch": death.epoch
    }  # fmt: skip
    tracing.mark(f"dead letter {death.type}", "internal", death.traceparent, about)


def _quarantine(ledger: Ledger, message_id: str, epoch: int, kind: str, why: str) -> None:
    log.error("outcome_quarantined", extra={"message_id": message_id, "kind": kind, "why": why})
    ledger.quarantine(message_id, epoch, why)
