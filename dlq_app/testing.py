"""For tests of code that uses dead letters: builders with useful defaults, and intake's port in plain Python."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from dlq_app.domain.errors import PayloadInvalid, StoreUnavailable
from dlq_app.domain.letter import DeadLetter, Death, Settled
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus, VoidAnswer
from dlq_app.domain.replay_batch import BreakerSeen
from dlq_app.domain.replay_policy import ReplayPolicy, place_first
from dlq_app.store.documents import letter_from, new_letter

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
STACK = """Traceback (most recent call last):
  File "/srv/app/lib/python3.11/site-packages/httpx/_client.py", line 901, in send
    raise exc
  File "/srv/app/payments/gateway.py", line 88, in capture
    response = self.http.post(self.url(route), json=body, timeout=timeout)
  File "/srv/app/lib/python3.11/site-packages/httpx/_transports/default.py", line 118, in map_httpcore_exceptions
    raise mapped_exc(message) from exc
httpx.ReadTimeout: payments-api did not answer within 10 s
"""

_ENDED = ("done", "dead")


def an_attempt(number: int = 1, **changes: Any) -> dict[str, Any]:
    """One failed attempt in the wire shape of intake."""
    return {
        "number": number,
        "startedAt": "2026-11-24T11:59:50.000Z",
        "endedAt": "2026-11-24T11:59:57.300Z",
        "outcome": "failed",
        "errorType": "TIMEOUT_ERROR",
        "errorReason": "payments-api did not answer within 10 s",
        "retryDelayMs": 1000,
        "worker": "worker-1",
        **changes,
    }


def a_death(message_id: str = "m-1", *, epoch: int = 1000, **changes: Any) -> Death:
    """The death of a message by a transient error."""
    values: dict[str, Any] = {
        "message_id": message_id,
        "epoch": epoch,
        "type": "payment.capture",
        "body": b'{"orderId": 5511870, "amount": "129.00"}',
        "priority": "normal",
        "source": "shop",
        "client": "key:shop",
        "tags": ("eu",),
        "queued_at": NOON,
        "acct_day": "20261124",
        "error_type": "TIMEOUT_ERROR",
        "error_kind": "transient",
        "error_reason": "payments-api did not answer within 10 s",
        "error_stack": STACK,
        "system_state": {"cpu": 38.0, "memory": 61.0, "uptime": 2100.0, "host": "app-2", "worker": "worker-1"},
        "attempts": [an_attempt(n) for n in (1, 2, 3, 4)],
        "retry_count": 3,
        "died_at": NOON,
        **changes,
    }
    return Death(**values)


def a_settlement(message_id: str = "m-1", *, epoch: int, replay_id: str = "r-1", **changes: Any) -> Settled:
    """The success of a replay."""
    values: dict[str, Any] = {
        "message_id": message_id,
        "epoch": epoch,
        "replay_id": replay_id,
        "attempts": [an_attempt(outcome="succeeded", errorType=None, errorReason=None)],
        "finished_at": NOON,
        **changes,
    }
    return Settled(**values)


def a_document(message_id: str = "m-1", *, death: Death | None = None, **changes: Any) -> dict[str, Any]:
    """A letter as stored, without its ``_id``; ``changes`` in wire names."""
    of = death or a_death(message_id)
    place = place_first(
        ReplayPolicy(), error_type=of.error_type, error_kind=of.error_kind, died_at=of.died_at
    )  # fmt: skip
    return {**new_letter(of, place, NOON, MaskingPolicy()), **changes}


def a_letter(message_id: str = "m-1", **changes: Any) -> DeadLetter:
    """A letter that needs no store; ``changes`` in wire names."""
    return letter_from({"_id": "0" * 24, **a_document(message_id), **changes})


@dataclass
class MemoryRecord:
    """Intake's record of one message."""

    state: str
    epoch: int
    order: ForwardOrder | None = None
    outbox: str = ""


@dataclass
class MemoryIntake:
    """The port to intake over a dict: the table of ``forward`` and ``void`` as a readable specification.

    ``fail`` holds, by method name, exceptions or functions that run before (``before_…``) or after (``after_…``) a call
    took effect, to lose its request or its answer.
    """

    records: dict[str, MemoryRecord] = field(default_factory=dict)
    voids: dict[str, int] = field(default_factory=dict)
    forwarded: list[ForwardOrder] = field(default_factory=list)
    resettled: list[tuple[str, int]] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    open_types: dict[str, int] = field(default_factory=dict)
    #: Type → its breakers, where the payload, which holds the name, chooses; else the type is its breaker's name.
    destinations: dict[str, Sequence[str]] = field(default_factory=dict)
    #: Types whose breaker is half open → how many calls it would let through.
    trial_types: dict[str, int] = field(default_factory=dict)
    #: Ids of messages that intake can never run, as far as ``forward_many`` is concerned.
    impossible: set[str] = field(default_factory=set)
    fail: dict[str, Exception | Callable[[], None]] = field(default_factory=dict)
    clock: Callable[[], int] = lambda: int(time.time() * 1000)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def now_ms(self) -> int:
        self._hook("before_now_ms")
        return self.clock()

    def forward(self, order: ForwardOrder) -> ForwardAnswer:
        self._hook("before_forward")
        with self._lock:
            answer = self._forward(order)
        self._hook("after_forward")
        return answer

    def forward_many(self, orders: Sequence[ForwardOrder]) -> list[ForwardAnswer]:
        self._hook("before_forward_many")
        with self._lock:
            answers = [
                ForwardAnswer(ForwardStatus.REFUSED, "bad id")
                if order.message_id in self.impossible
                else self._forward(order)
                for order in orders
            ]
        self._hook("after_forward_many")
        return answers

    def _forward(self, order: ForwardOrder) -> ForwardAnswer:
        record = self.records.get(order.message_id)
        if record and record.epoch == order.epoch and record.order is not None:
            return ForwardAnswer(ForwardStatus.FORWARDED)
        if self.voids.get(order.message_id, 0) >= order.epoch:
            return ForwardAnswer(ForwardStatus.VOIDED)
        if self.clock() > order.deadline_ms:
            return ForwardAnswer(ForwardStatus.TOO_LATE)
        if record and record.epoch > (order.epoch - 1 if order.epoch_seen is None else order.epoch_seen):
            return ForwardAnswer(ForwardStatus.SUPERSEDED, record.state)
        if record and self._is_in_the_way(record, order):
            return ForwardAnswer(ForwardStatus.BUSY, record.state)
        if record and record.state == "done" and not order.force:
            return ForwardAnswer(ForwardStatus.ALREADY_DONE, record.state)
        self.records[order.message_id] = MemoryRecord("queued", order.epoch, order)
        self.forwarded.append(order)
        return ForwardAnswer(ForwardStatus.FORWARDED)

    @staticmethod
    def _is_in_the_way(record: MemoryRecord, order: ForwardOrder) -> bool:
        if record.state == "dead_pending":
            return record.epoch > order.death_seen
        return record.state in ("scheduled", "queued", "running", "retry_wait") or (
            record.state == "done" and bool(record.outbox)
        )

    def void(self, message_id: str, epoch: int) -> VoidAnswer:
        self._hook("before_void")
        with self._lock:
            record = self.records.get(message_id)
            if record and record.epoch == epoch and record.order is not None:
                answer = VoidAnswer(exists=True, state=record.state)
            else:
                self.voids[message_id] = max(self.voids.get(message_id, 0), epoch)
                answer = VoidAnswer(exists=False)
        self._hook("after_void")
        return answer

    def open_among(self, message_ids: Sequence[str]) -> set[str]:
        self._hook("before_open_among")
        return {name for name in message_ids if name in self.records and self.records[name].state not in _ENDED}

    def unlist(self, message_ids: Sequence[str]) -> None:
        self._hook("before_unlist")
        self.unlisted += message_ids

    def resettle(self, message_id: str, epoch: int) -> None:
        self.resettled.append((message_id, epoch))

    def check_payload(self, payload: bytes) -> None:
        try:
            json.loads(payload)
        except ValueError as error:
            raise PayloadInvalid(errors=[{"field": "payload", "message": "must be JSON"}]) from error

    def breakers(self, types: Iterable[str], *, with_held: bool = False) -> Mapping[str, Sequence[BreakerSeen]]:
        self._hook("before_breakers")
        return {one: [self._breaker(name) for name in self.destinations.get(one, (one,))] for one in types}

    def _breaker(self, name: str) -> BreakerSeen:
        state = "OPEN" if name in self.open_types else "HALF_OPEN" if name in self.trial_types else "CLOSED"
        return BreakerSeen(name, state, self.trial_types.get(name, 0), (name,))

    def breaker_of(self, message_type: str, body: bytes) -> str | None:
        names = self.destinations.get(message_type, ())
        return next((name for name in names if name.encode() in body), message_type)

    def retry_after_ms(self, message_type: str, body: bytes = b"") -> int | None:
        return self.open_types.get(self.breaker_of(message_type, body) or "")

    def end(self, message_id: str, *, done: bool) -> Death | Settled:
        """Let the forwarded message end; the outcome as the outbox brings it."""
        record = self.records[message_id]
        assert record.order is not None  # noqa: S101  only a forwarded message ends here
        order = record.order
        record.state, record.outbox = ("done", "settle") if done else ("dead_pending", "death")
        if done:
            return a_settlement(message_id, epoch=record.epoch, replay_id=order.replay_id)
        body = order.run_body or order.body
        return a_death(
            message_id, epoch=record.epoch, body=body, replay_id=order.replay_id, batch_id=order.batch_id or None
        )

    def _hook(self, name: str) -> None:
        hook = self.fail.get(name)
        if isinstance(hook, Exception):
            raise hook
        if hook is not None:
            hook()


def lose_answer(times: int = 1) -> Callable[[], None]:
    """A hook that loses the first ``times`` answers."""
    left = [times]

    def hook() -> None:
        if left[0] > 0:
            left[0] -= 1
            raise StoreUnavailable("the answer was lost")

    return hook


__all__ = [
    "NOON",
    "STACK",
    "MemoryIntake",
    "MemoryRecord",
    "a_death",
    "a_document",
    "a_letter",
    "a_settlement",
    "an_attempt",
    "lose_answer",
]
