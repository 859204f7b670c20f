"""For unit tests of handlers: make a message, run its handler as a worker does, look at the outcome.

Redis and MongoDB are not needed, and circuit breakers are not asked. A handler that uses Django's database needs the
fixture ``db`` of pytest-django::

    def test_an_order_without_lines_is_refused():
        outcome = run(a_message("order.created", {"order": 1}))
        assert (outcome.outcome, outcome.error_type) == ("permanent", "VALIDATION_ERROR")
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from messages_app import conf, registry
from messages_app.domain.records import Claimed
from messages_app.domain.retry_policy import RetryAt, decide
from messages_app.envelope import Message
from messages_app.failures import UNKNOWN_TYPE, ErrorKind, Failure
from messages_app.work.runner import Attempt, limit_of, payload_of

#: Seconds between two looks at the deadline.
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt of a handler came to."""

    #: ``done``, ``transient``, ``permanent`` or ``unknown``.
    outcome: str
    #: The return value as a worker stores it: a JSON value, or a note in place of a value that is long or not JSON.
    result: Any = None
    #: Such as ``TIMEOUT_ERROR``; empty if done. Likewise the next two.
    error_type: str = ""
    reason: str = ""
    stack: str = ""
    #: Delay of the next attempt by the retry policy, without jitter. None: no attempt follows.
    retry_delay_ms: int | None = None
    #: The circuit breaker that the handler names for this payload. It was not asked.
    breaker: str | None = None

    @property
    def is_letter(self) -> bool:
        """Whether the message becomes a dead letter: it failed, and no attempt follows."""
        return self.outcome != "done" and self.retry_delay_ms is None


def a_message(type: str, payload: Any = None, **fields: Any) -> Message:
    """A message of ``type`` as its handler gets it; ``fields`` are those of ``Message`` that differ.

    The payload goes through JSON, as one that is submitted. Raises ``TypeError`` or ``ValueError`` if it is not JSON.
    """
    text = json.dumps(payload, allow_nan=False)
    spec = registry.get(type)
    now = datetime.now(UTC)
    identity = fields.get("id") or f"test-{uuid.uuid4()}"
    given = {
        "id": identity,
        "type": type,
        "payload": payload_of(text),
        "text": text,
        "attempt": 1,
        "queued_at": now,
        "deadline": now + timedelta(seconds=limit_of(spec) if spec else 30),
        "idempotency_key": identity,
    }
    return Message(**{**given, **fields})


def run(message: Message) -> Outcome:
    """Run the handler of ``message.type`` once, in this thread, with the rules of a worker, and return the outcome.

    The handler runs in a copied context, is interrupted at its time limit, and leaves no transaction open. A coroutine
    runs to its end. Exceptions are classified, never raised. Do not call it from a coroutine.
    """
    spec = registry.get(message.type)
    if spec is None:
        why = f"No handler is registered for the type {message.type!r}; there are {', '.join(registry.types())}."
        return _failed(message, Failure(UNKNOWN_TYPE, ErrorKind.PERMANENT, why), None)
    attempt = Attempt(_claimed(message), time.monotonic())
    ended = threading.Event()
    threading.Thread(target=_interrupt_late, args=(attempt, ended), daemon=True).start()
    try:
        result, failure = attempt.call(spec, message, limit_of(spec))
    finally:
        ended.set()
    breaker = spec.breaker_of(message.payload)
    if failure is not None:
        return _failed(message, failure, breaker)
    return Outcome(outcome="done", result=json.loads(result) if result else None, breaker=breaker)


def _failed(message: Message, failure: Failure, breaker: str | None) -> Outcome:
    policy = conf.retry_policy(message.type)
    decision = decide(message.attempt, failure.kind, policy, lambda: 0.5, failure.retry_after_ms)
    return Outcome(
        outcome=failure.kind.value,
        error_type=failure.error_type,
        reason=failure.reason,
        stack=failure.stack,
        retry_delay_ms=decision.delay_ms if isinstance(decision, RetryAt) else None,
        breaker=breaker,
    )


def _interrupt_late(attempt: Attempt, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_S):
        if time.monotonic() >= attempt.deadline and attempt.interrupt("timeout"):
            return


def _claimed(message: Message) -> Claimed:
    queued_at_ms = int(message.queued_at.timestamp() * 1000)
    return Claimed(
        message_id=message.id, epoch=1, attempt=message.attempt - 1, fence=1, type=message.type,
        body=message.text.encode(), version=0, priority=message.priority, source=message.source, client=message.client,
        tags=json.dumps(message.tags), queued_at_ms=queued_at_ms, claimed_at_ms=queued_at_ms, max_retries=0,
        prior_runs=message.prior_runs, recoveries=0, deferrals=0, deferred_since_ms=None,
        replay_id=message.replay_id or "", batch_id="",
    )  # fmt: skip
