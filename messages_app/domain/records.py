"""The values that go into and come out of the ledger. Names, not numbers, leave ``ledger.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from messages_app.work.call_reports import CallReport


class State(StrEnum):
    """Where a message is. Open: everything but ``done`` and ``dead``."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    DONE = "done"
    DEAD_PENDING = "dead_pending"
    DEAD = "dead"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``limit`` requests per ``window_ms`` for ``client``. The answer names what is left."""

    client: str
    limit: int
    window_ms: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """A validated message on its way into the ledger."""

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
    #: Random, made once per request: the same token again is the same request, repeated.
    accept_token: str


class AcceptStatus(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    THROTTLED = "throttled"


@dataclass(frozen=True, slots=True)
class RateState:
    """What the rate limiter says about a client after this request."""

    limit: int
    remaining: int
    #: Milliseconds until a request is (again) free to go.
    reset_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptAnswer:
    """What became of an acceptance. ``state``, ``type`` and ``queued_at_ms`` describe the record that now stands."""

    status: AcceptStatus
    message_id: str
    state: State | None = None
    type: str = ""
    queued_at_ms: int = 0
    rate: RateState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One message's ledger record, read whole. Times are epoch milliseconds; 0 or None when not set."""

    message_id: str
    state: State
    epoch: int
    attempt: int
    fence: int
    type: str
    #: None once dropped (an hour after ``done``).
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


# The next two are made for every message: not frozen, because that makes them three times as dear. Nobody changes them.


@dataclass(slots=True, kw_only=True)
class Claimed:
    """A message this process may run until its lease ends; every outcome must carry ``fence``."""

    message_id: str
    epoch: int
    #: Failed attempts of this epoch so far: 0 in the first run, ``max_retries`` in the last.
    attempt: int
    fence: int
    type: str
    #: What to run: the edited content if this epoch has one, else the accepted body.
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

    @property
    def alone(self) -> bool:
        """Two processes were lost with this message: claim nothing else until it has ended."""
        return self.recoveries >= 2


@dataclass(frozen=True, slots=True)
class Claim:
    """Answer to one batched claim."""

    records: tuple[Claimed, ...]
    #: Wake-ups waiting in the lane of messages that must run alone.
    alone_waiting: int
    #: True when nothing more waits in the three lanes.
    lanes_empty: bool


@dataclass(slots=True, kw_only=True)
class Completed:
    message_id: str
    fence: int
    #: JSON text of the handler's small result.
    result: str
    #: JSON object describing the attempt, in the wire shape.
    attempt_json: str
    ended_at_ms: int = 0
    #: What the circuit breaker has to be told of the call; no part of what the ledger gets.
    call_report: CallReport | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferred:
    """Hand a message back unspent: breaker refusal, shutdown, or claimed ahead and not started."""

    message_id: str
    fence: int
    #: Wait before it may be claimed again; 0 puts it straight back into its lane.
    delay_ms: int
    #: ``breaker`` counts as a deferral and starts the clock of ``deferred_since``; ``shutdown`` and ``prefetch`` do
    #: not, and put the message back at the front of its lane.
    why: str
    #: JSON object for the list of attempts, or empty to leave no trace.
    attempt_json: str = ""
    #: As of ``Completed``.
    call_report: CallReport | None = None


Outcome = Completed | Failed | Deferred


class Verdict(StrEnum):
    """What the ledger made of an outcome."""

    APPLIED = "applied"
    #: Applied, and an outcome now waits in the outbox: a message was given up, or a replay has ended. Wake the drainer.
    TO_OUTBOX = "to_outbox"
    ALREADY = "already"
    STALE = "stale"
    #: It cannot be written as it is; nothing of it was.
    REFUSED = "refused"

    @property
    def applied(self) -> bool:
        """Whether this very request changed the message."""
        return self in (Verdict.APPLIED, Verdict.TO_OUTBOX)


@dataclass(frozen=True, slots=True)
class Due:
    """Answer of one round of the mover and reaper."""

    moved: int
    #: When the next entry falls due (epoch ms), None when nothing is scheduled.
    next_ms: int | None
    #: The server's clock at that moment (epoch ms).
    now_ms: int
    #: Runs whose lease was over: a process was lost with them.
    recovered: int = 0
    #: Of these, the ones given up (``WORKER_LOST``): the outbox has something new.
    given_up: int = 0
    #: Queued messages whose wake-up was missing and which got a new one.
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
    """Counts of one instant, each O(1) or O(log n) to read."""

    now_ms: int
    lanes: tuple[LaneFigures, ...]
    scheduled: int
    retry_wait: int
    running: int
    #: Of these three, entries that are more than 5 s late: work that upkeep should have moved.
    overdue: int
    outbox: int
    outbox_oldest_ms: int | None
    quarantined: int
    #: Jobs of other programs found in our lanes and set aside in RQ's queue ``foreign``.
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
        """Messages by which fields are below zero. Only rows of earlier versions can be."""
        return -sum(min(count, 0) for count in (self.accepted, self.done, self.dead, self.open))

    @property
    def wrong(self) -> int:
        """Messages for which this row is wrong; 0 when it adds up."""
        return abs(self.difference) or self.below_zero


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a store that start-up must refuse, with its fix."""

    what: str
    fix: str


@dataclass(frozen=True, slots=True)
class Presence:
    """A process of ours that was alive a moment ago."""

    name: str
    role: str
    pid: int
    host: str
    started_at_ms: int
    seen_at_ms: int
    details: dict[str, object] = field(default_factory=dict)
    #: How far its clock was ahead of Redis' at its last beat but one; None when that is not known.
    clock_off_ms: int | None = None
