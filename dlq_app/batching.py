"""The executor of replay batches: takes letters a few at a time, claims, forwards, and copies what became of them.

Any number of executors work on the same batches, in any number of processes, and each may be killed at any line. Stages
move by conditional updates of the batch; a letter is sent at most once because its own claim says so; an item's outcome
is only ever a copy of what its letter says. So each step may be repeated by anybody, and what one left half done the
next one looks at again.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dlq_app import batch_stages
from dlq_app.batch_stages import BatchSeen, Claim, Copy, Ours, Skip
from dlq_app.errors import DeadLetterError, QueryTooSlow, StoreUnavailable
from dlq_app.letter import DeadLetter
from dlq_app.ports import ForwardAnswer, ForwardStatus, IntakePort
from dlq_app.replay_batch import BY_BREAKER, SENDING, BatchItem, BreakerSeen, ReplayBatch, Stage
from dlq_app.replaying import (
    FORWARD_WITHIN,
    AlreadyClaimed,
    AlreadyDone,
    NotReplayable,
    Replayed,
    Replayer,
    new_replay_id,
    order_of,
)
from dlq_app.repository import BatchLetter, ClaimOrder, Letters
from dlq_app.repository.batches import ABANDONED_AFTER, Batches, Chunk, StoredBatch, counts_of
from dlq_app.repository.items import Items, Tally

log = logging.getLogger(__name__)

#: A new batch, a resumed one and a dead executor's work are seen within so long.
POLL_S = 1.0
#: How often the letters that are under way are asked for their outcome, and how many at once.
COLLECT_S = 0.15
COLLECT_PAGE = 500
COLLECT_PAGES = 4
#: Counting takes at most this share of the time.
COUNT_SHARE = 0.1
COUNT_S = 0.25
#: How often letters that somebody left half done are looked at, and those under way whose letter tells nothing.
LEFT_S = 1.0
LOST_S = 15.0
LATE_S = 5.0
#: What breakers said is believed for so long.
BREAKERS_S = 0.25
#: Chunks of one batch in one turn, while there are others.
CHUNKS_PER_TURN = 4
CLEAN_S = 3600.0
_TURNS = 4
#: Who leads a batch from stage to stage when no person does.
SYSTEM = "system"

Row = tuple[BatchItem, BatchLetter | None]


@dataclass(slots=True)
class _Progress:
    """What this executor remembers of one batch between two turns. All of it can be seen again."""

    tally: Tally | None = None
    #: ``nextSeq`` when it was counted.
    tally_to: int = 0
    settled_to: int = 0
    settled: Tally = field(default_factory=Tally)
    count_due: float = 0.0
    #: Outcomes may have come since it was counted.
    stale: bool = True
    collect_due: float = 0.0
    collect_after: int = -1
    left_due: float = 0.0
    lost_due: float = 0.0
    lost_after: int = -1
    late_due: float = 0.0
    noted: tuple[Tally, str] | None = None
    note_due: float = 0.0
    #: Token of a chunk of ours that is done and still stands in the batch.
    done: str = ""
    bytes_each: float = 0.0
    waiting: str = ""
    peeked_from: int = -1
    peeked: list[Row] = field(default_factory=list)
    peeked_until: float = 0.0
    untaken_ended: bool = False


class Executor:
    """Works on all batches there are. One per thread; ``tick`` again and again."""

    def __init__(
        self,
        letters: Letters,
        items: Items,
        batches: Batches,
        port: IntakePort,
        *,
        keep_days: int = 90,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._letters = letters
        self._items = items
        self._batches = batches
        self.port = port
        self._replayer = Replayer(letters, port)
        self._keep_days = keep_days
        self._monotonic = monotonic
        self._progress: dict[str, _Progress] = {}
        self._breakers: dict[str, BreakerSeen] = {}
        self._breaker_types: set[str] = set()
        self._breakers_until = 0.0
        self._clean_due = 0.0

    @property
    def at_work(self) -> int:
        """Batches under way."""
        return len(self._progress)

    def tick(self) -> float:
        """One turn for every batch; seconds until the next. Raises ``StoreUnavailable`` when MongoDB is away.

        A batch that cannot go on for another reason says so in ``waiting`` and is tried again; the others go on.
        """
        if self._monotonic() >= self._clean_due:
            self._clean()
        found = self._batches.active()
        for gone in set(self._progress) - {stored.id for stored in found}:
            del self._progress[gone]
        return min([POLL_S, *(self._turn(stored, alone=len(found) == 1) for stored in found)])

    def stop(self) -> None:
        """Give back what is taken and done, so that nobody has to wait for its time to be over."""
        for batch_id, progress in self._progress.items():
            if progress.done:
                self._batches.free(batch_id, progress.done)
                progress.done = ""

    def _turn(self, stored: StoredBatch, *, alone: bool) -> float:
        progress = self._progress.setdefault(stored.id, _Progress())
        try:
            if stored.batch.stage is Stage.PLANNING:
                return self._planning(stored)
            if stored.batch.is_final:
                return self._end(stored, progress)
            wait = self._go_on(stored, progress, alone=alone)
        except DeadLetterError as error:
            # Whatever is away, it is this batch that waits; what was begun is looked at again.
            self._say(stored, progress, str(error))
            return POLL_S
        return wait

    def _say(self, stored: StoredBatch, progress: _Progress, why: str) -> None:
        """Tell what the batch waits for. With MongoDB away the question raises: then the caller has to say so."""
        if progress.waiting != why:
            log.warning("batch_waits", extra={"batch_id": stored.id, "why": why})
            progress.waiting = why
        progress.noted = None
        self._batches.say_waiting(stored.id, why)

    def _planning(self, stored: StoredBatch) -> float:
        if self._batches.server_now() - stored.batch.created_at > ABANDONED_AFTER:
            self._items.remove(stored.id)
            if self._batches.remove(stored.id, [Stage.PLANNING]):
                log.info("batch_plan_abandoned", extra={"batch_id": stored.id})
        return POLL_S

    # -- a batch that may still send

    def _go_on(self, stored: StoredBatch, progress: _Progress, *, alone: bool) -> float:
        self._collect(stored, progress)
        self._look_after(stored, progress)
        for _ in range(CHUNKS_PER_TURN if not alone else 4 * CHUNKS_PER_TURN):
            following, wait = self._step(stored, progress)
            if following is None:
                return wait
            stored = following
            if stored.batch.is_final:
                return 0.0
            self._collect(stored, progress)
        return 0.0

    def _step(self, stored: StoredBatch, progress: _Progress) -> tuple[StoredBatch | None, float]:
        """One move, or one chunk: the batch after it. Or None, and the seconds to wait."""
        batch = stored.batch
        if stored.chunk and stored.chunk.token != progress.done:
            following = self._others_chunk(stored, progress, stored.chunk)
            if following is None:
                self._note(stored, progress)
                return None, COLLECT_S
            return following, 0.0
        seen = self._see(stored, progress)
        move = batch_stages.next_move(seen)
        if move is not None:
            tally = self._tally(stored, progress, fresh=True)
            # Judged by counts that are known to be right for where the batch stood when it was read.
            move = batch_stages.next_move(self._seen(stored, tally, seen.blocked_by))
        if move is not None:
            why = f"circuit breaker {seen.blocked_by.name} is {seen.blocked_by.state}" if seen.blocked_by else ""
            if move.to is Stage.FINISHED:
                self._note_late(stored, progress)
            moved = self._batches.move(stored, move, who=SYSTEM, why=why, tally=progress.tally)
            if moved is None:
                return None, 0.0
            log.info(
                "batch_moved", extra={"batch_id": stored.id, "stage": move.to.value, "why": why or move.stop_reason}
            )
            progress.peeked_from = -1
            return moved, 0.0
        rows = self._sendable(stored, progress, seen)
        if not rows:
            if progress.done:
                # Nothing follows at once: whoever is next must not find a chunk that looks taken.
                self._batches.free(stored.id, progress.done)
                progress.done = ""
            self._note(stored, progress, seen)
            return None, self._pause(stored, seen)
        token = uuid.uuid4().hex
        taken = self._batches.take(stored, len(rows), owner=self.name, token=token, done=progress.done)
        progress.peeked_from = -1
        if taken is None:
            self._note(stored, progress, seen)
            return None, self._until_next_send(stored) or 0.01
        progress.done = ""
        self._carry(taken, progress, rows)
        if batch.rate_per_second is None and batch.stage is Stage.RUNNING:
            # The next taking frees it in the same update.
            progress.done = token
        else:
            self._batches.free(stored.id, token)
            self._note(taken, progress)
            return None, self._until_next_send(taken)
        self._note(taken, progress)
        return taken, 0.0

    def _see(self, stored: StoredBatch, progress: _Progress) -> BatchSeen:
        batch = stored.batch
        has_budget = batch.max_failures is not None or batch.max_failure_rate is not None
        all_taken = stored.next_seq >= batch.total
        # A budget is counted before every chunk; a verdict when there may be one.
        fresh = has_budget or (progress.stale and (batch.stage is Stage.CANARY or all_taken))
        tally = self._tally(stored, progress, fresh=fresh)
        seen = self._seen(stored, tally, None)
        if all_taken or not (batch.stage in SENDING or batch.paused_by == BY_BREAKER):
            return seen
        rows = self._peek(stored, progress)
        names = self._breaker_names(rows[:1])
        blocked_by = next((self._breakers[name] for name in names if name and name in self._breakers), None)
        return self._seen(stored, tally, blocked_by if blocked_by and not blocked_by.passes else None)

    def _seen(self, stored: StoredBatch, tally: Tally, blocked_by: BreakerSeen | None) -> BatchSeen:
        batch = stored.batch
        ended = tally.succeeded + tally.failed + tally.skipped
        return BatchSeen(
            stage=batch.stage,
            resume_to=batch.resume_to,
            paused_by=batch.paused_by,
            canary=batch.canary,
            max_failures=batch.max_failures,
            max_failure_rate=batch.max_failure_rate,
            total=batch.total,
            next_seq=stored.next_seq,
            counts=counts_of(tally, batch.total),
            # Never less than there are: what was taken since it was counted is under way as far as anybody knows.
            under_way=stored.next_seq - ended,
            is_due=self._is_due(batch),
            blocked_by=blocked_by,
        )

    def _is_due(self, batch: ReplayBatch) -> bool:
        if batch.stage is not Stage.PLANNED or batch.scheduled_at is None:
            return True
        return batch.scheduled_at <= self._batches.server_now()

    def _pause(self, stored: StoredBatch, seen: BatchSeen) -> float:
        if seen.under_way:
            return COLLECT_S
        if stored.batch.stage in SENDING:
            return self._until_next_send(stored) or COLLECT_S
        if stored.batch.stage is Stage.PLANNED and stored.batch.scheduled_at:
            until = (stored.batch.scheduled_at - datetime.now(UTC)).total_seconds()
            return min(max(until, 0.05), POLL_S)
        return POLL_S

    def _until_next_send(self, stored: StoredBatch) -> float:
        """Only how long to sleep: whether it is time, the server's clock says."""
        if stored.next_send_at is None:
            return 0.0
        return max(0.0, (stored.next_send_at - datetime.now(UTC)).total_seconds())

    # -- which letters next

    def _sendable(self, stored: StoredBatch, progress: _Progress, seen: BatchSeen) -> list[Row]:
        """The next letters that rate, window, canary and breakers let go; none while it is not yet time."""
        wait = self._until_next_send(stored)
        if wait > 0.005:
            return []
        count = batch_stages.allowance(seen, stored.batch.rate_per_second, bytes_each=progress.bytes_each)
        if count == 0:
            return []
        rows = self._peek(stored, progress)[:count]
        trying = batch_stages.is_trying(seen)
        return rows[: batch_stages.passing(self._breaker_names(rows), self._breakers, trying=trying)]

    def _peek(self, stored: StoredBatch, progress: _Progress) -> list[Row]:
        """The next letters of the plan as they stand, and how their breakers are."""
        now = self._monotonic()
        if progress.peeked_from != stored.next_seq or now >= progress.peeked_until:
            rate = stored.batch.rate_per_second
            size = batch_stages.CHUNK if rate is None else min(batch_stages.CHUNK, batch_stages.rate_slice(rate))
            found = self._items.stretch(stored.id, stored.next_seq, min(stored.next_seq + size, stored.batch.total))
            progress.peeked = self._rows(stored.id, found)
            progress.peeked_from = stored.next_seq
            progress.peeked_until = now + POLL_S
        self._ask_breakers({seen.letter.type for _, seen in progress.peeked if seen})
        return progress.peeked

    def _ask_breakers(self, types: set[str]) -> None:
        now = self._monotonic()
        if now >= self._breakers_until:
            self._breakers, self._breaker_types, self._breakers_until = {}, set(), now + BREAKERS_S
        missing = types - self._breaker_types
        if missing:
            found = self.port.breakers(missing)
            self._breakers |= {one.name: one for many in found.values() for one in many}
            self._breaker_types |= missing

    def _rows(self, batch_id: str, found: Sequence[BatchItem], *, with_body: bool = True) -> list[Row]:
        ids = [item.letter_id for item in found]
        letters = self._letters.read_for_batch(ids, batch_id, with_body=with_body) if found else {}
        return [(item, letters.get(item.letter_id)) for item in found]

    def _breaker_names(self, rows: Iterable[Row]) -> list[str | None]:
        return [self.port.breaker_of(seen.letter.type, seen.letter.body) if seen else None for _, seen in rows]

    # -- one chunk

    def _others_chunk(self, stored: StoredBatch, progress: _Progress, chunk: Chunk) -> StoredBatch | None:
        """Go on with a chunk that was begun by somebody who is gone, or by this executor; None: its owner has it."""
        token = chunk.token
        if chunk.owner != self.name:
            left = _is_gone(chunk.owner)
            if not left and datetime.now(UTC) <= chunk.until:
                return None
            token = uuid.uuid4().hex
            if self._batches.take_over(stored, owner=self.name, token=token, left=left) is None:
                return None
            log.info("batch_chunk_taken_over", extra={"batch_id": stored.id, "owner": chunk.owner})
        if stored.batch.stage in SENDING:
            rows = self._rows(stored.id, self._items.stretch(stored.id, chunk.begin, chunk.end))
            self._carry(stored, progress, [row for row in rows if not row[0].sent])
        # Of a batch that is paused nothing is sent: what is left of the chunk is looked after when it goes on.
        self._batches.free(stored.id, token)
        return self._batches.get(stored.id)

    def _carry(self, stored: StoredBatch, progress: _Progress, rows: list[Row], *, ending: bool = False) -> None:
        """Bring letters of the plan as far as they go: claim, forward, mark; or skip, or copy what became of them."""
        if not rows:
            return
        progress.stale = True
        batch_id = stored.id
        began_ms = 0 if ending else self.port.now_ms()
        ended: dict[str, tuple[str, str]] = {}
        skips: dict[str, str] = {}
        ours: list[DeadLetter] = []
        pending = rows
        for _ in range(_TURNS):
            claims: list[tuple[DeadLetter, ClaimOrder]] = []
            for item, seen in pending:
                letter = seen.letter if seen else None
                match batch_stages.look(letter, batch_id, skipped=bool(seen and seen.skipped), ending=ending):
                    case Claim() if letter:
                        claims.append((letter, self._claim_order(stored)))
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
            answer = self._letters.claim_many(claims)
            ours += answer.claimed
            ended |= dict.fromkeys(answer.refused, ("skipped:not_replayable", ""))
            if answer.is_sure:
                break
            asked = {letter.id for letter, _ in claims} - answer.refused
            pending = self._rows(batch_id, [item for item, _ in pending if item.letter_id in asked])
        sent = self._forward(ours, began_ms, skips) if ours else []
        self._items.mark_sent(batch_id, sent)
        if skips:
            decided = self._letters.skip_many(list(skips), batch_id)
            ended |= {letter_id: (f"skipped:{skips[letter_id]}", "") for letter_id in decided}
        if ended:
            self._items.end(batch_id, ended)
        if ours:
            size = sum(len(letter.body) for letter in ours) / len(ours)
            progress.bytes_each = size if not progress.bytes_each else 0.8 * progress.bytes_each + 0.2 * size

    def _claim_order(self, stored: StoredBatch) -> ClaimOrder:
        batch = stored.batch
        return ClaimOrder(
            replay_id=new_replay_id(),
            kind="batch",
            by=batch.requested_by,
            why=batch.reason or batch.name,
            batch_id=batch.id,
            locked_by=self.name,
            at=datetime.now(UTC),
        )

    def _forward(self, ours: Sequence[DeadLetter], began_ms: int, skips: dict[str, str]) -> list[str]:
        """Send claimed letters' messages on their way; the ids of those that are. What was refused may be a skip."""
        deadline_ms = began_ms + int(FORWARD_WITHIN.total_seconds() * 1000)
        answers = self.port.forward_many([order_of(letter, deadline_ms, force=False) for letter in ours])
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

    # -- what became of them

    def _collect(self, stored: StoredBatch, progress: _Progress) -> None:
        """Copy the outcomes of letters under way, when it is time."""
        now = self._monotonic()
        if now < progress.collect_due:
            return
        for _ in range(COLLECT_PAGES):
            found = self._items.under_way(stored.id, progress.collect_after, stored.next_seq, COLLECT_PAGE)
            ended = self._letters.ended_for_batch([item.letter_id for item in found], stored.id) if found else {}
            outcomes = {}
            for letter_id, attempt in ended.items():
                copy = batch_stages.copied(str(attempt["outcome"]), attempt)
                outcomes[letter_id] = (copy.outcome, copy.error_type)
            if outcomes:
                self._items.end(stored.id, outcomes)
                progress.stale = True
            # Slow ones at the beginning must not keep the others from being asked: round and round.
            progress.collect_after = found[-1].seq if len(found) == COLLECT_PAGE else -1
            if len(found) < COLLECT_PAGE:
                break
        progress.collect_due = self._monotonic() + COLLECT_S

    def _look_after(self, stored: StoredBatch, progress: _Progress) -> None:
        """Letters that were taken and then left, and letters sent of which the letter says nothing any more."""
        now = self._monotonic()
        if now >= progress.left_due and stored.batch.stage in SENDING:
            taken = stored.chunk if stored.chunk and stored.chunk.token != progress.done else None
            before = taken.begin if taken else stored.next_seq
            left = self._items.left_behind(stored.id, before, batch_stages.CHUNK)
            self._carry(stored, progress, self._rows(stored.id, left))
            progress.left_due = now + LEFT_S
        if now >= progress.lost_due:
            self._find_lost(stored, progress)
            progress.lost_due = now + LOST_S

    def _find_lost(self, stored: StoredBatch, progress: _Progress) -> None:
        """Some of the letters under way: gone, or put back by the sweep because their message never was?"""
        found = self._items.under_way(stored.id, progress.lost_after, stored.next_seq, COLLECT_PAGE)
        progress.lost_after = found[-1].seq if len(found) == COLLECT_PAGE else -1
        gone, unsent = [], []
        for item, seen in self._rows(stored.id, found, with_body=False):
            if seen is None:
                gone.append(item.letter_id)
            elif not isinstance(
                batch_stages.look(seen.letter, stored.id, skipped=seen.skipped, ending=True), batch_stages.Wait | Copy
            ):
                unsent.append(item.letter_id)
        if gone:
            self._items.end(stored.id, dict.fromkeys(gone, ("skipped:gone", "")))
        self._items.mark_unsent(stored.id, unsent)
        progress.stale = progress.stale or bool(gone or unsent)

    # -- a batch that sends nothing more

    def _end(self, stored: StoredBatch, progress: _Progress) -> float:
        """Give every letter of a stopped or cancelled batch its outcome."""
        if not progress.untaken_ended:
            self._items.end_untaken(stored.id, stored.next_seq, "skipped:cancelled")
            progress.untaken_ended = True
            progress.stale = True
        self._collect(stored, progress)
        now = self._monotonic()
        if now >= progress.left_due:
            left = self._items.left_behind(stored.id, stored.next_seq, COLLECT_PAGE)
            self._carry(stored, progress, self._rows(stored.id, left, with_body=False), ending=True)
            progress.left_due = now + LEFT_S
        if now >= progress.lost_due:
            self._find_lost(stored, progress)
            progress.lost_due = now + LOST_S
        tally = self._tally(stored, progress, fresh=progress.stale, end=stored.batch.total)
        if tally.open == 0 and self._items.first_open(stored.id) is None:
            tally = self._tally(stored, progress, fresh=True, end=stored.batch.total)
            self._batches.ended(stored.id, tally, self._late(stored))
            return 0.0
        self._note(stored, progress)
        return COLLECT_S

    # -- counting

    def _tally(self, stored: StoredBatch, progress: _Progress, *, fresh: bool, end: int | None = None) -> Tally:
        """Counts over the letters that were taken; at most a tenth of the time goes into it unless ``fresh``."""
        now = self._monotonic()
        # Others copy outcomes too, so what is not known to be stale is counted again all the same, less often.
        rest = 0.0 if progress.stale else POLL_S
        if progress.tally is not None and not fresh and now < progress.count_due + rest:
            return progress.tally
        end = stored.next_seq if end is None else end
        if stored.settled_to > progress.settled_to:
            progress.settled_to, progress.settled = stored.settled_to, stored.settled
        first = self._items.first_open(stored.id)
        settled_to = end if first is None else min(first, end)
        if settled_to > progress.settled_to:
            # What has an outcome keeps it: these are counted once and for all.
            progress.settled = progress.settled + self._items.tally(stored.id, progress.settled_to, settled_to)
            progress.settled_to = settled_to
        progress.tally = progress.settled + self._items.tally(stored.id, progress.settled_to, end)
        progress.tally_to = end
        took = self._monotonic() - now
        progress.count_due = now + max(COUNT_S, took / COUNT_SHARE)
        progress.stale = False
        return progress.tally

    def _note(self, stored: StoredBatch, progress: _Progress, seen: BatchSeen | None = None) -> None:
        """Write down how far it is, when that has changed, a few times a second at most."""
        now = self._monotonic()
        blocked = seen.blocked_by if seen and stored.batch.paused_by == BY_BREAKER else None
        waiting = f"circuit breaker {blocked.name} is {blocked.state}" if blocked else ""
        if seen is None and progress.noted is not None:
            waiting = progress.noted[1]
        tally = self._tally(stored, progress, fresh=False)
        if (tally, waiting) == progress.noted or (now < progress.note_due and progress.noted is not None):
            return
        self._batches.note(
            stored, tally=tally, settled_to=progress.settled_to, settled=progress.settled, waiting=waiting
        )
        progress.noted = (tally, waiting)
        progress.note_due = now + COUNT_S
        progress.waiting = waiting

    def _note_late(self, stored: StoredBatch, progress: _Progress) -> None:
        late = self._late(stored)
        if late is not None and progress.tally is not None:
            self._batches.note(
                stored,
                tally=progress.tally,
                settled_to=progress.settled_to,
                settled=progress.settled,
                waiting="",
                late=late,
            )

    def _late(self, stored: StoredBatch) -> int | None:
        """Late arrivals as of now; None when that cannot be told."""
        batch = stored.batch
        if batch.criteria is None or stored.planned_at is None:
            return None
        try:
            return self._items.late_arrivals(stored.id, batch.criteria, stored.planned_at)
        except (QueryTooSlow, StoreUnavailable) as error:
            # A figure for people: the batch does not wait for it.
            log.info("late_arrivals_unknown", extra={"batch_id": stored.id, "why": str(error)})
            return None

    def _clean(self) -> None:
        """Delete batches that ended long ago, with their letters' entries, a few at a time."""
        self._clean_due = self._monotonic() + CLEAN_S
        if self._keep_days <= 0:
            return
        before = self._batches.server_now() - timedelta(days=self._keep_days)
        old = self._batches.ended_before(before, 10)
        for batch_id in old:
            self._items.remove(batch_id)
            self._batches.remove(batch_id, [Stage.FINISHED, Stage.CANCELLED, Stage.STOPPED])
            log.info("batch_deleted", extra={"batch_id": batch_id})
        if len(old) == 10:
            self._clean_due = self._monotonic() + POLL_S


def _is_gone(owner: str) -> bool:
    """Whether an executor of this host has ended. A wrong yes costs nothing: two may work on the same letters."""
    host, _, rest = owner.partition("/")
    process_id, _, _ = rest.partition("/")
    if host != socket.gethostname() or not process_id.isdigit():
        return False
    try:
        os.kill(int(process_id), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
