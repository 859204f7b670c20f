"""Replaying one letter: claim, forward, and, if that cannot be, bar the way before saying so.

Between any two steps this process may be killed, and any answer may be lost. So each step can be repeated; the letter
says whose claim it is; and a claim is given back only after intake has promised that its message will never run.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from dlq_app.domain import errors
from dlq_app.domain.difference import diff
from dlq_app.domain.errors import DeadLetterError, OrderRefused, StoreUnavailable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.ports import ForwardAnswer, ForwardOrder, ForwardStatus, IntakePort
from dlq_app.domain.states import Resolution, Status, Verb, is_allowed
from dlq_app.store import repository
from dlq_app.store.repository import ClaimOrder, Letters
from processes.names import process_name

log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: Intake must not carry out a forward later than this after the claim began: the sweep may have ended it by then.
FORWARD_WITHIN = timedelta(minutes=4)
#: How long a claimant asks again when intake gives no answer, before it bars the way.
ASK_AGAIN_S = 5.0
#: When an automatic replay that met a running message is due again.
BUSY_WAIT = timedelta(minutes=5)
_PAUSE_S = 0.1
#: A letter that changes hands at every look is not ours to replay now.
_CLAIM_TURNS = 5
_NOT_STARTED: dict[ForwardStatus | None, str] = {
    ForwardStatus.VOIDED: "the sweep ended the claim",
    ForwardStatus.TOO_LATE: "the request took too long to reach intake",
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """The letter is claimed and its message is on its way; the outcome will come to the letter."""

    replay_id: str
    message_id: str
    letter_id: str


@dataclass(frozen=True, slots=True)
class AlreadyClaimed:
    """Somebody else's replay of this letter, or its message, is under way."""

    message_id: str
    #: The other replay, or the state of the message that is in the way.
    by: str


@dataclass(frozen=True, slots=True)
class NotReplayable:
    """The letter's status does not allow it: resolved letters need ``force``. Or intake can never run its message."""

    message_id: str
    status: Status
    why: str = ""


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """A newer run of the message ended well: a letter that waited now waits for a person."""

    message_id: str
    #: It was resolved before, and still is: there is nothing for a person to do.
    stays_resolved: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The circuit breaker of this type is open; nothing was claimed."""

    message_id: str
    message_type: str
    #: Seconds.
    retry_after: float


@dataclass(frozen=True, slots=True)
class NotStarted:
    """Intake did not take the message, and never will for this claim: the letter is where it was."""

    message_id: str
    why: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no such letter."""

    ref: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Intake gives no answer. The claim stands; the outbox or the sweep ends it."""

    replay_id: str
    message_id: str


ReplayAnswer = Replayed | AlreadyClaimed | NotReplayable | AlreadyDone | Refused | NotStarted | NotFound | Unknown


def refusal(answer: ReplayAnswer) -> DeadLetterError | None:
    """The answer as a problem for whoever asked; None when the replay is on its way."""
    match answer:
        case Replayed():
            return None
        case AlreadyClaimed(message_id, by):
            return errors.ReplayInFlight(
                f"{message_id} is already running or being replayed ({by or 'by another client'})."
            )
        case NotReplayable(message_id, _, why) if why:
            return errors.OrderRefused(f"{message_id} cannot be replayed: {why}")
        case NotReplayable(message_id, status):
            hint = "; set `force` to replay it anyway" if status is Status.RESOLVED else ""
            return errors.MoveRefused(f"{message_id} is {status}{hint}.")
        case AlreadyDone(message_id, stays_resolved):
            left = "stays resolved" if stays_resolved else "now needs a decision"
            return errors.AlreadyDone(
                f"A newer run of {message_id} succeeded; the letter {left}. "
                "It can be replayed when intake no longer has a record of that run."
            )
        case Refused(message_id, message_type, retry_after):
            detail = f"The circuit breaker of {message_type} is open; {message_id} was not changed."
            return errors.CircuitOpen(detail, retry_after=retry_after)
        case NotStarted(message_id, why):
            return errors.NotStarted(f"{message_id} was not started: {why}. Try again.", retry_after=1)
        case NotFound(ref):
            return errors.LetterNotFound(f"There is no dead letter {ref}.")
        case Unknown():
            return errors.ReplayUnknown(retry_after=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """Who wants a letter replayed, and how."""

    #: Made before anything is sent, so that a repetition is recognised.
    replay_id: str
    kind: str
    by: str
    why: str = ""
    force: bool = False
    #: Edited payload text; None replays the original.
    payload: bytes | None = None
    batch_id: str = ""


def new_replay_id() -> str:
    return f"r-{uuid.uuid4().hex}"


class Replayer:
    """Replays letters of one repository through one port. Holds nothing between calls; threads may share it."""

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
        """All steps for a letter that was just read. The payload of the request has been checked.

        Raises ``StoreUnavailable`` only before anything is claimed, or when MongoDB does not say whether it is: then
        the sweep ends what there is, and asking again with the same ``replay_id`` goes on with it.
        """
        wait_ms = self._port.retry_after_ms(letter.type, letter.body if request.payload is None else request.payload)
        if wait_ms is not None:
            return Refused(letter.message_id, letter.type, max(wait_ms, 0) / 1000)
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
                return current  # claimed by an earlier asking, whose answer was lost
            if current.status is Status.PROCESSING:
                return AlreadyClaimed(current.message_id, current.claim.replay_id if current.claim else "")
            if not request.force and not is_allowed(Verb.CLAIM, current.status):
                return NotReplayable(current.message_id, current.status)
            # Outside of the try: while MongoDB's time is not known, nothing has been asked of it.
            order = self._order(current, request)
            try:
                claimed = self._letters.claim(current, order)
            except StoreUnavailable:
                claimed = None  # applied or not: the letter says whose it is
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
        """Send a claimed letter's message on its way. ``began_ms`` is intake's clock from before the claim."""
        order = order_of(claimed, began_ms + int(FORWARD_WITHIN.total_seconds() * 1000), force=force)
        try:
            answer = self._ask(lambda: self._port.forward(order))
        except OrderRefused as error:
            return self.require_decision(claimed, str(error))
        if answer is not None and answer.status is ForwardStatus.FORWARDED:
            return _replayed(claimed)
        return self.end_claim(claimed, answer)

    def end_claim(self, claimed: DeadLetter, answer: ForwardAnswer | None) -> ReplayAnswer:
        """End a claim whose forward was refused, or to which intake gave no answer (None)."""
        # Refused or unknown: an earlier copy of the order may still be under way, so bar its way before saying "no".
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
        """Intake can never hold this epoch's message, so there is no way to bar before the claim ends."""
        status = self._end_unreplayable(claimed, f"not started: {why}")
        log.error("letter_not_replayable", extra={"letter_id": claimed.id, "why": why})
        return NotReplayable(claimed.message_id, status, why)

    def _end_unreplayable(self, claimed: DeadLetter, why: str) -> Status:
        """End a claim that no repetition would bring further; where the letter is now.

        A person has to decide, unless the letter was resolved and only replayed by force: then nothing has changed.
        """
        if claimed.claim and claimed.claim.came_from is Status.RESOLVED:
            self._letters.release(claimed, why=why, now=self._now())
            return Status.RESOLVED
        self._letters.hand_over(claimed, why=why, now=self._now())
        return Status.MANUAL

    def _ask(self, question: Callable[[], _T]) -> _T | None:
        """The answer, or None when intake gave none for five seconds. Every question may be repeated."""
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
        """Look after a claim older than five minutes and bar its way, in one step; what was done, in a word.

        Raises ``StoreUnavailable`` when intake gives no answer: then nothing is done.
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
            # It ended, and the letter does not know: a MongoDB restored from a backup.
            self._port.resettle(letter.message_id, letter.fence)
        self._letters.keep_claimed(letter)
        return "runs"


def order_of(claimed: DeadLetter, deadline_ms: int, *, force: bool) -> ForwardOrder:
    """What intake needs to run a claimed letter's message, even if it has forgotten it long ago."""
    claim = claimed.claim
    version = claim.version if claim else 0
    edited = next((v for v in claimed.versions if v.get("version") == version), None) if version else None
    metadata = claimed.metadata
    tags = metadata.get("tags")
    queued_at = claimed.queued_at or claimed.first_failed_at
    # Intake takes no time before 1970, and none after this order ends. A letter that says so is still replayable.
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
        deadline_ms=deadline_ms,
        prior_runs=claimed.prior_runs,
        force=force,
        ended_done=claimed.resolution is Resolution.REPLAYED,
    )


def _replayed(claimed: DeadLetter) -> Replayed:
    return Replayed(claimed.claim.replay_id if claimed.claim else "", claimed.message_id, claimed.id)
