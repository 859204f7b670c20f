"""Letters of a replay batch: claim and forward them, skip them, or copy their outcome. Keeps no state.

The process may be killed at any line. A letter is sent at most once because its own claim says so; every step may be
repeated, by any executor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dlq_app.domain.batch_rules import Claim, Copy, OwnLetter, Skip, next_step
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.ports import ForwardAnswer, ForwardStatus, IntakePort
from dlq_app.domain.replay_batch import BatchItem, ReplayBatch
from dlq_app.services.replaying import (
    FORWARD_WITHIN,
    AlreadyClaimed,
    AlreadyDone,
    NotReplayable,
    Replayed,
    Replayer,
    new_replay_id,
    order_of,
)
from dlq_app.store import repository
from dlq_app.store.repository import BatchLetter, ClaimOrder, Letters

_CLAIM_TURNS = 4

#: An item of a plan, and its letter as it was read; None: the letter is gone.
Row = tuple[BatchItem, BatchLetter | None]


class Dispatched(NamedTuple):
    """The result of one dispatch, by letter id."""

    sent: Sequence[str]
    #: (outcome, error type)
    outcomes: dict[str, tuple[str, str]]
    #: Average payload of the letters that were claimed; None without any.
    bytes_each: float | None


class Dispatcher:
    """Claims and forwards letters of a batch, skips them, or copies their outcome. ``owner``: its name in claims."""

    def __init__(self, letters: Letters, port: IntakePort, *, owner: str) -> None:
        self._letters = letters
        self._port = port
        self._replayer = Replayer(letters, port)
        self._owner = owner

    def read(self, batch_id: str, found: Sequence[BatchItem], *, with_body: bool = True) -> list[Row]:
        """The items with their letters."""
        ids = [item.letter_id for item in found]
        letters = self._letters.read_for_batch(ids, batch_id, with_body=with_body) if found else {}
        return [(item, letters.get(item.letter_id)) for item in found]

    def dispatch(self, batch: ReplayBatch, rows: list[Row]) -> Dispatched:
        """Process letters as far as possible. In a final stage nothing is claimed or forwarded."""
        began_ms = 0 if batch.is_final else self._port.now_ms()
        outcomes: dict[str, tuple[str, str]] = {}
        skips: dict[str, str] = {}
        own: list[DeadLetter] = []
        for _ in range(_CLAIM_TURNS):
            claims: list[DeadLetter] = []
            for item, seen in rows:
                letter = seen.letter if seen else None
                was_skipped = bool(seen and seen.skipped)
                match next_step(letter, batch.id, skipped=was_skipped, ending=batch.is_final, poison=batch.poison):
                    case Claim() if letter:
                        claims.append(letter)
                    case OwnLetter() if letter:
                        own.append(letter)
                    case Copy(outcome, error_type):
                        outcomes[item.letter_id] = (outcome, error_type)
                    case Skip("gone"):
                        outcomes[item.letter_id] = ("skipped:gone", "")
                    case Skip(why):
                        skips[item.letter_id] = why
                    case _:
                        pass  # in flight for this batch
            if not claims:
                break
            answer = self._letters.claim_many(claims, self._claim_order(batch))
            own += answer.claimed
            outcomes |= dict.fromkeys(answer.refused, ("skipped:not_replayable", ""))
            if answer.is_sure:
                break
            # Not known which claims were made: read the letters again.
            asked = {letter.id for letter in claims} - answer.refused
            rows = self.read(batch.id, [item for item, _ in rows if item.letter_id in asked])
        sent = self._forward(own, began_ms, skips) if own else []
        if skips:
            # First on the letters: only a letter that records the skip is safe from a later claim of this batch.
            skipped = self._letters.skip_many(list(skips), batch.id)
            outcomes |= {letter_id: (f"skipped:{skips[letter_id]}", "") for letter_id in skipped}
        return Dispatched(sent, outcomes, sum(len(letter.body) for letter in own) / len(own) if own else None)

    def _claim_order(self, batch: ReplayBatch) -> ClaimOrder:
        return ClaimOrder(
            replay_id=new_replay_id(),
            kind="batch",
            by=batch.requested_by,
            why=batch.reason or batch.name,
            batch_id=batch.id,
            locked_by=self._owner,
            at=repository.now(),
        )

    def _forward(self, own: Sequence[DeadLetter], began_ms: int, skips: dict[str, str]) -> list[str]:
        """Forward the messages of claimed letters; return the ids of those sent, and add refused ones to ``skips``."""
        deadline_ms = began_ms + int(FORWARD_WITHIN.total_seconds() * 1000)
        answers = self._port.forward_many([order_of(letter, deadline_ms, force=False) for letter in own])
        sent = []
        for letter, answer in zip(own, answers, strict=True):
            if answer.status is ForwardStatus.FORWARDED:
                sent.append(letter.id)
                continue
            match self._end_refused(letter, answer):
                case Replayed():
                    sent.append(letter.id)
                case AlreadyClaimed():
                    skips[letter.id] = "in_flight"
                case AlreadyDone():
                    skips[letter.id] = "already_done"
                case NotReplayable():
                    skips[letter.id] = "not_replayable"
                case _:
                    pass  # released, or left to the sweep of stale claims: dispatched again later
        return sent

    def _end_refused(self, letter: DeadLetter, answer: ForwardAnswer) -> object:
        if answer.status is ForwardStatus.REFUSED:
            return self._replayer.require_decision(letter, answer.state)
        return self._replayer.end_claim(letter, answer)
