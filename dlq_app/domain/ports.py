"""The way back from a dead letter to intake: what the dead-letter queue asks for, answered by whoever settings name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from dlq_app.domain.replay_batch import BreakerSeen


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardOrder:
    """Everything a fresh record needs, because intake may have forgotten the message months ago."""

    message_id: str
    #: Drawn by the claim of the letter; a repetition with the same epoch is the same order.
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
    #: Intake's clock (ms) after which the order must not be carried out any more.
    deadline_ms: int
    prior_runs: int = 0
    force: bool = False
    #: The letter says that its last run ended well: a message that intake has forgotten is counted among the done.
    ended_done: bool = False


class ForwardStatus(StrEnum):
    FORWARDED = "forwarded"
    VOIDED = "voided"
    TOO_LATE = "too_late"
    SUPERSEDED = "superseded"
    BUSY = "busy"
    ALREADY_DONE = "already_done"
    #: Only from ``forward_many``: what ``forward`` says by raising ``OrderRefused``; ``state`` says why.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ForwardAnswer:
    status: ForwardStatus
    #: State of the record that stood in the way (``superseded``, ``busy``).
    state: str = ""


@dataclass(frozen=True, slots=True)
class VoidAnswer:
    """``exists``: the epoch's message is there (in ``state``). Otherwise the epoch can never be created any more."""

    exists: bool
    state: str = ""


class IntakePort(Protocol):
    """Raises ``StoreUnavailable`` when intake's store gives no answer: the outcome is then unknown.

    ``OrderRefused`` from ``forward`` or ``void``: no message of that id, type or priority can ever be there.
    """

    def now_ms(self) -> int: ...

    def forward(self, order: ForwardOrder) -> ForwardAnswer: ...

    def forward_many(self, orders: Sequence[ForwardOrder]) -> list[ForwardAnswer]:
        """``forward`` for each, in order, in few round trips; one that is refused does not touch the others."""

    def void(self, message_id: str, epoch: int) -> VoidAnswer: ...

    def open_among(self, message_ids: Sequence[str]) -> set[str]:
        """Those of these messages that are under way here, or whose death is not recorded yet."""

    def resettle(self, message_id: str, epoch: int) -> None:
        """Put an ended epoch's outcome up for recording again."""

    def unlist(self, message_ids: Sequence[str]) -> None:
        """The letters of these messages are about to be deleted: intake no longer compares them."""

    def check_payload(self, payload: bytes) -> None:
        """Raise ``dlq_app.domain.errors.PayloadInvalid`` unless intake would accept this payload text."""

    def breaker_of(self, message_type: str, body: bytes) -> str | None:
        """Name of the circuit breaker that guards what this message calls; None: none."""

    def breakers(self, types: Iterable[str]) -> Mapping[str, Sequence[BreakerSeen]]:
        """Every circuit breaker that messages of these types can meet, as it stands; types without any are absent."""

    def retry_after_ms(self, message_type: str, body: bytes = b"") -> int | None:
        """None when this message may run now; else how long its circuit breaker stays open.

        Where the breaker is chosen by the payload, ``body`` (its text) is what chooses.
        """
