"""Letters of a batch on their way: claimed, forwarded, skipped, and asked what became of them.

Whoever does any of this may be killed at any line. A letter is sent at most once because its own claim says so, and an
item's outcome is only ever a copy of what its letter says: so each step may be repeated by anybody.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dlq_app.domain import batch_rules
from dlq_app.domain.batch_rules import Claim, Copy, Ours, Skip, Wait
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.ports import ForwardAnswer, ForwardStatus, IntakePort
from dlq_app.domain.replay_batch import SENDING, BatchItem
from dlq_app.services.batch_memory import Memory, Row
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
from dlq_app.store.repository import ClaimOrder, Items, Letters, StoredBatch

#: How often the letters that are under way are asked for their outcome, and how many at once.
COLLECT_S = 0.15
COLLECT_PAGE = 500
COLLECT_PAGES = 4
#: A letter that has its outcome sooner needs no mark that it was sent: the outcome says so.
MARK_AFTER_S = 1.0
#: How often letters that somebody left half done are looked at, and those under way whose letter tells nothing.
LEFT_S = 1.0
LOST_S = 15.0
_TURNS = 4


class Carrier:
    """Brings letters of plans as far as they go. ``name``: the executor that it works for."""

    def __init__(
        self,
        letters: Letters,
        items: Items,
        port: IntakePort,
        *,
        name: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._letters = letters
        self._items = items
        self._port = port
        self._replayer = Replayer(letters, port)
        self._name = name
        self._monotonic = monotonic

    # -- reading

    def stretch(self, batch_id: str, begin: int, end: int) -> list[Row]:
        """The items from place ``begin`` to before ``end`` that have no outcome, with their letters."""
        return self._rows(batch_id, self._items.stretch(batch_id, begin, end))

    def _rows(self, batch_id: str, found: Sequence[BatchItem], *, with_body: bool = True) -> list[Row]:
        ids = [item.letter_id for item in found]
        letters = self._letters.read_for_batch(ids, batch_id, with_body=with_body) if found else {}
        return [(item, letters.get(item.letter_id)) for item in found]

    # -- carrying

    def carry(self, stored: StoredBatch, memory: Memory, rows: list[Row], *, ending: bool = False) -> None:
        """Bring letters of the plan as far as they go: claim, forward, mark; or skip, or copy what became of them.

        ``ending``: the batch sends nothing more.
        """
        if not rows:
            return
        memory.stale = True
        batch_id = stored.id
        began_ms = 0 if ending else self._port.now_ms()
        ended: dict[str, tuple[str, str]] = {}
        skips: dict[str, str] = {}
        ours: list[DeadLetter] = []
        pending = rows
        for _ in range(_TURNS):
            claims: list[tuple[DeadLetter, str]] = []
            for item, seen in pending:
                letter = seen.letter if seen else None
                match batch_rules.look(letter, batch_id, skipped=bool(seen and seen.skipped), ending=ending):
                    case Claim() if letter:
                        claims.append((letter, new_replay_id()))
                    case Ours() if letter:
                        ours.append(letter)
                    case Copy(outcome, error_type):
                        ended[item.letter_id] = (outcome, error_type)
                    case Skip("gone"):
                        ended[item.letter_id] = ("skipped:gone", "")
                    case Skip(why):
                        skips[item.letter_id] = why
                    case _:
                        pass  # under way for this batch
            if not claims:
                break
            answer = self._letters.claim_many(claims, self._order(stored))
            ours += answer.claimed
            ended |= dict.fromkeys(answer.refused, ("skipped:not_replayable", ""))
            if answer.is_sure:
                break
            asked = {letter.id for letter, _ in claims} - answer.refused
            pending = self._rows(batch_id, [item for item, _ in pending if item.letter_id in asked])
        self._mark(stored, memory, self._forward(ours, began_ms, skips) if ours else [])
        if skips:
            decided = self._letters.skip_many(list(skips), batch_id)
            ended |= {letter_id: (f"skipped:{skips[letter_id]}", "") for letter_id in decided}
        if ended:
            self._items.end(batch_id, ended)
        if ours:
            size = sum(len(letter.body) for letter in ours) / len(ours)
            memory.bytes_each = size if not memory.bytes_each else 0.8 * memory.bytes_each + 0.2 * size

    def _order(self, stored: StoredBatch) -> ClaimOrder:
        batch = stored.batch
        return ClaimOrder(
            replay_id="",
            kind="batch",
            by=batch.requested_by,
            why=batch.reason or batch.name,
            batch_id=batch.id,
            locked_by=self._name,
            at=repository.now(),
        )

    def _forward(self, ours: Sequence[DeadLetter], began_ms: int, skips: dict[str, str]) -> list[str]:
        """Send claimed letters' messages on their way; the ids of those that are. What was refused may be a skip."""
        deadline_ms = began_ms + int(FORWARD_WITHIN.total_seconds() * 1000)
        answers = self._port.forward_many([order_of(letter, deadline_ms, force=False) for letter in ours])
        sent = []
        for letter, answer in zip(ours, answers, strict=True):
            if answer.status is ForwardStatus.FORWARDED:
                sent.append(letter.id)
                continue
            match self._refused(letter, answer):
                case Replayed():
                    sent.append(letter.id)
                case AlreadyClaimed():
                    skips[letter.id] = "in_flight"
                case AlreadyDone():
                    skips[letter.id] = "already_done"
                case NotReplayable():
                    skips[letter.id] = "not_replayable"
                case _:
                    pass  # released, or left to the sweep: looked at again
        return sent

    def _refused(self, letter: DeadLetter, answer: ForwardAnswer) -> object:
        if answer.status is ForwardStatus.REFUSED:
            return self._replayer.leave_to_a_person(letter, answer.state)
        return self._replayer.give_up(letter, answer)

    # -- marks

    def _mark(self, stored: StoredBatch, memory: Memory, sent: Sequence[str]) -> None:
        """Let items say that they were sent: at once, or, where letters go by the thousand, if they take long.

        Without their mark they look like letters that somebody left half done: whoever looks finds them claimed for
        this batch, and sends the same message again under the same epoch, which is nothing new.
        """
        batch = stored.batch
        if batch_rules.is_careful(batch.stage, batch.rate_per_second, batch.max_failures, batch.max_failure_rate):
            self._items.mark_sent(stored.id, sent)
        else:
            memory.unmarked |= dict.fromkeys(sent, self._monotonic())

    def mark_all(self, batch_id: str, memory: Memory, *, older_than_s: float = 0.0) -> None:
        """Mark the letters that were sent so long ago and have no outcome yet."""
        until = self._monotonic() - older_than_s
        late = [letter_id for letter_id, sent_at in memory.unmarked.items() if sent_at <= until]
        self._items.mark_sent(batch_id, late)
        for letter_id in late:
            del memory.unmarked[letter_id]

    # -- what became of them

    def collect(self, stored: StoredBatch, memory: Memory) -> None:
        """Copy the outcomes of letters under way, when it is time."""
        now = self._monotonic()
        if now < memory.collect_due:
            return
        if memory.unmarked:
            for letter_id in self._copy(stored, memory, list(memory.unmarked)):
                del memory.unmarked[letter_id]
            self.mark_all(stored.id, memory, older_than_s=MARK_AFTER_S)
        for _ in range(COLLECT_PAGES):
            found = self._items.under_way(stored.id, memory.collect_after, stored.next_seq, COLLECT_PAGE)
            self._copy(stored, memory, [item.letter_id for item in found])
            # Slow ones at the beginning must not keep the others from being asked: round and round.
            memory.collect_after = found[-1].seq if len(found) == COLLECT_PAGE else -1
            if len(found) < COLLECT_PAGE:
                break
        memory.collect_due = self._monotonic() + COLLECT_S

    def _copy(self, stored: StoredBatch, memory: Memory, letter_ids: Sequence[str]) -> list[str]:
        """Copy the outcomes that these letters have; the ids of those that have one."""
        if not letter_ids:
            return []
        outcomes = {}
        for letter_id, attempt in self._letters.ended_for_batch(letter_ids, stored.id).items():
            copy = batch_rules.copied(str(attempt["outcome"]), attempt)
            outcomes[letter_id] = (copy.outcome, copy.error_type)
        if outcomes:
            self._items.end(stored.id, outcomes)
            memory.stale = True
        return list(outcomes)

    def look_after(self, stored: StoredBatch, memory: Memory) -> None:
        """Letters that were taken and then left, and letters sent of which the letter says nothing any more."""
        now = self._monotonic()
        if now >= memory.left_due and stored.batch.stage in SENDING:
            taken = stored.chunk if stored.chunk and stored.chunk.token != memory.done else None
            before = taken.begin if taken else stored.next_seq
            # Many may be our own, sent and not marked yet; those of others come first: they were taken earlier.
            left = self._items.left_behind(stored.id, before, batch_rules.LARGE_CHUNK)
            theirs = [item for item in left if item.letter_id not in memory.unmarked]
            self.carry(stored, memory, self._rows(stored.id, theirs[: batch_rules.CHUNK]))
            memory.left_due = now + (LEFT_S if len(theirs) < batch_rules.CHUNK else 0.0)
        self.find_lost(stored, memory)

    def end_left(self, stored: StoredBatch, memory: Memory) -> None:
        """Letters that a batch which sends nothing more has taken and left."""
        now = self._monotonic()
        if now >= memory.left_due:
            left = self._items.left_behind(stored.id, stored.next_seq, COLLECT_PAGE)
            self.carry(stored, memory, self._rows(stored.id, left, with_body=False), ending=True)
            memory.left_due = now + LEFT_S
        self.find_lost(stored, memory)

    def find_lost(self, stored: StoredBatch, memory: Memory) -> None:
        """Some of the letters under way: gone, or put back by the sweep because their message never was?"""
        now = self._monotonic()
        if now < memory.lost_due:
            return
        found = self._items.under_way(stored.id, memory.lost_after, stored.next_seq, COLLECT_PAGE)
        memory.lost_after = found[-1].seq if len(found) == COLLECT_PAGE else -1
        gone, unsent = [], []
        for item, seen in self._rows(stored.id, found, with_body=False):
            if seen is None:
                gone.append(item.letter_id)
            elif not isinstance(
                batch_rules.look(seen.letter, stored.id, skipped=seen.skipped, ending=True), Wait | Copy
            ):
                unsent.append(item.letter_id)
        if gone:
            self._items.end(stored.id, dict.fromkeys(gone, ("skipped:gone", "")))
        self._items.mark_unsent(stored.id, unsent)
        memory.stale = memory.stale or bool(gone or unsent)
        memory.lost_due = now + LOST_S
