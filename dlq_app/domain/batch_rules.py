"""What may follow on what: moves of a batch, how much it may send next, what is to be done with one letter. Pure.

Each function takes what was seen and answers; whoever asked carries it out by one conditional update, which finds
nothing to change when the batch or the letter has moved in between.
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
    LEAST_JUDGED,
    SENDING,
    TOO_MANY_FAILURES,
    BatchCounts,
    BreakerSeen,
    Canary,
    Stage,
)
from dlq_app.domain.states import WAITING, Status

#: Letters that are taken at once. What was taken may still be sent after a cancel.
CHUNK = 50
#: The same when nothing limits the batch, and bytes of payload that they may have together.
LARGE_CHUNK = 250
CHUNK_BYTES = 8 * 1024 * 1024
#: A batch with a rate takes what the rate allows in this time, at least one letter.
RATE_SLICE_S = 0.1
#: How much a late taker may catch up on: what keeps the rate exact without a burst after a pause.
CATCH_UP = timedelta(milliseconds=250)
#: Letters of one batch that are under way at the same time.
WINDOW = 2000
#: The same in bytes of payload.
WINDOW_BYTES = 32 * 1024 * 1024
#: Keeps a rate like 0.1 times 30 from coming out a hair below 3.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Move:
    """One change of stage, with what goes with it."""

    to: Stage
    resume_to: Stage | None = None
    paused_by: str = ""
    stop_reason: str = ""
    canary_passed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """A batch as its executor sees it at one instant."""

    stage: Stage
    resume_to: Stage | None
    paused_by: str
    canary: Canary | None
    max_failures: int | None
    max_failure_rate: float | None
    total: int
    #: Letters before this place were taken.
    next_seq: int
    counts: BatchCounts
    #: Letters that were taken and have no outcome yet.
    under_way: int
    #: Whether ``scheduledAt`` has come.
    is_due: bool
    #: The breaker that the next letter would meet, if it lets not everything through.
    blocked_by: BreakerSeen | None = None

    @property
    def all_taken(self) -> bool:
        return self.next_seq >= self.total


def next_move(seen: BatchSeen) -> Move | None:
    """The stage that an executor may lead this batch to now; None: it stays."""
    match seen.stage:
        case Stage.PLANNED if seen.is_due:
            return Move(Stage.CANARY if seen.canary else Stage.RUNNING)
        case Stage.CANARY:
            return _judged(seen) or _blocked(seen)
        case Stage.RUNNING:
            if is_over_budget(seen):
                return Move(Stage.STOPPED, stop_reason=TOO_MANY_FAILURES)
            if seen.all_taken and seen.under_way == 0:
                return Move(Stage.FINISHED)
            return _blocked(seen)
        case Stage.PAUSED if seen.paused_by == BY_BREAKER and seen.blocked_by is None:
            return Move(seen.resume_to or Stage.RUNNING)
        case _:
            return None


def _judged(seen: BatchSeen) -> Move | None:
    """The verdict on the canary, once the outcomes of all its letters are there."""
    canary = seen.canary
    if canary is None:
        return Move(Stage.RUNNING)
    # Until the verdict nothing but the canary is taken, so the counts are its own; skipped letters are replaced.
    if seen.under_way or (seen.counts.ended < canary.size and not seen.all_taken):
        return None
    if seen.counts.failed > canary.failures_allowed:
        return Move(Stage.STOPPED, stop_reason=CANARY_FAILED)
    return Move(Stage.RUNNING, canary_passed=True)


def _blocked(seen: BatchSeen) -> Move | None:
    if seen.blocked_by is None or seen.all_taken:
        return None
    return Move(Stage.PAUSED, resume_to=seen.stage, paused_by=BY_BREAKER)


def is_over_budget(seen: BatchSeen) -> bool:
    """Whether more letters have failed than the order allows."""
    failed, ended = seen.counts.failed, seen.counts.ended
    if seen.max_failures is not None and failed > seen.max_failures:
        return True
    return seen.max_failure_rate is not None and ended >= LEAST_JUDGED and failed > seen.max_failure_rate * ended


def pause_by_operator(stage: Stage, resume_to: Stage | None) -> Move | None:
    """Where an operator's pause leads; None: not from this stage."""
    if stage in SENDING:
        return Move(Stage.PAUSED, resume_to=stage, paused_by=BY_OPERATOR)
    if stage is Stage.PAUSED:
        return Move(Stage.PAUSED, resume_to=resume_to, paused_by=BY_OPERATOR)
    return None


def resume_by_operator(stage: Stage, resume_to: Stage | None) -> Move | None:
    """Back to the stage that was paused: a pause never skips the canary."""
    return Move(resume_to or Stage.RUNNING) if stage is Stage.PAUSED else None


def cancel_by_operator(stage: Stage, reason: str) -> Move | None:
    return None if stage in FINAL else Move(Stage.CANCELLED, stop_reason=reason)


# --- how much ---


def allowance(seen: BatchSeen, rate: float | None, *, bytes_each: float = 0.0) -> int:
    """How many letters may be taken now, 0 to ``LARGE_CHUNK``. What the breakers say of each comes on top."""
    if seen.stage not in SENDING and not is_trying(seen):
        return 0
    size = chunk_size(
        is_careful=is_careful(seen.stage, rate, seen.max_failures, seen.max_failure_rate), bytes_each=bytes_each
    )
    most = min(size, seen.total - seen.next_seq, window(seen, bytes_each) - seen.under_way)
    if rate is not None:
        most = min(most, rate_slice(rate))
    if seen.canary and Stage.CANARY in (seen.stage, seen.resume_to):
        most = min(most, seen.canary.size - seen.counts.ended - seen.under_way)
    return max(0, most)


def is_careful(stage: Stage, rate: float | None, max_failures: int | None, max_failure_rate: float | None) -> bool:
    """Whether every letter counts: under a rate or a budget, or before the canary's verdict."""
    return stage is not Stage.RUNNING or any(limit is not None for limit in (rate, max_failures, max_failure_rate))


def chunk_size(*, is_careful: bool, bytes_each: float) -> int:
    """Letters that may be taken at once. ``bytes_each``: payload of a letter so far; 0: nobody knows yet."""
    if is_careful or bytes_each <= 0:
        return CHUNK
    return min(LARGE_CHUNK, max(1, int(CHUNK_BYTES / bytes_each)))


def rate_slice(rate: float) -> int:
    """How many letters go at once under a rate: few enough that nobody sees steps."""
    return max(1, math.ceil(rate * RATE_SLICE_S))


def is_trying(seen: BatchSeen) -> bool:
    """Whether a batch that its breaker pauses offers a few letters as the calls by which a breaker finds out.

    Without any call it would stay open for ever, and the batch paused. Only when nothing of the batch is under way.
    """
    return seen.stage is Stage.PAUSED and seen.paused_by == BY_BREAKER and seen.under_way == 0


def window(seen: BatchSeen, bytes_each: float = 0.0) -> int:
    """How many letters of the batch may be under way at the same time."""
    most = WINDOW
    if bytes_each > 0:
        most = min(most, max(1, int(WINDOW_BYTES / bytes_each)))
    if seen.max_failures is not None:
        # If all of them fail, the last one is the one failure too many: none fails beyond it.
        most = min(most, max(0, seen.max_failures - seen.counts.failed) + 1)
    if seen.max_failure_rate is not None:
        most = min(most, _rate_window(seen.max_failure_rate, seen.counts.failed, seen.counts.ended))
    return most


def _rate_window(most_rate: float, failed: int, ended: int) -> int:
    """How many may be under way so that, if all of them fail, only the last is beyond the rate.

    Until ``LEAST_JUDGED`` have ended there is no verdict, and those are let go.
    """
    unjudged = LEAST_JUDGED - ended
    if most_rate >= 1:
        return WINDOW
    # With n more failures the rate is kept while failed + n <= most_rate * (ended + n).
    within = math.floor((most_rate * ended - failed) / (1 - most_rate) + _ROUNDING)
    return max(unjudged, within + 1, 1)


def failures_at_most(count: int, max_failures: int | None, max_failure_rate: float | None) -> int | None:
    """How many of ``count`` letters may fail before a batch with this budget stops; None without a budget."""
    bounds = [count]
    if max_failures is not None:
        bounds.append(max_failures + 1)
    if max_failure_rate is not None:
        bounds.append(max(LEAST_JUDGED, math.floor(max_failure_rate * count + _ROUNDING) + 1))
    return min(bounds) if len(bounds) > 1 else None


def passing(names: Sequence[str | None], breakers: Mapping[str, BreakerSeen], *, trying: bool) -> int:
    """How many of the next letters may go, by the breaker that each would meet.

    A breaker that nobody has seen lets everything through. While ``trying``, one that is not closed gets its trials.
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
    """Nobody has it: claim it."""


@dataclass(frozen=True, slots=True)
class Ours:
    """Claimed for this batch by an executor that did not come further: go on with its claim."""


@dataclass(frozen=True, slots=True)
class Copy:
    """This batch's replay of it has ended."""

    outcome: str
    error_type: str


@dataclass(frozen=True, slots=True)
class Skip:
    """It is not for this batch. Unless it is gone, the letter has to be told first: it excludes the claim."""

    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """This batch's replay of it is under way."""


Look = Claim | Ours | Copy | Skip | Wait


def look(letter: DeadLetter | None, batch_id: str, *, skipped: bool, ending: bool) -> Look:
    """What is to be done with a letter of the plan. ``skipped``: it says that this batch skips it.

    ``ending``: the batch sends nothing more, so what is not claimed for it never will be.
    """
    if letter is None:
        return Skip("gone")
    if letter.status is Status.PROCESSING and letter.claim and letter.claim.batch_id == batch_id:
        return Wait() if ending else Ours()
    attempt = attempt_of(letter.replay_attempts, batch_id)
    if attempt is not None:
        outcome = attempt.get("outcome")
        return copied(str(outcome), attempt) if outcome else Wait()
    if letter.status is Status.RESOLVED:
        return Skip("resolved")
    if skipped or letter.status not in WAITING:
        return Skip("in_flight")
    return Skip("cancelled") if ending else Claim()


def attempt_of(attempts: Sequence[Mapping[str, object]], batch_id: str) -> Mapping[str, object] | None:
    """The batch's own attempt among a letter's replays."""
    return next((attempt for attempt in reversed(attempts) if attempt.get("batchId") == batch_id), None)


def copied(outcome: str, attempt: Mapping[str, object]) -> Copy:
    """An attempt's outcome as the item has it. One that a new message of the same id cut off was never heard of."""
    if outcome == "superseded":
        return Copy("skipped:superseded", "")
    return Copy(outcome, str(attempt.get("errorType") or ""))
