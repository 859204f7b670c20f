"""One attempt: call the handler within its time limit and turn what happened into an outcome.

The limit holds for handlers that ignore it. At the deadline another thread *interrupts* the attempt: an AttemptTimeout
is raised inside the handler at its next line of Python. A handler that is stuck in a blocking call does not hear that;
then whoever watches it *takes over* the report, and whatever the handler returns later is dropped.

Everything that runs foreign code stands under this: the handler, the coroutine that it returned, putting its result or
its exception into words, and leaving its thread as it was.

Two locks per attempt, each taken once and never given back, make both decisions exclusive. ``_end`` is taken either by
the end of all this or by the interruption, so that no exception is ever raised outside of it. ``_report`` matters only
after an interruption and is taken by whoever tells the outcome.
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
from typing import Any

from messages_app import conf, registry
from messages_app.attempt import coroutines, databases, process_state, report
from messages_app.attempt.databases import TransactionLeftOpen
from messages_app.domain.policy import RetryAt, decide
from messages_app.domain.records import Claimed, Completed, Deferred, Failed, Outcome
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
from processes.forks import leave_if_forked

log = logging.getLogger(__name__)

#: An attempt is not begun when its claim is older than this: the lease of 30 s must cover at least its beginning.
FRESH_S = 20.0
#: Seconds that an exception has to say what it is: its text and its notes are code of its own.
READ_S = 2.0
#: The lease may outlast the attempt's time limit by this much: time to report.
LEASE_MARGIN_MS = 10_000
#: A message that its breaker has refused for longer is given up.
MAX_HELD_MS = 24 * 3600 * 1000

_decoder = json.JSONDecoder()
_decode = _decoder.decode
_scan = _decoder.scan_once  # type: ignore[attr-defined]  # as old as the module, and not described
_monotonic = time.monotonic
_raise_in_thread = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_raise_in_thread.argtypes = (ctypes.c_ulong, ctypes.py_object)
#: The same function, with a null pointer: what is pending for the thread is forgotten.
_forget_in_thread = ctypes.pythonapi["PyThreadState_SetAsyncExc"]
_forget_in_thread.argtypes = (ctypes.c_ulong, ctypes.c_void_p)
_NEVER = float("inf")
_SWALLOWED = "The attempt ran out of time; its handler swallowed the interruption."
_STUCK = "The attempt ran out of time and could not be interrupted."


class Attempt:
    """A claimed message on its way through this process. Times are seconds of the monotonic clock."""

    __slots__ = (
        "_end", "_report", "claimed", "cut", "deadline", "guard", "loop", "number", "raised", "renewed_at", "sent",
        "started_at", "taken_at", "thread_id",
    )  # fmt: skip

    def __init__(self, claimed: Claimed, taken_at: float) -> None:
        self.claimed = claimed
        #: Counted from 1, as people count; the ledger counts from 0.
        self.number = claimed.attempt + 1
        #: When the claim was sent.
        self.taken_at = taken_at
        #: When the lease was last extended (at first: claimed).
        self.renewed_at = taken_at
        #: 0 until the handler is called.
        self.started_at = 0.0
        #: When the handler has to be interrupted; infinite until it is called.
        self.deadline = _NEVER
        self.thread_id = 0
        #: The breaker's permission, once it is given.
        self.guard: Protection | None = None
        #: The event loop of a handler that is a coroutine, while it runs.
        self.loop: coroutines.LoopOfAttempt | None = None
        #: What class of exception ended the handler: all that is known of it until it has been read.
        self.raised: type[BaseException] | None = None
        #: Why it was interrupted; empty: it was not.
        self.cut = ""
        #: True once an interruption is on its way.
        self.sent = False
        self._end = allocate_lock()
        self._report = allocate_lock()

    def is_fresh(self, now: float) -> bool:
        return now - self.renewed_at < FRESH_S

    def server_ms(self, moment: float) -> int:
        """A moment on the ledger's clock (epoch ms), whatever this host's own clock says."""
        return self.claimed.claimed_at_ms + int((moment - self.taken_at) * 1000)

    def lease_cap_ms(self) -> int:
        """The ledger's instant beyond which this attempt's lease must not be extended."""
        begun = self.started_at or self.taken_at
        limit = 0.0 if self.deadline == _NEVER else self.deadline - begun
        return self.server_ms(begun + limit) + LEASE_MARGIN_MS

    def interrupt(self, why: str) -> bool:
        """Stop the handler from another thread. False when it has ended by itself; True only once."""
        if not self._end.acquire(False):
            return False
        self.cut = why
        try:
            loop = self.loop
            # A coroutine hears of it where it waits; one that does not wait is interrupted like any other handler.
            if loop is None or not loop.cancel():
                _raise_in_thread(self.thread_id, AttemptTimeout)
                if loop is not None:
                    loop.wake()
        finally:
            self.sent = True
        return True

    def take_report(self) -> bool:
        """After an interruption: True for the one who has to tell the outcome."""
        return self._report.acquire(False)

    def call_report(self, kind: ErrorKind | None) -> CallReport | None:
        """What the breaker has to be told, for the first who asks; ``kind`` of the failure, None for success."""
        return None if self.guard is None else self.guard.call_report(kind)

    def call(self, spec: HandlerSpec, message: Message, limit_s: float) -> tuple[str, Failure | None]:
        """Call the handler. Returns (its result as JSON text, None) or ("", the failure).

        When this returns, no interruption is pending and none will come, and the thread is as it was before.
        """
        failure: Failure | None = None
        try:
            self.thread_id = threading.get_ident()
            self.started_at = started_at = _monotonic()
            # Set inside the try: from here on the interruption may come, at any line of this block.
            self.deadline = started_at + limit_s
            held = databases.prepare()
            # A copy that is thrown away: what the handler sets for itself (time zone, language, decimal context,
            # anything in a context variable) does not reach the next message.
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
        """The handler's call to its end, and what came of it in words: all that runs foreign code."""
        process_id = os.getpid()
        try:
            value = function(message)
            leave_if_forked(process_id)
            if coroutines.may_wait(value):
                value = coroutines.run(value, self)
            text = report.result(value)
            if text is report.NOT_JSON:
                coroutines.refuse_within(value)
            return text, None
        except BaseException as raised:  # a handler's SystemExit must not end the thread that runs it
            leave_if_forked(process_id, raised)
            return "", self._read(raised)

    def _read(self, raised: BaseException) -> Failure:
        """The failure that an exception means. It is asked once, and has ``READ_S`` for all its answers."""
        if self.cut:
            # It was stopped; what it made of that stands as the cause, if it is more than the interruption itself.
            if not issubclass(type(raised), AttemptTimeout):
                cut = AttemptTimeout("" if coroutines.is_cancellation(raised) else _SWALLOWED)
                cut.__cause__ = raised
                return classified(cut)
            return classified(raised)
        self.raised = type(raised)
        self.deadline = _monotonic() + READ_S
        return classified(raised)

    def unread(self) -> Failure | None:
        """What the class of an exception tells that took too long to be read; None when there is none."""
        return None if self.raised is None else classified_unread(self.raised)

    def _forestall(self) -> None:
        """The interruption won against the handler's end: wait until it is sent, then take back what is pending."""
        while not self.sent:
            time.sleep(0.0005)
        _forget_in_thread(self.thread_id, None)


class Runner:
    """Runs attempts and says what became of them. Safe to share between threads.

    What a circuit breaker has to be told comes with the outcome, to be sent by whoever gets that. ``reuse_ms``: for so
    long the answer that a breaker is closed serves all attempts. ``shares``: how many threads what hangs may hold.
    """

    def __init__(
        self,
        worker: str,
        dice: Callable[[], float] = random.random,
        *,
        reuse_ms: int = 0,
        slow_calls: SlowCallLimit | None = None,
    ) -> None:
        #: Name of this process in traces; must need no escaping in JSON.
        self.worker = worker
        self._dice = dice
        self._reuse_ms = reuse_ms
        self._slow_calls = slow_calls

    def run(self, attempt: Attempt) -> Outcome | None:
        """Run one attempt to its outcome; None when somebody else has taken over the report.

        Returns only in the process that called it: a child that the handler forked ends here at the latest.
        """
        process_id = os.getpid()
        try:
            return self._run(attempt)
        finally:
            leave_if_forked(process_id)
            # Whoever tells the outcome has the sample. Left over is what no outcome tells of: the attempt broke, or was
            # handed back at the very moment between its permission and its call.
            if attempt.guard is not None:
                attempt.guard.give_back()

    def _run(self, attempt: Attempt) -> Outcome | None:
        claimed = attempt.claimed
        if not attempt.is_fresh(_monotonic()):
            return self.hand_back(attempt, "prefetch")
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
        except BaseException as raised:  # no Exception: those leave a message without a breaker
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
        """The breaker is open: the message waits without losing a retry, but not for ever."""
        claimed = attempt.claimed
        since = claimed.deferred_since_ms
        if since is not None and claimed.claimed_at_ms - since > MAX_HELD_MS:
            reason = f"The circuit breaker {guard.name!r} let no attempt through for 24 hours."
            return self.fail(attempt, Failure(CIRCUIT_OPEN_TOO_LONG, ErrorKind.TRANSIENT, reason), give_up=True)
        return Deferred(
            message_id=claimed.message_id, fence=claimed.fence, delay_ms=guard.wait_ms(self._dice), why="breaker"
        )  # fmt: skip

    def time_out(self, attempt: Attempt) -> Outcome:
        """The outcome of an attempt that did not even end when it was interrupted."""
        return self.fail(attempt, attempt.unread() or classified(AttemptTimeout(_STUCK)))

    def hand_back(self, attempt: Attempt, why: str) -> Deferred:
        """Give a message back unspent, at once, to whoever is free."""
        claimed = attempt.claimed
        line = ""
        if attempt.started_at:
            number, begun, now = attempt.number, attempt.server_ms(attempt.started_at), attempt.server_ms(_monotonic())
            line = report.deferred(number, begun, now, self.worker, why)
        return Deferred(
            message_id=claimed.message_id, fence=claimed.fence, delay_ms=0, why=why, attempt_json=line,
            call_report=attempt.call_report(ErrorKind.TRANSIENT),
        )  # fmt: skip

    def fail(self, attempt: Attempt, failure: Failure, *, give_up: bool = False) -> Failed:
        """Decide what follows this failure: another attempt, or none."""
        claimed = attempt.claimed
        now = _monotonic()
        ended_ms = attempt.server_ms(now)
        decision = decide(
            attempt.number, failure.kind, conf.retry_policy(claimed.type), self._dice, failure.retry_after_ms,
            max_retries=claimed.max_retries,
        )  # fmt: skip
        delay_ms = decision.delay_ms if isinstance(decision, RetryAt) and not give_up else None
        return Failed(
            message_id=claimed.message_id,
            fence=claimed.fence,
            delay_ms=delay_ms,
            error=report.last_error(failure, ended_ms, self.worker, process_state.system_state(self.worker)),
            attempt_json=report.failed(
                attempt.number, attempt.server_ms(attempt.started_at or now), ended_ms, self.worker, failure, delay_ms
            ),
            call_report=attempt.call_report(failure.kind),
        )

    def _complete(self, attempt: Attempt, result: str) -> Completed:
        claimed = attempt.claimed
        ended_ms = attempt.server_ms(_monotonic())
        return Completed(
            message_id=claimed.message_id,
            fence=claimed.fence,
            result=result,
            attempt_json=report.succeeded(
                attempt.number, attempt.server_ms(attempt.started_at), ended_ms, self.worker
            ),
            ended_at_ms=ended_ms,
            call_report=attempt.call_report(None),
        )  # fmt: skip

    @staticmethod
    def _unknown_type(message_type: str) -> Failure:
        return Failure(UNKNOWN_TYPE, ErrorKind.PERMANENT, f"No handler is registered for the type {message_type!r}.")


def payload_of(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, RecursionError."""
    try:
        # What the decoder does in the end; its searches for space around the value cost as much as a small value.
        value, end = _scan(text, 0)
    except StopIteration:
        return _decode(text)
    return value if end == len(text) else _decode(text)


def limit_of(spec: HandlerSpec) -> float:
    """Seconds that one attempt of this handler may take."""
    return spec.timeout or conf.retry_policy(spec.type).timeout_ms / 1000


def classified(error: BaseException) -> Failure:
    """The failure that an exception means, by the tables that settings add to."""
    return classify(error, types=conf.error_types(), kinds=conf.error_kinds())


def classified_unread(kind: type[BaseException]) -> Failure:
    """The failure that a class of exception means, without a look at the exception."""
    return classify_unread(kind, types=conf.error_types(), kinds=conf.error_kinds())


def message_of(attempt: Attempt, payload: Any, text: str, limit_s: float) -> Message:
    """What the handler gets to see."""
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
        tags=() if tags in ("", "[]") else tuple(_decode(tags)),
        client=claimed.client,
        queued_at_ms=claimed.queued_at_ms,
        replay_id=claimed.replay_id or None,
        deadline_s=time.time() + limit_s,
        idempotency_key=f"{claimed.message_id}.v{claimed.version}" if claimed.version else claimed.message_id,
        metadata={},
        text=text,
    )
