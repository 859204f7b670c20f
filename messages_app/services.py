"""Public API of message processing: run one message here, and the dead-letter queue's port."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from breaker_app.errors import StoreUnavailable as BreakersUnavailable
from dlq_app.domain.errors import OrderRefused, PayloadInvalid
from dlq_app.domain.errors import StoreUnavailable as IntakeUnavailable
from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, VoidAnswer
from dlq_app.domain.replay_batch import BreakerSeen
from messages_app import registry
from messages_app.domain.errors import LedgerRefused, MessagesError, StoreUnavailable
from messages_app.domain.parsing import parse_payload
from messages_app.domain.records import Completed, Deferred, Failed, Outcome, State, Verdict
from messages_app.store.ledger import Ledger, ledger
from messages_app.store.recorded_outcomes import recorded_outcomes
from messages_app.work import leases
from messages_app.work.flushing import reduced
from messages_app.work.pool import GRACE_S, WATCH_S
from messages_app.work.runner import Attempt, Runner, payload_of
from processes.names import process_name

log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Maximum time of attempts to record an outcome in an unavailable ledger. After it the lease ends the run.
RECORD_S = 60.0


def process(message_id: str, epoch: int, attempt: int) -> str:
    """Claim one message by its wake-up and run it by the same rules as in a message worker.

    Returns ``completed``, ``failed``, ``given_up``, ``deferred``, or ``not_claimed`` for an outdated wake-up.
    """
    book = ledger()
    name = process_name()
    sent_at = time.monotonic()
    claimed = book.claim_one(message_id, epoch, attempt, token=uuid.uuid4().hex, owner=name)
    if claimed is None:
        return "not_claimed"
    outcome = _run_watched(book, Runner(name), Attempt(claimed, sent_at))
    if outcome.call_report is not None:
        # At once: the ledger may be unavailable for longer than a probe's permit lasts.
        outcome.call_report.send()
    _record(book, outcome)
    match outcome:
        case Completed():
            return "completed"
        case Failed(delay_ms=None):
            return "given_up"
        case Failed():
            return "failed"
        case Deferred():
            return "deferred"


def _run_watched(book: Ledger, runner: Runner, attempt: Attempt) -> Outcome:
    """Run on a separate thread, watch its deadline and renew its lease."""
    outcomes: list[Outcome | None] = []
    thread = threading.Thread(target=lambda: outcomes.append(runner.run(attempt)), name="handler", daemon=True)
    thread.start()
    while True:
        thread.join(WATCH_S)
        if not thread.is_alive():
            break
        now = time.monotonic()
        if now >= attempt.deadline and not attempt.interrupt("timeout"):
            if now >= attempt.deadline + GRACE_S and attempt.cut and attempt.take_report():
                log.error("thread_abandoned", extra={"message_id": attempt.claimed.message_id})
                return runner.time_out(attempt)
        elif now - attempt.renewed_at >= leases.RENEW_EVERY_S and not attempt.cut:
            _renew(book, attempt)
    outcome = outcomes[0] if outcomes else None
    if outcome is None:
        raise RuntimeError("the attempt ended without an outcome; the message is requeued when its lease ends")
    return outcome


def _renew(book: Ledger, attempt: Attempt) -> None:
    try:
        leases.renew(book, [attempt])
    except StoreUnavailable as error:
        # The lease is three times as long as the renewal interval; the attempt continues.
        log.warning("ledger_away", extra={"why": str(error)})
        attempt.renewed_at += 1.0


def _record(book: Ledger, outcome: Outcome) -> None:
    """Send the outcome until the ledger answers; raises ``StoreUnavailable`` after a minute.

    An outcome that cannot be written as it is is reduced.
    """
    until = time.monotonic() + RECORD_S
    pause = 0.1
    while True:
        try:
            (verdict,) = book.flush([outcome])
            why = "the ledger cannot write it" if verdict is Verdict.REFUSED else ""
        except StoreUnavailable:
            if time.monotonic() > until:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
            continue
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if not why:
            return
        log.error("outcome_reduced", extra={"message_id": outcome.message_id, "why": why})
        less = reduced(outcome, why)
        if less == outcome:
            raise RuntimeError("the outcome cannot be written; the message is requeued when its lease ends")
        outcome = less


class IntakePort:
    """Implementation of ``dlq_app.domain.ports.IntakePort`` with the ledger."""

    def now_ms(self) -> int:
        return _answered(ledger().now_ms)

    def forward(self, order: ForwardOrder) -> ForwardAnswer:
        return _answered(lambda: ledger().forward(order))

    def forward_many(self, orders: Sequence[ForwardOrder]) -> list[ForwardAnswer]:
        return _answered(lambda: ledger().forward_many(orders))

    def void(self, message_id: str, epoch: int) -> VoidAnswer:
        return _answered(lambda: ledger().void(message_id, epoch))

    def open_among(self, message_ids: Sequence[str]) -> set[str]:
        records = _answered(lambda: ledger().get_many(message_ids))
        return {record.message_id for record in records if record and record.state not in (State.DONE, State.DEAD)}

    def resettle(self, message_id: str, epoch: int) -> None:
        _answered(lambda: ledger().resettle(message_id, epoch))

    def unlist(self, message_ids: Sequence[str]) -> None:
        _answered(lambda: recorded_outcomes().unlist(message_ids))

    def check_payload(self, payload: bytes) -> None:
        try:
            parse_payload(payload)
        except StoreUnavailable:
            raise
        except MessagesError as error:
            raise PayloadInvalid(str(error), errors=[_shown(item) for item in error.errors]) from error

    def breaker_of(self, message_type: str, body: bytes) -> str | None:
        spec = registry.get(message_type)
        if spec is None:
            return None
        if spec.breaker is None or isinstance(spec.breaker, str):
            return spec.breaker
        try:
            payload = payload_of(body.decode())
        except (ValueError, RecursionError):
            return None  # it cannot run either: the worker reports why
        return spec.breaker_of(payload)

    def breakers(self, types: Iterable[str], *, with_held: bool = False) -> Mapping[str, Sequence[BreakerSeen]]:
        from messages_app.work.protection import seen_many

        specs = {name: registry.get(name) for name in types}
        names = {name: sorted(spec.breaker_names()) for name, spec in specs.items() if spec is not None}
        try:
            seen = seen_many({one for many in names.values() for one in many}, with_held=with_held)
        except BreakersUnavailable as error:
            raise IntakeUnavailable(str(error)) from error
        return {name: [replace(seen[one], types=(name,)) for one in many] for name, many in names.items() if many}

    def retry_after_ms(self, message_type: str, body: bytes = b"") -> int | None:
        name = self.breaker_of(message_type, body)
        if name is None:
            return None
        from messages_app.work.protection import open_for_ms

        return open_for_ms(name)


def _shown(item: dict[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in item.items()}


def _answered(ask: Callable[[], _T]) -> _T:
    try:
        return ask()
    except StoreUnavailable as error:
        raise IntakeUnavailable(str(error), retry_after=error.retry_after) from error
    except LedgerRefused as error:
        raise OrderRefused(str(error)) from error
