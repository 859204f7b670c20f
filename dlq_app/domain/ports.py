"""The interface through which the dead-letter queue uses intake. A setting names its implementation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the worker has no other use for batches until its first dead letter
    from dlq_app.domain.replay_batch import BreakerSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOrder:
    """Everything that a new record of the message needs: intake may have dropped its own months ago."""

    message_id: str
    #: Set by the claim of the letter. An order with the same epoch is a repetition.
    epoch: int
    type: str
    body: bytes
    run_body: bytes | None
    version: int
    priority: str
    source: str
    client: str
    #: JSON text of the list of tags.
    tags: str
    queued_at_ms: int
    acct_day: str
    replay_id: str
    batch_id: str
    #: The letter's ``closedEpoch`` when it was claimed.
    death_seen: int
    #: Time of intake's clock (ms) after which the order must not be executed.
    deadline_ms: int
    prior_runs: int = 0
    force: bool = False
    #: According to the letter the last run succeeded: a message without a record counts as done.
    ended_done: bool = False
    #: It may kill the process that runs it: it runs alone in a process, and its first loss ends the run.
    alone: bool = False
    #: Canonical ``traceparent`` of the replay; empty without one.
    traceparent: str = ""
    #: The newest epoch that the letter knew of at its claim; None: all before ``epoch``. A record with a newer one is
    #: another life of the message.
    epoch_seen: int | None = None


class ForwardStatus(StrEnum):
    FORWARDED = "forwarded"
    VOIDED = "voided"
    TOO_LATE = "too_late"
    SUPERSEDED = "superseded"
    BUSY = "busy"
    ALREADY_DONE = "already_done"
    #: Only from ``forward_many``, where ``forward`` raises ``OrderRefused``; ``state`` has the reason.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ForwardAnswer:
    status: ForwardStatus
    #: State of the existing record (``superseded``, ``busy``).
    state: str = ""


@dataclass(frozen=True, slots=True)
class VoidAnswer:
    """``exists``: intake has the replay with this epoch, in ``state``. Otherwise the epoch can never be created."""

    exists: bool
    state: str = ""


class IntakePort(Protocol):
    """Methods raise ``StoreUnavailable`` when intake's store does not answer: the result is then unknown.

    ``forward`` and ``void`` raise ``OrderRefused`` when intake can never have a message of that id, type or priority.
    """

    def now_ms(self) -> int: ...

    def forward(self, order: ForwardOrder) -> ForwardAnswer: ...

    def forward_many(self, orders: Sequence[ForwardOrder]) -> list[ForwardAnswer]:
        """``forward`` for each, in order, in few round trips. A rejected order does not affect the others."""

    def void(self, message_id: str, epoch: int) -> VoidAnswer: ...

    def open_among(self, message_ids: Sequence[str]) -> set[str]:
        """Those of these messages that are in progress here, or whose death is not recorded yet."""

    def resettle(self, message_id: str, epoch: int) -> None:
        """Queue the outcome of an ended epoch for recording again."""

    def unlist(self, message_ids: Sequence[str]) -> None:
        """Exclude these messages from intake's comparison: their letters are about to be deleted."""

    def check_payload(self, payload: bytes) -> None:
        """Raise ``dlq_app.domain.errors.PayloadInvalid`` unless intake would accept this payload text."""

    def breaker_of(self, message_type: str, body: bytes) -> str | None:
        """Name of the circuit breaker of this message, or None."""

    def breakers(self, types: Iterable[str], *, with_held: bool = False) -> Mapping[str, Sequence[BreakerSeen]]:
        """The circuit breakers of messages of these types, with their state; types without a breaker are absent.

        ``with_held``: also the number of messages that each of them holds.
        """

    def retry_after_ms(self, message_type: str, body: bytes = b"") -> int | None:
        """None when this message may run now; else the time for which its circuit breaker stays open.

        ``body`` is the text of the payload: it chooses the breaker of some types.
        """
