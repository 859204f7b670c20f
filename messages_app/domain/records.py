"""Arguments and results of the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from messages_app.work.call_reports import CallReport

#: A message that was lost so often with its process is claimed alone (``lua/shared/wake.lua``).
LOSSES_BEFORE_ALONE = 2


class State(StrEnum):
    """State of a message. Open: all but ``done`` and ``dead``."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    DONE = "done"
    DEAD_PENDING = "dead_pending"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``limit`` requests per ``window_ms`` for ``client``."""

    client: str
    limit: int
    window_ms: int = 60_000


# `Acceptance`, `AcceptAnswer`, `Claimed` and `Completed` are created for every message: not frozen, which would be
# three times slower. Do not change them.


@dataclass(slots=True, kw_only=True)
class Acceptance:
    """A validated message to be accepted."""

    message_id: str
    type: str
    #: The payload exactly as received: UTF-8 JSON text.
    body: bytes
    #: Hex digest over the canonical content (type, payload, priority, source, tags, notBefore).
    sha256: str
    priority: str
    source: str
    client: str
    #: JSON text of the list of tags.
    tags: str = "[]"
    #: Epoch milliseconds before which the first run must not start.
    not_before_ms: int | None = None
    max_retries: int = 3
    #: Random, one per request: a repeated token is the same request.
    accept_token: str
    #: Its trace, in canonical form; empty without one. Not a part of the content: repetitions may have others.
    traceparent: str = ""


class AcceptStatus(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    THROTTLED = "throttled"


@dataclass(frozen=True, slots=True)
class RateState:
    """State of a client's rate limit after this request."""

    limit: int
    remaining: int
    #: Milliseconds until a request is allowed.
    reset_ms: int


@dataclass(slots=True, kw_only=True)
class AcceptAnswer:
    """Result of an acceptance. ``state``, ``type`` and ``queued_at_ms`` describe the existing record."""

    status: AcceptStatus
    message_id: str
    state: State | None = None
    type: str = ""
    queued_at_ms: int = 0
    rate: RateState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The whole record of a message. Times are epoch milliseconds; 0 or None when not set."""

    message_id: str
    state: State
    epoch: int
    attempt: int
    fence: int
    type: str
    #: None once expired (an hour after ``done``).
    body: bytes | None
    #: Edited content of this epoch, if any.
    run_body: bytes | None
    version: int
    sha256: str
    priority: str
    source: str
    client: str
    tags: str
    queued_at_ms: int
    not_before_ms: int | None
    due_at_ms: int | None
    lease_until_ms: int | None
    started_at_ms: int | None
    finished_at_ms: int | None
    acct_day: str
    max_retries: int
    recoveries: int
    deferrals: int
    deferred_since_ms: int | None
    prior_runs: int
    replay_id: str
    batch_id: str
    death_seen: int
    owner: str
    outbox: str
    #: JSON text, or empty.
    last_error: str
    #: JSON objects joined by commas, in the wire shape; empty when none has ended.
    attempts: str
    #: JSON text of the handler's result, or empty.
    result: str
    #: As of ``Acceptance``; empty once the story has expired.
    traceparent: str = ""
    #: A replay that began with the losses that make a message run alone: its first own loss is its last.
    began_alone: bool = False

    @property
    def losses(self) -> int:
        """How often this run was lost with its process."""
        return self.recoveries - LOSSES_BEFORE_ALONE if self.began_alone else self.recoveries


@dataclass(slots=True, kw_only=True)
class Claimed:
    """A message that this process may run until its lease ends. Every outcome must have its ``fence``."""

    message_id: str
    epoch: int
    #: Failed attempts of this epoch so far: 0 in the first run, ``max_retries`` in the last.
    attempt: int
    fence: int
    type: str
    #: The edited payload if this epoch has one, else the accepted one.
    body: bytes
    version: int
    priority: str
    source: str
    client: str
    tags: str
    queued_at_ms: int
    claimed_at_ms: int
    max_retries: int
    prior_runs: int
    recoveries: int
    deferrals: int
    deferred_since_ms: int | None
    replay_id: str
    batch_id: str
    #: As of ``Acceptance``.
    traceparent: str = ""
    #: Attempts of this epoch that have ended: JSON objects in the wire shape, one a line.
    earlier: bytes = b""

    @property
    def alone(self) -> bool:
        """Whether it may be poison: two processes were lost with it, or this is a replay of such a message.

        Then its process claims no other message until it has ended.
        """
        return self.recoveries >= LOSSES_BEFORE_ALONE


@dataclass(frozen=True, slots=True)
class Claim:
    """Answer to one batched claim."""

    records: tuple[Claimed, ...]
    #: Number of wake-ups in the lane of messages that must run alone.
    alone_waiting: int
    #: Whether the three lanes are empty.
    lanes_empty: bool


@dataclass(slots=True, kw_only=True)
class Completed:
    message_id: str
    fence: int
    #: JSON text of the handler's small result.
    result: str
    #: JSON object describing the attempt, in the wire shape. Only of a replay, whose letter gets it.
    attempt_json: str = ""
    #: Otherwise: when the attempt started and ended, as the record keeps it.
    ran: str = ""
    ended_at_ms: int = 0
    #: The report for the circuit breaker; not sent to the ledger.
    call_report: CallReport | None = None
    #: What ran, for the letter: only of a replay. Not sent to the ledger.
    claimed: Claimed | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    message_id: str
    fence: int
    #: Wait before the next attempt, or None to give the message up; given up anyway when no retries are left.
    delay_ms: int | None
    #: JSON text for ``lastError``.
    error: str
    attempt_json: str
    #: As of ``Completed``.
    call_report: CallReport | None = None
    #: What ran, for the letter. Not sent to the ledger.
    claimed: Claimed | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Requeue a message without using a retry: rejected by a breaker, shutdown, or claimed ahead and not started."""

    message_id: str
    fence: int
    #: Wait before it may be claimed again; 0 returns it to its lane at once.
    delay_ms: int
    #: ``breaker`` counts as a deferral and starts the clock of ``deferred_since``; ``shutdown`` and ``prefetch`` do
    #: not, and put the message back at the front of its lane.
    why: str
    #: JSON object for the list of attempts, or empty to leave no trace.
    attempt_json: str = ""
    #: As of ``Completed``.
    call_report: CallReport | None = None
    #: The breaker that holds it; only with ``breaker``.
    held_by: str = ""


Outcome = Completed | Failed | Deferred


class Verdict(StrEnum):
    """The ledger's answer to an outcome."""

    APPLIED = "applied"
    #: Applied, and the outbox has a new entry: a message was given up, or a replay ended.
    TO_OUTBOX = "to_outbox"
    ALREADY = "already"
    STALE = "stale"
    #: It cannot be written as it is; nothing was written.
    REFUSED = "refused"

    @property
    def applied(self) -> bool:
        """Whether this request changed the message."""
        return self in (Verdict.APPLIED, Verdict.TO_OUTBOX)


class OutcomeAnswer(NamedTuple):
    """The ledger's answer to an outcome; with ``TO_OUTBOX`` also what the letter has from the record alone."""

    verdict: Verdict
    #: By the ledger's clock (epoch ms).
    finished_at_ms: int = 0
    #: Only of a message that was given up.
    acct_day: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    """Result of one round of the mover."""

    moved: int
    #: When the next entry falls due (epoch ms), None when nothing is scheduled.
    next_ms: int | None
    #: The server's clock at that moment (epoch ms).
    now_ms: int
    #: Runs whose lease has expired: their process was lost.
    recovered: int = 0
    #: Of these, the messages given up (``WORKER_LOST``): the outbox has new entries.
    given_up: int = 0
    #: Queued messages whose missing wake-up was replaced.
    woken_again: int = 0


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """An outcome that MongoDB has not acknowledged. ``kind`` is ``death`` or ``settle``."""

    kind: str
    record: Record


@dataclass(frozen=True, slots=True)
class Quarantined:
    message_id: str
    epoch: int
    why: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    name: str
    waiting: int
    #: When the longest-waiting message of the lane was (last) woken, epoch ms.
    oldest_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFigures:
    """Counts at one time, each O(1) or O(log n) to read."""

    now_ms: int
    lanes: tuple[LaneFigures, ...]
    scheduled: int
    retry_wait: int
    running: int
    #: Of these three, entries that are more than 5 s late: upkeep should have moved them.
    overdue: int
    outbox: int
    outbox_oldest_ms: int | None
    quarantined: int
    #: Jobs of other programs in our lanes, moved to RQ's queue ``foreign``.
    foreign: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRow:
    """accepted = done + open + dead, by UTC day and type of acceptance."""

    day: str
    type: str
    accepted: int
    done: int
    dead: int
    open: int

    @property
    def difference(self) -> int:
        return self.accepted - self.done - self.dead - self.open

    @property
    def below_zero(self) -> int:
        """Sum of the negative fields. Only rows of earlier versions have any."""
        return -sum(min(count, 0) for count in (self.accepted, self.done, self.dead, self.open))

    @property
    def wrong(self) -> int:
        """Number of messages by which this row is wrong; 0 when it adds up."""
        return abs(self.difference) or self.below_zero


class TypeCounts(NamedTuple):
    """Counts of one type since the beginning. None of them ever falls."""

    type: str
    accepted: int
    #: Number of times that a message ended, replays included.
    done: int
    dead: int
    #: Number of times that an ended message was started again.
    reopened_done: int
    reopened_dead: int


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem of a store that must stop the start, with its fix."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Presence:
    """A running process of this system."""

    name: str
    role: str
    pid: int
    host: str
    started_at_ms: int
    seen_at_ms: int
    details: dict[str, object] = field(default_factory=dict)
    #: How far its clock was ahead of Redis' at its second-to-last announcement; None when unknown.
    clock_off_ms: int | None = None
