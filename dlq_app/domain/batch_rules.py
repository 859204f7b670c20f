"""Rules of a replay batch: the next stage, how many letters may be sent, and what to do with each letter.

Pure functions of a batch or letter as it was read. The caller applies the result with one conditional update, which
changes nothing if the batch or the letter has changed since.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.replay_batch import (
    BY_BREAKER,
    BY_OPERATOR,
    CANARY_FAILED,
    FINAL,
    MIN_JUDGED,
    SENDING,
    TOO_MANY_FAILURES,
    BreakerSeen,
    ReplayBatch,
    Stage,
)
from dlq_app.domain.states import WAITING, Status

#: Letters taken at once. After a cancel, letters that were already taken may still be sent.
CHUNK = 50
#: Maximum chunk of a batch without limits: letters, and bytes of payload.
LARGE_CHUNK = 250
CHUNK_BYTES = 8 * 1024 * 1024
#: A batch with a rate takes the letters that the rate allows in this time, at least one.
RATE_SLICE_S = 0.1
#: Maximum delay that a late executor makes up for: keeps the rate exact without a burst after a pause.
CATCH_UP = timedelta(milliseconds=250)
#: Maximum number of letters of one batch in flight.
WINDOW = 2000
#: Maximum payload of the letters of one batch in flight.
WINDOW_BYTES = 32 * 1024 * 1024
#: Without it, 0.1 times 30 rounds down to 2.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Move:
    """A change of stage and the fields that change with it."""

    to: Stage
    resume_to: Stage | None = None
    paused_by: str = ""
    stop_reason: str = ""
    canary_passed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """A batch as its executor sees it at one point in time."""

    #: With the counts of that time.
    batch: ReplayBatch
    #: Letters before this place were taken.
    next_seq: int
    #: Letters that were taken and have no outcome yet.
    under_way: int
    #: Whether ``scheduledAt`` has passed.
    is_due: bool = True
    #: The circuit breaker of the next letter, if it does not let every call pass.
    blocked_by: BreakerSeen | None = None

    @property
    def all_taken(self) -> bool:
        return self.next_seq >= self.batch.total


def next_move(view: BatchView) -> Move | None:
    """The stage to which an executor may move the batch now; None: it stays."""
    batch = view.batch
    match batch.stage:
        case Stage.PLANNED if view.is_due:
            return Move(Stage.CANARY if batch.canary else Stage.RUNNING)
        case Stage.CANARY:
            return _judge_canary(view) or _pause_by_breaker(view)
        case Stage.RUNNING:
            if is_over_budget(batch):
                return Move(Stage.STOPPED, stop_reason=TOO_MANY_FAILURES)
            if view.all_taken and view.under_way == 0:
                return Move(Stage.FINISHED)
            return _pause_by_breaker(view)
        case Stage.PAUSED if batch.paused_by == BY_BREAKER and view.blocked_by is None:
            return Move(batch.resume_to or Stage.RUNNING)
        case _:
            return None


def _judge_canary(view: BatchView) -> Move | None:
    """Start or stop the batch once all letters of the canary have their outcome."""
    canary, counts = view.batch.canary, view.batch.counts
    if canary is None:
        return Move(Stage.RUNNING)
    # Only canary letters are taken in this stage, so the counts are the canary's. Skipped letters are replaced.
    if view.under_way or (counts.ended < canary.size and not view.all_taken):
        return None
    if counts.failed > canary.failures_allowed:
        return Move(Stage.STOPPED, stop_reason=CANARY_FAILED)
    return Move(Stage.RUNNING, canary_passed=True)


def _pause_by_breaker(view: BatchView) -> Move | None:
    if view.blocked_by is None or view.all_taken:
        return None
    return Move(Stage.PAUSED, resume_to=view.batch.stage, paused_by=BY_BREAKER)


def is_over_budget(batch: ReplayBatch) -> bool:
    """Whether more letters have failed than ``max_failures`` or ``max_failure_rate`` allows."""
    failed, ended = batch.counts.failed, batch.counts.ended
    if batch.max_failures is not None and failed > batch.max_failures:
        return True
    return batch.max_failure_rate is not None and ended >= MIN_JUDGED and failed > batch.max_failure_rate * ended


def pause_by_operator(stage: Stage, resume_to: Stage | None) -> Move | None:
    """The move for an operator's pause; None: not allowed in this stage."""
    if stage in SENDING:
        return Move(Stage.PAUSED, resume_to=stage, paused_by=BY_OPERATOR)
    if stage is Stage.PAUSED:
        return Move(Stage.PAUSED, resume_to=resume_to, paused_by=BY_OPERATOR)
    return None


def resume_by_operator(stage: Stage, resume_to: Stage | None) -> Move | None:
    """Return to the paused stage, so that a pause never skips the canary."""
    return Move(resume_to or Stage.RUNNING) if stage is Stage.PAUSED else None


def cancel_by_operator(stage: Stage, reason: str) -> Move | None:
    return None if stage in FINAL else Move(Stage.CANCELLED, stop_reason=reason)


# --- how many letters ---


def allowance(view: BatchView, *, bytes_each: float = 0.0) -> int:
    """How many letters may be taken now, from 0 to ``LARGE_CHUNK``. Breakers may reduce it: see ``passing``."""
    batch = view.batch
    if batch.stage not in SENDING and not is_trying(view):
        return 0
    maximum = min(
        chunk_size(batch, bytes_each=bytes_each),
        batch.total - view.next_seq,
        window(batch, bytes_each) - view.under_way,
    )
    if batch.canary and Stage.CANARY in (batch.stage, batch.resume_to):
        maximum = min(maximum, batch.canary.size - batch.counts.ended - view.under_way)
    return max(0, maximum)


def has_budget(batch: ReplayBatch) -> bool:
    return batch.max_failures is not None or batch.max_failure_rate is not None


def is_limited(batch: ReplayBatch) -> bool:
    """Whether every letter counts: before the canary's verdict, or with a rate or a budget."""
    return batch.stage is not Stage.RUNNING or batch.rate_per_second is not None or has_budget(batch)


def chunk_size(batch: ReplayBatch, *, bytes_each: float) -> int:
    """Maximum number of letters in one chunk. ``bytes_each``: average payload of a letter; 0: not known yet."""
    if not is_limited(batch) and bytes_each > 0:
        return min(LARGE_CHUNK, max(1, int(CHUNK_BYTES / bytes_each)))
    if batch.rate_per_second is None:
        return CHUNK
    # Small chunks: with large ones the rate would be visible as steps.
    return min(CHUNK, max(1, math.ceil(batch.rate_per_second * RATE_SLICE_S)))


def is_trying(view: BatchView) -> bool:
    """Whether a batch paused by a breaker may send a few letters as the breaker's trial calls.

    Without any call the breaker would stay open and the batch paused. Only while no letter of the batch is in flight.
    """
    return view.batch.stage is Stage.PAUSED and view.batch.paused_by == BY_BREAKER and view.under_way == 0


def window(batch: ReplayBatch, bytes_each: float = 0.0) -> int:
    """Maximum number of letters in flight."""
    maximum = WINDOW
    if bytes_each > 0:
        maximum = min(maximum, max(1, int(WINDOW_BYTES / bytes_each)))
    if batch.max_failures is not None:
        # If all of them fail, only the last one exceeds the budget.
        maximum = min(maximum, max(0, batch.max_failures - batch.counts.failed) + 1)
    if batch.max_failure_rate is not None:
        maximum = min(maximum, _rate_window(batch.max_failure_rate, batch.counts.failed, batch.counts.ended))
    return maximum


def _rate_window(max_rate: float, failed: int, ended: int) -> int:
    """Maximum number of letters in flight of which, if all fail, only the last exceeds the failure rate.

    Until ``MIN_JUDGED`` letters have ended the rate is not judged, and that many may be in flight.
    """
    unjudged = MIN_JUDGED - ended
    if max_rate >= 1:
        return WINDOW
    # With n more failures the rate is kept while failed + n <= max_rate * (ended + n).
    within = math.floor((max_rate * ended - failed) / (1 - max_rate) + _ROUNDING)
    return max(unjudged, within + 1, 1)


def failures_at_most(count: int, max_failures: int | None, max_failure_rate: float | None) -> int | None:
    """Maximum failures among ``count`` letters before a batch with this budget stops; None without a budget."""
    bounds = [count]
    if max_failures is not None:
        bounds.append(max_failures + 1)
    if max_failure_rate is not None:
        bounds.append(max(MIN_JUDGED, math.floor(max_failure_rate * count + _ROUNDING) + 1))
    return min(bounds) if len(bounds) > 1 else None


def passing(names: Sequence[str | None], breakers: Mapping[str, BreakerSeen], *, trying: bool) -> int:
    """How many of the next letters their circuit breakers allow. ``names``: the breaker of each letter.

    A breaker that is not in ``breakers`` allows every call. While ``trying``, one that is not closed allows its trials.
    """
    trials = {name: seen.trials if trying else 0 for name, seen in breakers.items() if not seen.passes}
    for place, name in enumerate(names):
        if name in trials:
            if trials[name] <= 0:
                return place
            trials[name] -= 1
    return len(names)


# --- one letter ---


@dataclass(frozen=True, slots=True)
class Claim:
    """The letter waits: claim it."""


@dataclass(frozen=True, slots=True)
class OwnLetter:
    """Already claimed for this batch, not forwarded yet: forward it."""


@dataclass(frozen=True, slots=True)
class Copy:
    """This batch's replay of the letter has ended: copy its outcome."""

    outcome: str
    error_type: str


@dataclass(frozen=True, slots=True)
class Skip:
    """Do not replay the letter. Record the skip on the letter first, unless it is gone: that prevents a later claim."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """This batch's replay of the letter is in flight."""


Step = Claim | OwnLetter | Copy | Skip | Wait


def next_step(letter: DeadLetter | None, batch_id: str, *, skipped: bool, ending: bool, poison: bool = True) -> Step:
    """What to do with a letter of the plan. ``skipped``: the letter records that this batch skips it.

    ``poison``: the batch replays letters whose message may kill its process. ``ending``: the batch sends nothing more,
    so a letter that is not claimed for it never will be.
    """
    if letter is None:
        return Skip("gone")
    if letter.status is Status.PROCESSING and letter.claim and letter.claim.batch_id == batch_id:
        return Wait() if ending else OwnLetter()
    attempt = next((one for one in reversed(letter.replay_attempts) if one.get("batchId") == batch_id), None)
    if attempt is not None:
        outcome = attempt.get("outcome")
        return copied(str(outcome), attempt) if outcome else Wait()
    if letter.status is Status.RESOLVED:
        return Skip("resolved")
    if skipped or letter.status not in WAITING:
        return Skip("in_flight")
    if ending:
        return Skip("cancelled")
    # Its message was lost only after the plan was made.
    return Skip("poison") if letter.is_poison and not poison else Claim()


def copied(outcome: str, attempt: Mapping[str, object]) -> Copy:
    """An attempt's outcome in the form of an item. A superseded attempt was cut off by a new message with its id."""
    if outcome == "superseded":
        return Copy("skipped:superseded", "")
    return Copy(outcome, str(attempt.get("errorType") or ""))
