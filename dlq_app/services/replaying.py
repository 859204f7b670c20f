"""Replay one letter: claim it, forward its message, and if that fails, void the epoch and release the claim.

Between any two steps this process can be killed, and any answer can be lost. So each step can be repeated, the letter
stores the owner of its claim, and a claim is released only after intake has confirmed that its message will never run.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from dlq_app.domain import errors
from dlq_app.domain.difference import diff
from dlq_app.domain.errors import DeadLetterError, OrderRefused, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus, IntakePort
from dlq_app.domain.standing import standing as standing_of
from dlq_app.domain.states import Resolution, Status, Verb, is_allowed
from dlq_app.store import repository
from dlq_app.store.repository import ClaimOrder, Letters
from processes import tracing
from processes.names import process_name

log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Intake must not execute a forward later than this after the claim began: the sweep may have ended the claim.
FORWARD_WITHIN = timedelta(minutes=4)
#: Seconds of retries when intake does not answer, before the epoch is voided.
ASK_AGAIN_S = 5.0
#: Wait of an automatic replay whose message is already running.
BUSY_WAIT = timedelta(minutes=5)
_PAUSE_S = 0.1
#: Attempts to claim a letter that others keep changing.
_CLAIM_TURNS = 5
_NOT_STARTED: dict[ForwardStatus | None, str] = {
    ForwardStatus.VOIDED: "the sweep ended the claim",
    ForwardStatus.TOO_LATE: "the request took too long to reach intake",
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """The letter is claimed and its message is forwarded; the letter will get the outcome."""

    replay_id: str
    message_id: str
    letter_id: str


@dataclass(frozen=True, slots=True)
class AlreadyClaimed:
    """Another replay of this letter, or its message, is in progress."""

    message_id: str
    #: The other replay, or the state of the message.
    by: str
    #: What the letter's record says about that replay, as a predicate.
    standing: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class NotReplayable:
    """The letter's status does not allow a replay (resolved letters need ``force``), or intake can never run it."""

    message_id: str
    status: Status
    why: str = ""
    #: Who brought the letter into this status, and when, as a predicate.
    standing: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """A newer run of the message succeeded: an open letter now needs a decision."""

    message_id: str
    #: It was resolved before and still is: no decision is needed.
    stays_resolved: bool = False


@dataclass(frozen=True, slots=True)
class Poison:
    """The message probably kills the process that runs it, and the request does not confirm that."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The circuit breaker of this message is open; nothing was claimed."""

    message_id: str
    message_type: str
    #: Seconds.
    retry_after: float
    #: Name of the breaker; empty if intake does not know it any more.
    breaker: str = ""


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Intake did not accept the message and never will for this claim: the letter is unchanged."""

    message_id: str
    why: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no such letter."""

    ref: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Intake does not answer. The claim remains until the outbox or the sweep ends it."""

    replay_id: str
    message_id: str


ReplayAnswer = (
    Replayed | AlreadyClaimed | NotReplayable | Poison | AlreadyDone | Refused | NotStarted | NotFound | Unknown
)


def refusal(answer: ReplayAnswer) -> DeadLetterError | None:
    """The answer as a problem for the client; None when the replay has started."""
    match answer:
        case Replayed():
            return None
        case AlreadyClaimed(message_id, _, standing) if standing:
            return errors.ReplayInFlight(f"{message_id} {standing}.")
        case AlreadyClaimed(message_id, by):
            return errors.ReplayInFlight(
                f"{message_id} is already running or being replayed ({by or 'by another client'})."
            )
        case NotReplayable(message_id, _, why) if why:
            return errors.OrderRefused(f"{message_id} cannot be replayed: {why}")
        case NotReplayable(message_id, status, _, standing):
            hint = "; set `force` to replay it anyway" if status is Status.RESOLVED else ""
            return errors.MoveRefused(f"{message_id} {standing or f'is {status.word}'}{hint}.")
        case Poison(message_id):
            return errors.PoisonUnconfirmed(
                f"{message_id} was lost with its worker process each time it ran, so it probably kills the process. "
                "Set `poison` to replay it anyway: once, in a process without other messages."
            )
        case AlreadyDone(message_id, stays_resolved):
            left = "stays resolved" if stays_resolved else "now needs a decision"
            return errors.AlreadyDone(
                f"A newer run of {message_id} succeeded; the letter {left}. "
                "It can be replayed when intake no longer has a record of that run."
            )
        case Refused(message_id, message_type, retry_after, breaker):
            which = f"The circuit breaker {breaker}" if breaker else f"The circuit breaker of {message_type}"
            detail = f"{which} is open; {message_id} was not changed."
            return errors.CircuitOpen(detail, retry_after=retry_after)
        case NotStarted(message_id, why):
            return errors.NotStarted(f"{message_id} was not started: {why}. Try again.", retry_after=1)
        case NotFound(ref):
            return errors.LetterNotFound(f"There is no dead letter {ref}.")
        case Unknown():
            return errors.ReplayUnknown(retry_after=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """A request to replay a letter."""

    #: Created before anything is sent, so that a repetition is recognised.
    replay_id: str
    kind: str
    by: str
    why: str = ""
    force: bool = False
    #: The requester knows that the message may kill the process that runs it.
    poison: bool = False
    #: Edited payload text; None replays the original.
    payload: bytes | None = None
    batch_id: str = ""


def new_replay_id() -> str:
    return f"r-{uuid.uuid4().hex}"


class Replayer:
    """Replays letters of one repository through one port. Stateless; threads can share it."""

    def __init__(
        self,
        letters: Letters,
        port: IntakePort,
        *,
        now: Callable[[], datetime] = repository.now,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._letters = letters
        self._port = port
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._me = process_name()

    def replay(self, letter: DeadLetter, request: ReplayRequest) -> ReplayAnswer:
        """Replay a letter that was just read. The payload of the request has been checked.

        Raises ``StoreUnavailable`` only before the claim, or when it is unknown whether MongoDB applied it: then the
        sweep ends the claim, and a repetition with the same ``replay_id`` continues it.
        """
        body = letter.body if request.payload is None else request.payload
        wait_ms = self._port.retry_after_ms(letter.type, body)
        if wait_ms is not None:
            name = self._port.breaker_of(letter.type, body) or ""
            return Refused(letter.message_id, letter.type, max(wait_ms, 0) / 1000, name)
        began_ms = self._port.now_ms()
        claimed = self._claim(letter, request)
        if not isinstance(claimed, DeadLetter):
            return claimed
        return self.forward(claimed, began_ms, force=request.force)

    def _claim(self, letter: DeadLetter, request: ReplayRequest) -> DeadLetter | ReplayAnswer:
        current: DeadLetter | None = letter
        for _ in range(_CLAIM_TURNS):
            if current is None:
                return NotFound(letter.message_id)
            if current.claim and current.claim.replay_id == request.replay_id:
                return current  # claimed by an earlier request whose answer was lost
            if current.status is Status.PROCESSING:
                by = current.claim.replay_id if current.claim else ""
                return AlreadyClaimed(current.message_id, by, standing_of(current))
            if not request.force and not is_allowed(Verb.CLAIM, current.status):
                return NotReplayable(current.message_id, current.status, standing=standing_of(current))
            if current.is_poison and not request.poison:
                return Poison(current.message_id)
            # Outside of the try: while MongoDB's time is not known, nothing has been asked of it.
            order = self._order(current, request)
            try:
                claimed = self._letters.claim(current, order)
            except StoreUnavailable:
                claimed = None  # applied or not: the letter shows its owner
            if claimed is not None:
                return claimed
            current = self._letters.get(letter.id)
        return AlreadyClaimed(letter.message_id, "")

    def _order(self, letter: DeadLetter, request: ReplayRequest) -> ClaimOrder:
        edited = request.payload.decode("utf-8") if request.payload is not None else None
        return ClaimOrder(
            replay_id=request.replay_id,
            kind=request.kind,
            by=request.by,
            why=request.why,
            batch_id=request.batch_id,
            locked_by=self._me,
            at=self._now(),
            force=request.force,
            edited=edited,
            diff=diff(letter.text, edited) if edited is not None else "",
        )

    def forward(self, claimed: DeadLetter, began_ms: int, *, force: bool) -> ReplayAnswer:
        """Forward a claimed letter's message. ``began_ms`` is the time of intake's clock before the claim."""
        order = order_of(claimed, began_ms + int(FORWARD_WITHIN.total_seconds() * 1000), force=force)
        try:
            answer = self._ask(lambda: self._port.forward(order))
        except OrderRefused as error:
            return self.require_decision(claimed, str(error))
        if answer is not None and answer.status is ForwardStatus.FORWARDED:
            return _replayed(claimed)
        return self.end_claim(claimed, answer)

    def end_claim(self, claimed: DeadLetter, answer: ForwardAnswer | None) -> ReplayAnswer:
        """End a claim whose forward was rejected, or to which intake did not answer (None)."""
        # Rejected or unknown: an earlier copy of the order may still arrive, so void it before answering.
        voided = self._ask(lambda: self._port.void(claimed.message_id, claimed.fence))
        if voided is None:
            return Unknown(claimed.claim.replay_id if claimed.claim else "", claimed.message_id)
        if voided.exists:
            return _replayed(claimed)
        return self._release(claimed, answer)

    def _release(self, claimed: DeadLetter, answer: ForwardAnswer | None) -> ReplayAnswer:
        status = answer.status if answer else None
        is_done = status is ForwardStatus.ALREADY_DONE or (
            status is ForwardStatus.SUPERSEDED and answer is not None and answer.state == "done"
        )
        if is_done:
            was_resolved = self._end_unreplayable(claimed, "a newer run of this message succeeded") is Status.RESOLVED
            return AlreadyDone(claimed.message_id, stays_resolved=was_resolved)
        if answer is not None and status in (ForwardStatus.BUSY, ForwardStatus.SUPERSEDED):
            why = f"the message is {answer.state}"
            self._letters.release(claimed, why=why, now=self._now(), next_retry_at=self._now() + BUSY_WAIT)
            return AlreadyClaimed(claimed.message_id, answer.state)
        why = _NOT_STARTED.get(status, "intake did not answer")
        self._letters.release(claimed, why=f"not started: {why}", now=self._now())
        return NotStarted(claimed.message_id, why)

    def require_decision(self, claimed: DeadLetter, why: str) -> NotReplayable:
        """Intake can never have this epoch's message, so the claim ends without a void."""
        status = self._end_unreplayable(claimed, f"not started: {why}")
        log.error("letter_not_replayable", extra={"letter_id": claimed.id, "why": why})
        return NotReplayable(claimed.message_id, status, why)

    def _end_unreplayable(self, claimed: DeadLetter, why: str) -> Status:
        """End a claim whose repetition would fail as well; returns the letter's status.

        The letter needs a decision, unless it was resolved and replayed by force: then it is unchanged.
        """
        if claimed.claim and claimed.claim.came_from is Status.RESOLVED:
            self._letters.release(claimed, why=why, now=self._now())
            return Status.RESOLVED
        self._letters.hand_over(claimed, why=why, now=self._now())
        return Status.MANUAL

    def _ask(self, question: Callable[[], _T]) -> _T | None:
        """The answer, or None when intake did not answer for five seconds. Every request can be repeated."""
        until = self._monotonic() + ASK_AGAIN_S
        while True:
            try:
                return question()
            except StoreUnavailable as error:
                if self._monotonic() >= until:
                    log.warning("intake_silent", extra={"why": str(error)})
                    return None
                self._sleep(_PAUSE_S)

    def end_stale(self, letter: DeadLetter) -> str:
        """Void the epoch of a claim older than five minutes and end it; returns the result as one word.

        Raises ``StoreUnavailable`` without a change when intake does not answer.
        """
        if letter.fence == 0:
            self._letters.release(letter, why="the claim was damaged", now=self._now())
            return "released"
        try:
            answer = self._port.void(letter.message_id, letter.fence)
        except OrderRefused as error:
            self.require_decision(letter, str(error))
            return "released"
        if not answer.exists:
            released = self._letters.release(letter, why="the claim went stale: nothing was started", now=self._now())
            return "released" if released else "moved"
        if answer.state in ("done", "dead", "dead_pending"):
            # It ended, but the letter has no outcome: MongoDB was restored from a backup.
            self._port.resettle(letter.message_id, letter.fence)
        self._letters.keep_claimed(letter)
        return "runs"


def order_of(claimed: DeadLetter, deadline_ms: int, *, force: bool) -> ForwardOrder:
    """The order to run a claimed letter's message, complete even if intake has no record of it."""
    claim = claimed.claim
    version = claim.version if claim else 0
    edited = next((v for v in claimed.versions if v.get("version") == version), None) if version else None
    metadata = claimed.metadata
    tags = metadata.get("tags")
    queued_at = claimed.queued_at or claimed.first_failed_at
    # Intake accepts no time before 1970 and none after the deadline. A letter with such a time is still replayable.
    queued_at_ms = min(max(round(queued_at.timestamp() * 1000), 0), deadline_ms)
    return ForwardOrder(
        message_id=claimed.message_id,
        epoch=claimed.fence,
        type=claimed.type,
        body=claimed.body,
        run_body=str(edited["payload"]).encode() if edited else None,
        version=version,
        priority=str(metadata.get("priority") or "normal"),
        source=str(metadata.get("source") or ""),
        client=str(metadata.get("client") or ""),
        tags=json.dumps(tags if isinstance(tags, list) else [], ensure_ascii=False),
        queued_at_ms=queued_at_ms,
        acct_day=claimed.acct_day,
        replay_id=claim.replay_id if claim else "",
        batch_id=claim.batch_id if claim else "",
        death_seen=claimed.closed_epoch,
        epoch_seen=_epoch_seen(claimed),
        deadline_ms=deadline_ms,
        prior_runs=claimed.prior_runs,
        force=force,
        ended_done=claimed.resolution is Resolution.REPLAYED,
        alone=claimed.is_poison,
        traceparent=_trace_of(claimed) if tracing.is_on else claimed.traceparent,
    )


def _epoch_seen(claimed: DeadLetter) -> int:
    """The newest epoch that the letter knew of at its claim: a newer one belongs to another life of the message."""
    if claimed.claim and claimed.claim.fence_before is not None:
        return claimed.claim.fence_before
    epochs = [one.get("epoch") for one in claimed.replay_attempts if one.get("outcome")]
    known = max([claimed.closed_epoch, *(epoch for epoch in epochs if isinstance(epoch, int))])
    return min(known, claimed.fence - 1)


def _trace_of(claimed: DeadLetter) -> str:
    """A span for the replay, in the trace of the message. The attempts of the replay are its parts."""
    claim = claimed.claim
    return tracing.mark(
        f"replay {claimed.type}",
        "producer",
        claimed.traceparent,
        {
            "messaging.system": "dlq",
            "messaging.destination.name": claimed.type,
            "messaging.message.id": claimed.message_id,
            "dlq.epoch": claimed.fence,
            "dlq.replay.id": claim.replay_id if claim else "",
            "dlq.replay.kind": claim.kind if claim else "",
            "dlq.batch.id": claim.batch_id if claim else "",
        },
    )


def _replayed(claimed: DeadLetter) -> Replayed:
    return Replayed(claimed.claim.replay_id if claimed.claim else "", claimed.message_id, claimed.id)
