"""One attempt: call the handler within its time limit and turn what happened into an outcome.

Handlers cannot ignore the limit. At the deadline another thread *interrupts* the attempt: it raises AttemptTimeout in
the handler at its next line of Python. A handler in a blocking call does not notice; then the watching thread *takes
over* the report, and the handler's later result is dropped.

The limit covers all foreign code: the handler, a coroutine that it returned, converting its result or exception to
text, and cleaning up the thread.

Two locks per attempt, each taken once and never released, make both decisions exclusive. ``_end`` is taken either by
the end of the attempt or by the interruption, so that no exception is raised outside of the attempt. ``_report`` is
used only after an interruption; the thread that takes it reports the outcome.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import random
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable
from contextvars import copy_context
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from dlq_app.conf import mask_shown
from messages_app import conf, registry
from messages_app.attempt import coroutines, databases, process_state, report
from messages_app.attempt.databases import TransactionLeftOpen
from messages_app.domain.attempt_lines import succeeded
from messages_app.domain.records import Claimed, Completed, Deferred, Failed, Outcome
from messages_app.domain.retry_policy import RetryAt, decide
from messages_app.domain.slow_calls import SlowCallLimit
from messages_app.envelope import Message
from messages_app.failures import (
    CIRCUIT_OPEN_TOO_LONG,
    UNKNOWN_TYPE,
    VALIDATION_ERROR,
    AttemptTimeout,
    ErrorKind,
    Failure,
    classify,
    classify_unread,
)
from messages_app.registry import HandlerSpec
from messages_app.work.call_reports import CallReport
from messages_app.work.protection import Protection
from processes import tracing
from processes.forks import exit_if_forked
from processes.measured import measured

if TYPE_CHECKING:
    from processes.spans import Span

log = logging.getLogger(__name__)

#: Maximum age of a claim when its attempt starts: the lease of 30 s must cover the start.
FRESH_S = 20.0
#: Time limit for reading an exception: its text and notes run its own code.
READ_S = 2.0
#: Lease beyond the attempt's time limit, to report the outcome.
LEASE_MARGIN_MS = 10_000
#: A message that its breaker has rejected for longer is given up.
MAX_HELD_MS = 24 * 3600 * 1000
#: Characters of an error's reason that are masked for its span, which keeps fewer.
_TRACED_REASON = 4000

#: Name of the durations of handlers, by type and outcome.
HANDLER = "handler"

_decode = json.JSONDecoder().decode
_decode_quickly = msgspec.json.Decoder().decode
_monotonic = time.monotonic
_raise_in_thread = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)
#: The same function with a null pointer: cancels the thread's pending exception.
_forget_in_thread = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_forget_in_thread.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_NEVER = float("inf")
_SWALLOWED = "The attempt ran out of time; its handler swallowed the interruption."
_STUCK = "The attempt ran out of time and could not be interrupted."


class Attempt:
    """A claimed message in this process. Times are seconds of the monotonic clock."""

    __slots__ = (
        "_end", "_report", "claimed", "cut", "deadline", "guard", "loop", "number", "raised", "renewed_at", "sent",
        "span", "started_at", "taken_at", "thread_id",
    )  # fmt: skip

    def __init__(self, claimed: Claimed, taken_at: float) -> None:
        self.claimed = claimed
        #: Counted from 1; the ledger counts from 0.
        self.number = claimed.attempt + 1
        #: When the claim was sent.
        self.taken_at = taken_at
        #: When the lease was last renewed; at first, when it was claimed.
        self.renewed_at = taken_at
        #: 0 until the handler is called.
        self.started_at = 0.0
        #: When to interrupt the handler; infinite until it is called.
        self.deadline = _NEVER
        self.thread_id = 0
        #: The breaker's permission, once given.
        self.guard: Protection | None = None
        #: The event loop of a coroutine handler, while it runs.
        self.loop: coroutines.LoopOfAttempt | None = None
        #: Class of the exception that ended the handler, until the exception has been read.
        self.raised: type[BaseException] | None = None
        #: Reason of the interruption; empty without one.
        self.cut = ""
        #: Whether the interruption has been sent.
        self.sent = False
        #: Its span, while traces are on.
        self.span: Span | None = None
        self._end = allocate_lock()
        self._report = allocate_lock()

    def is_fresh(self, now: float) -> bool:
        return now - self.renewed_at < FRESH_S

    def server_ms(self, moment: float) -> int:
        """A monotonic time as epoch ms on the ledger's clock, independent of this host's clock."""
        return self.claimed.claimed_at_ms + int((moment - self.taken_at) * 1000)

    def lease_cap_ms(self) -> int:
        """Latest end of this attempt's lease, on the ledger's clock."""
        begun = self.started_at or self.taken_at
        limit = 0.0 if self.deadline == _NEVER else self.deadline - begun
        return self.server_ms(begun + limit) + LEASE_MARGIN_MS

    def interrupt(self, why: str) -> bool:
        """Stop the handler, from another thread. Returns False when it has ended, and True only once."""
        if not self._end.acquire(False):
            return False
        self.cut = why
        try:
            loop = self.loop
            # A waiting coroutine is cancelled; one that does not wait is interrupted like any other handler.
            if loop is None or not loop.cancel():
                _raise_in_thread(self.thread_id, AttemptTimeout)
                if loop is not None:
                    loop.wake()
        finally:
            self.sent = True
        return True

    def take_report(self) -> bool:
        """After an interruption: True for the one caller that must report the outcome."""
        return self._report.acquire(False)

    def call_report(self, kind: ErrorKind | None) -> CallReport | None:
        """The report for the breaker, for the first caller; ``kind`` of the failure, None for success."""
        return None if self.guard is None else self.guard.call_report(kind)

    def end_span(self, outcome: str, failure: Failure | None = None) -> None:
        """End the span of this attempt, if it has one."""
        if self.span is None:
            return
        if failure is None:
            self.span.end({"dlq.outcome": outcome})
        else:
            text = mask_shown(failure.reason[:_TRACED_REASON])
            self.span.end({"dlq.outcome": outcome}, error_type=failure.error_type, error_text=text)

    def call(self, spec: HandlerSpec, message: Message, limit_s: float) -> tuple[str, Failure | None]:
        """Call the handler. Returns (its result as JSON text, None) or ("", the failure).

        When this returns, no interruption is pending or will follow, and the thread is clean.
        """
        failure: Failure | None = None
        try:
            self.thread_id = threading.get_ident()
            self.started_at = started_at = _monotonic()
            # Set inside the try: from here on the interruption may come at any line of this block.
            self.deadline = started_at + limit_s
            held = databases.prepare()
            # In a copy of the context: time zone, language, decimal context and other context variables that the
            # handler sets do not affect the next message.
            result, failure = copy_context().run(self._perform, spec.function, message)
            if databases.opened() and (left := databases.tidy(held, drop=bool(self.cut))):
                log.error("transaction_left_open", extra={"message_id": message.id, "databases": left})
                if failure is None:
                    failure = classified(TransactionLeftOpen(left))
            if self._end.acquire(False):
                return result, failure
            self._forestall()
        except AttemptTimeout as interruption:
            failure = failure or self.unread() or classified(interruption)
        coroutines.clear_thread()
        return "", failure or classified(AttemptTimeout(_SWALLOWED))

    def _perform(self, function: Callable[[Message], Any], message: Message) -> tuple[str, Failure | None]:
        """Run the handler to its end and convert its result or exception to text: all foreign code."""
        process_id = os.getpid()
        try:
            if self.span is not None:
                self.span.enter()
            value = function(message)
            exit_if_forked(process_id)
            if coroutines.may_wait(value):
                value = coroutines.run(value, self)
            text = report.result(value)
            if text is report.NOT_JSON:
                coroutines.refuse_within(value)
            return text, None
        except BaseException as raised:  # a handler's SystemExit must not end the thread that runs it
            exit_if_forked(process_id, raised)
            return "", self._read(raised)

    def _read(self, raised: BaseException) -> Failure:
        """Classify the exception, within ``READ_S``. Its own code runs only once."""
        if self.cut:
            # It was interrupted. An exception of its own becomes the cause.
            if not issubclass(type(raised), AttemptTimeout):
                cut = AttemptTimeout("" if coroutines.is_cancellation(raised) else _SWALLOWED)
                cut.__cause__ = raised
                return classified(cut)
            return classified(raised)
        self.raised = type(raised)
        self.deadline = _monotonic() + READ_S
        return classified(raised)

    def unread(self) -> Failure | None:
        """The failure by the class of an exception that took too long to read; None without one."""
        return None if self.raised is None else classified_unread(self.raised)

    def _forestall(self) -> None:
        """The interruption came first: wait until it has been sent, then cancel the pending exception."""
        while not self.sent:
            time.sleep(0.0005)
        _forget_in_thread(self.thread_id, None)


class Runner:
    """Runs attempts and returns their outcomes. Safe to share between threads.

    An outcome includes the report for the circuit breaker, to be sent by the caller. ``reuse_ms``: how long a closed
    breaker's permission is reused. ``slow_calls``: limits the threads that unresponsive services hold.
    """

    def __init__(
        self,
        worker: str,
        dice: Callable[[], float] = random.random,
        *,
        reuse_ms: int = 0,
        slow_calls: SlowCallLimit | None = None,
    ) -> None:
        #: Name of this process in attempts; must need no escaping in JSON.
        self.worker = worker
        self._dice = dice
        self._reuse_ms = reuse_ms
        self._slow_calls = slow_calls

    def run(self, attempt: Attempt) -> Outcome | None:
        """Run one attempt and return its outcome; None when another thread has taken over the report.

        Returns only in the calling process: a child that the handler forked ends here at the latest.
        """
        process_id = os.getpid()
        try:
            return self._run(attempt)
        finally:
            exit_if_forked(process_id)
            # The outcome includes the report. Without an outcome the permit must be released: the attempt raised, or
            # was requeued between its permission and its call.
            if attempt.guard is not None:
                attempt.guard.give_back()

    def _run(self, attempt: Attempt) -> Outcome | None:
        claimed = attempt.claimed
        if not attempt.is_fresh(_monotonic()):
            return self.hand_back(attempt, "prefetch")
        if tracing.is_on:
            attempt.span = _span_of(attempt)
        spec = registry.get(claimed.type)
        if spec is None:
            return self.fail(attempt, self._unknown_type(claimed.type))
        try:
            text = claimed.body.decode()
            payload = payload_of(text)
        except (ValueError, RecursionError) as broken:
            return self.fail(
                attempt, Failure(VALIDATION_ERROR, ErrorKind.PERMANENT, f"The payload is not JSON: {broken}")
            )
        limit_s = limit_of(spec)
        message = message_of(attempt, payload, text, limit_s)
        try:
            breaker = spec.breaker_of(payload)
        except BaseException as raised:  # not an Exception: after those a message has no breaker
            return self.fail(attempt, classified(raised))
        if breaker is not None:
            guard = Protection(breaker, attempt, self._reuse_ms, self._slow_calls)
            if not guard.allowed:
                return self._refused(attempt, guard)
            attempt.guard = guard
        result, failure = attempt.call(spec, message, limit_s)
        if attempt.cut and not attempt.take_report():
            log.warning("late_result_dropped", extra={"message_id": claimed.message_id, "attempt": attempt.number})
            return None
        if failure is not None:
            return self.fail(attempt, failure)
        return self._complete(attempt, result)

    def _refused(self, attempt: Attempt, guard: Protection) -> Outcome:
        """The breaker is open: the message waits without using a retry, up to a maximum."""
        claimed = attempt.claimed
        since = claimed.deferred_since_ms
        if since is not None and claimed.claimed_at_ms - since > MAX_HELD_MS:
            reason = f"The circuit breaker {guard.name!r} let no attempt through for 24 hours."
            return self.fail(attempt, Failure(CIRCUIT_OPEN_TOO_LONG, ErrorKind.TRANSIENT, reason), give_up=True)
        attempt.end_span("held")
        return Deferred(
            message_id=claimed.message_id, fence=claimed.fence, delay_ms=guard.wait_ms(self._dice), why="breaker",
            held_by=guard.name,
        )  # fmt: skip

    def time_out(self, attempt: Attempt) -> Outcome:
        """The outcome of an attempt that did not end after its interruption."""
        return self.fail(attempt, attempt.unread() or classified(AttemptTimeout(_STUCK)))

    def hand_back(self, attempt: Attempt, why: str) -> Deferred:
        """Requeue a message at once, without using a retry."""
        claimed = attempt.claimed
        line = ""
        if attempt.started_at:
            number, begun, now = attempt.number, attempt.server_ms(attempt.started_at), attempt.server_ms(_monotonic())
            line = report.deferred(number, begun, now, self.worker, why)
        attempt.end_span("requeued")
        return Deferred(
            message_id=claimed.message_id, fence=claimed.fence, delay_ms=0, why=why, attempt_json=line,
            call_report=attempt.call_report(ErrorKind.TRANSIENT),
        )  # fmt: skip

    def fail(self, attempt: Attempt, failure: Failure, *, give_up: bool = False) -> Failed:
        """Decide whether another attempt follows this failure."""
        claimed = attempt.claimed
        now = _monotonic()
        ended_ms = attempt.server_ms(now)
        decision = decide(
            attempt.number, failure.kind, conf.retry_policy(claimed.type), self._dice, failure.retry_after_ms,
            max_retries=claimed.max_retries,
        )  # fmt: skip
        delay_ms = decision.delay_ms if isinstance(decision, RetryAt) and not give_up else None
        if attempt.started_at:
            measured.observe(HANDLER, claimed.type, "failed", seconds=now - attempt.started_at)
        attempt.end_span("dead" if delay_ms is None else "retry", failure)
        return Failed(
            message_id=claimed.message_id,
            fence=claimed.fence,
            delay_ms=delay_ms,
            error=report.last_error(failure, ended_ms, self.worker, process_state.system_state(self.worker)),
            attempt_json=report.failed(
                attempt.number, attempt.server_ms(attempt.started_at or now), ended_ms, self.worker, failure, delay_ms
            ),
            call_report=attempt.call_report(failure.kind),
            claimed=claimed,
        )

    def _complete(self, attempt: Attempt, result: str) -> Completed:
        claimed = attempt.claimed
        now = _monotonic()
        started_ms, ended_ms = attempt.server_ms(attempt.started_at), attempt.server_ms(now)
        measured.observe(HANDLER, claimed.type, "succeeded", seconds=now - attempt.started_at)
        if attempt.span is not None:
            attempt.end_span("succeeded")
        return Completed(
            message_id=claimed.message_id,
            fence=claimed.fence,
            result=result,
            attempt_json=succeeded(attempt.number, started_ms, ended_ms, self.worker) if claimed.replay_id else "",
            ran=f"{started_ms} {ended_ms}",
            ended_at_ms=ended_ms,
            call_report=attempt.call_report(None),
            claimed=claimed if claimed.replay_id else None,
        )  # fmt: skip

    @staticmethod
    def _unknown_type(message_type: str) -> Failure:
        return Failure(UNKNOWN_TYPE, ErrorKind.PERMANENT, f"No handler is registered for the type {message_type!r}.")


def payload_of(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, RecursionError."""
    try:
        return _decode_quickly(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # It rejects what `json` accepts, such as numbers out of range and half a surrogate pair.
        return _decode(text)


def limit_of(spec: HandlerSpec) -> float:
    """Time limit of one attempt of this handler, in seconds."""
    return spec.timeout or conf.retry_policy(spec.type).timeout_ms / 1000


def classified(error: BaseException) -> Failure:
    """Classify an exception, by the built-in tables and those in the settings."""
    return classify(error, types=conf.error_types(), kinds=conf.error_kinds())


def classified_unread(kind: type[BaseException]) -> Failure:
    """Classify an exception by its class alone, without running its code."""
    return classify_unread(kind, types=conf.error_types(), kinds=conf.error_kinds())


def _span_of(attempt: Attempt) -> Span:
    claimed = attempt.claimed
    attributes: dict[str, str | int] = {
        "messaging.system": "dlq",
        "messaging.operation.type": "process",
        "messaging.destination.name": claimed.type,
        "messaging.message.id": claimed.message_id,
        "dlq.attempt": attempt.number,
        "dlq.epoch": claimed.epoch,
    }
    if claimed.replay_id:
        attributes["dlq.replay.id"] = claimed.replay_id
    return tracing.start(f"process {claimed.type}", "consumer", claimed.traceparent, attributes)


@lru_cache(maxsize=256)
def _tags_of(tags: str) -> tuple[str, ...]:
    return tuple(_decode(tags))


def message_of(attempt: Attempt, payload: Any, text: str, limit_s: float) -> Message:
    """The message that the handler gets."""
    claimed = attempt.claimed
    tags = claimed.tags
    return Message.of_run(
        id=claimed.message_id,
        type=claimed.type,
        payload=payload,
        attempt=attempt.number,
        prior_runs=claimed.prior_runs,
        source=claimed.source,
        priority=claimed.priority,
        tags=() if tags in ("", "[]") else _tags_of(tags),
        client=claimed.client,
        queued_at_ms=claimed.queued_at_ms,
        replay_id=claimed.replay_id or None,
        deadline_s=time.time() + limit_s,
        idempotency_key=f"{claimed.message_id}.v{claimed.version}" if claimed.version else claimed.message_id,
        metadata={},
        traceparent=claimed.traceparent if attempt.span is None else attempt.span.traceparent,
        text=text,
    )
