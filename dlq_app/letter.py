"""What intake tells the dead-letter queue, and what it hears back. Pure values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """One message given up by intake, with everything needed to understand it.

    ``epoch`` orders what happens to one message id: a death of an older epoch never overwrites a newer outcome.
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
    #: UTC day of acceptance (yyyymmdd), for the accounts.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A replay that ended well."""

    message_id: str
    epoch: int
    replay_id: str
    attempts: Sequence[Mapping[str, Any]]
    finished_at: datetime
    #: JSON value that the handler returned.
    result: Any = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """MongoDB has it (``ok``), or can never take it in this form (``why``): quarantine it, do not try for ever."""

    ok: bool
    why: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
