"""Outcomes from intake, the answers to them, and letters. Pure values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dlq_app.domain.states import Resolution, Status
from dlq_app.domain.strategies import Strategy
from wire.traceparent import trace_id_of

#: The error of a message that was lost with its process each time it ran: it probably kills the process.
POISON = "WORKER_LOST"
#: Maximum attempts and replays of a letter; the newest are kept.
KEPT_ATTEMPTS = 100
KEPT_REPLAYS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A message that intake stopped retrying, with everything needed to understand it.

    ``epoch`` orders the runs of one message id: a death of an older epoch never overwrites a newer outcome.
    """

    message_id: str
    epoch: int
    type: str
    #: The payload exactly as received.
    body: bytes
    priority: str
    source: str
    client: str
    tags: tuple[str, ...]
    queued_at: datetime
    #: UTC day of acceptance (yyyymmdd), for intake's counts.
    acct_day: str
    error_type: str
    error_kind: str
    error_reason: str
    error_stack: str
    #: {cpu, memory, uptime, host, worker, codeVersion} of the process in which it died.
    system_state: Mapping[str, Any]
    #: Attempts of this epoch in the wire shape.
    attempts: Sequence[Mapping[str, Any]]
    retry_count: int
    died_at: datetime
    prior_runs: int = 0
    #: Set when the death ended a replay.
    replay_id: str | None = None
    batch_id: str | None = None
    version: int = 0
    #: Canonical ``traceparent`` with which the message was accepted; empty without one.
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A replay that succeeded."""

    message_id: str
    epoch: int
    replay_id: str
    attempts: Sequence[Mapping[str, Any]]
    finished_at: datetime
    #: JSON value that the handler returned.
    result: Any = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whether MongoDB stored an outcome. If not, it never can (``why``): quarantine it instead of retrying."""

    ok: bool
    why: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The replay that a letter in ``dlq_processing`` is claimed for."""

    replay_id: str
    epoch: int
    #: ``operator``, ``auto`` or ``batch``.
    kind: str
    by: str
    why: str
    batch_id: str
    #: Which edited version runs; 0 is the original.
    version: int
    locked_by: str
    locked_at: datetime | None
    #: The status that a release restores.
    came_from: Status
    #: The letter's fence before the claim; None if it is not known, as of letters that were claimed together.
    fence_before: int | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """Who imported a letter here, and when."""

    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One letter as it is stored. Instants are aware UTC; entries of lists keep their wire names."""

    id: str
    message_id: str
    type: str
    status: Status
    strategy: Strategy
    error_type: str
    error_kind: str
    error_reason: str
    fingerprint: str
    #: Retries that the message itself used, without replays.
    retry_count: int
    #: Failed automatic replays; replays by hand do not count.
    dlq_retry_count: int
    next_retry_at: datetime | None
    created_at: datetime
    first_failed_at: datetime
    last_failed_at: datetime
    updated_at: datetime
    #: {source, priority, tags, client, systemState}.
    metadata: Mapping[str, Any]
    resolution: Resolution | None = None
    resolved_at: datetime | None = None
    #: Orders claims: the epoch of the last forwarded message, or of the death.
    fence: int
    #: The last epoch with a recorded outcome.
    closed_epoch: int
    claim: Claimed | None = None
    queued_at: datetime | None = None
    acct_day: str = ""
    #: None: not imported, or imported by an earlier version. Imported entries of ``replay_attempts``, ``versions``,
    #: ``notes`` and ``history`` have ``imported``: the file chose the names in them.
    imported: Imported | None = None
    #: Failed runs, including replays.
    prior_runs: int = 0
    #: The payload as received. Empty (like the stack and the lists) when read for a list.
    body: bytes = b""
    error_stack: str = ""
    attempts: Sequence[Mapping[str, Any]] = ()
    replay_attempts: Sequence[Mapping[str, Any]] = ()
    versions: Sequence[Mapping[str, Any]] = ()
    former_messages: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[Mapping[str, Any]] = ()
    history: Sequence[Mapping[str, Any]] = ()
    #: As of ``Death``.
    traceparent: str = ""
    #: Values inside the payload and its versions, such as ``customerId=4711``.
    facets: Sequence[str] = ()

    @property
    def is_poison(self) -> bool:
        """Whether the message probably kills the process that runs it. A replay runs alone in its process, and once."""
        return self.error_type == POISON

    @property
    def trace_id(self) -> str:
        """The trace of the message, 32 hexadecimal digits; empty without one."""
        return trace_id_of(self.traceparent)

    @property
    def tries(self) -> int:
        """Number of runs, including failed replays. All runs lost with a worker count at least once."""
        return max(self.prior_runs, self.retry_count + 1)

    @property
    def text(self) -> str:
        """The payload as text; bytes that are not UTF-8 are shown escaped."""
        return self.body.decode("utf-8", "backslashreplace")
