"""The executor of replay batches: leads each from stage to stage, and takes its letters a few at a time.

Any number of executors work on the same batches, in any number of processes, and each may be killed at any line. Stages
and places in the plan move by conditional updates of the batch; what one left half done the next one looks at again.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from dlq_app.domain import batch_rules
from dlq_app.domain.batch_rules import BatchSeen
from dlq_app.domain.errors import DeadLetterError, QueryTooSlow
from dlq_app.domain.ports import IntakePort
from dlq_app.domain.replay_batch import BY_BREAKER, SENDING, BreakerSeen, ReplayBatch, Stage
from dlq_app.services.batch_counting import Counter
from dlq_app.services.batch_letters import COLLECT_S, Carrier
from dlq_app.services.batch_memory import Memory, Row
from dlq_app.store import repository
from dlq_app.store.batches import ABANDONED_AFTER, Chunk, counts_of
from dlq_app.store.repository import Batches, Items, Letters, StoredBatch, Tally
from processes.names import has_ended, new_name
from processes.steps import goes_on

log = logging.getLogger(__name__)

#: A new batch, a resumed one and a dead executor's work are seen within so long.
POLL_S = 1.0
#: What breakers said is believed for so long.
BREAKERS_S = 0.25
#: Chunks of one batch in one turn, while there are others.
CHUNKS_PER_TURN = 4
CLEAN_S = 3600.0
#: Who leads a batch from stage to stage when no person does.
SYSTEM = "system"


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
        self.name = new_name()
        self._items = items
        self._batches = batches
        self.port = port
        self._carrier = Carrier(letters, items, port, name=self.name, monotonic=monotonic)
        self._counter = Counter(items, batches, monotonic=monotonic)
        self._keep_days = keep_days
        self._monotonic = monotonic
        self._memories: dict[str, Memory] = {}
        self._breakers: dict[str, BreakerSeen] = {}
        self._breaker_types: set[str] = set()
        self._breakers_until = 0.0
        self._clean_due = 0.0
        self._reader: ThreadPoolExecutor | None = None

    @property
    def at_work(self) -> int:
        """Batches under way."""
        return len(self._memories)

    def tick(self) -> float:
        """One turn for every batch; seconds until the next. Raises ``StoreUnavailable`` when MongoDB is away.

        A batch that cannot go on for another reason says so in ``waiting`` and is tried again; the others go on.
        """
        if self._monotonic() >= self._clean_due:
            self._clean()
        found = self._batches.active()
        for gone in set(self._memories) - {stored.id for stored in found}:
            del self._memories[gone]
        return min([POLL_S, *(self._turn(stored, alone=len(found) == 1) for stored in found)])

    def stop(self) -> None:
        """Give back what is taken and done, so that nobody has to wait for its time to be over."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)
        for batch_id, memory in self._memories.items():
            self._carrier.mark_all(batch_id, memory)
            self._free(batch_id, memory)

    def _turn(self, stored: StoredBatch, *, alone: bool) -> float:
        memory = self._memories.setdefault(stored.id, Memory())
        goes_on()
        try:
            if stored.batch.stage is Stage.PLANNING:
                return self._planning(stored)
            if stored.batch.is_final:
                return self._end(stored, memory)
            wait = self._go_on(stored, memory, alone=alone)
        except DeadLetterError as error:
            # Whatever is away, it is this batch that waits; what was begun is looked at again.
            self._counter.say_waiting(stored, memory, str(error))
            return POLL_S
        except Exception:
            # A bug that one batch meets must not keep all others from going on.
            log.exception("batch_broken", extra={"batch_id": stored.id})
            self._counter.say_waiting(stored, memory, "An error of this program, which the DLQ worker's log tells.")
            return POLL_S
        return wait

    def _planning(self, stored: StoredBatch) -> float:
        if self._batches.server_now() - stored.batch.created_at > ABANDONED_AFTER:
            self._items.remove(stored.id)
            if self._batches.remove(stored.id, [Stage.PLANNING]):
                log.info("batch_plan_abandoned", extra={"batch_id": stored.id})
        return POLL_S

    # -- a batch that may still send

    def _go_on(self, stored: StoredBatch, memory: Memory, *, alone: bool) -> float:
        self._carrier.collect(stored, memory)
        self._carrier.look_after(stored, memory)
        for _ in range(CHUNKS_PER_TURN if not alone else 4 * CHUNKS_PER_TURN):
            goes_on()
            following, wait = self._step(stored, memory)
            if following is None:
                return wait
            stored = following
            if stored.batch.is_final:
                return 0.0
            self._carrier.collect(stored, memory)
        return 0.0

    def _step(self, stored: StoredBatch, memory: Memory) -> tuple[StoredBatch | None, float]:
        """One move, or one chunk: the batch after it. Or None, and the seconds to wait."""
        if stored.chunk and stored.chunk.token != memory.done:
            following = self._others_chunk(stored, memory, stored.chunk)
            if following is None:
                self._counter.note(stored, memory)
                return None, COLLECT_S
            return following, 0.0
        seen = self._see(stored, memory)
        move = batch_rules.next_move(seen)
        if move is not None:
            tally = self._counter.tally(stored, memory, fresh=True)
            # Judged by counts that are known to be right for where the batch stood when it was read.
            move = batch_rules.next_move(self._seen(stored, tally, seen.blocked_by))
        if move is not None:
            return self._move(stored, memory, move, seen.blocked_by), 0.0
        rows = self._sendable(stored, memory, seen)
        if not rows:
            # Nothing follows at once: whoever is next must not find a chunk that looks taken.
            self._free(stored.id, memory)
            self._counter.note(stored, memory, _waiting(seen))
            return None, self._pause(stored, seen)
        return self._take(stored, memory, seen, rows)

    def _move(
        self, stored: StoredBatch, memory: Memory, move: batch_rules.Move, blocked_by: BreakerSeen | None
    ) -> StoredBatch | None:
        why = blocked_by.words if blocked_by else ""
        if move.to is Stage.FINISHED:
            self._counter.note_late(stored, memory)
        errors = self._errors(stored.id) if move.to is Stage.STOPPED else ()
        moved = self._batches.move(stored, move, who=SYSTEM, why=why, tally=memory.tally, errors=errors)
        if moved is not None:
            extra = {"batch_id": stored.id, "stage": move.to.value, "why": why or move.stop_reason}
            log.info("batch_moved", extra=extra)
            memory.peeked_from = -1
        return moved

    def _errors(self, batch_id: str) -> Sequence[tuple[str, int]]:
        try:
            return self._items.errors(batch_id)
        except QueryTooSlow as error:
            # Words for people: the batch stops without them.
            log.info("stop_errors_unknown", extra={"batch_id": batch_id, "why": str(error)})
            return ()

    def _take(
        self, stored: StoredBatch, memory: Memory, seen: BatchSeen, rows: list[Row]
    ) -> tuple[StoredBatch | None, float]:
        """Take these letters, if nobody was first, and carry them."""
        batch = stored.batch
        token = uuid.uuid4().hex
        taken = self._batches.take(stored, len(rows), owner=self.name, token=token, done=memory.done)
        memory.peeked_from = -1
        if taken is None:
            self._counter.note(stored, memory, _waiting(seen))
            return None, self._until_next_send(stored) or 0.01
        memory.done = ""
        self._read_ahead(taken, memory)
        self._carrier.carry(taken, memory, rows)
        if batch.rate_per_second is None and batch.stage is Stage.RUNNING:
            # The next taking frees it in the same update.
            memory.done = token
            self._counter.note(taken, memory)
            return taken, 0.0
        self._batches.free(stored.id, token)
        self._counter.note(taken, memory)
        return None, self._until_next_send(taken)

    def _free(self, batch_id: str, memory: Memory) -> None:
        if memory.done:
            self._batches.free(batch_id, memory.done)
            memory.done = ""

    def _others_chunk(self, stored: StoredBatch, memory: Memory, chunk: Chunk) -> StoredBatch | None:
        """Go on with a chunk that was begun by somebody who is gone, or by this executor; None: its owner has it."""
        token = chunk.token
        if chunk.owner != self.name:
            left = has_ended(chunk.owner)
            if not left and repository.now() <= chunk.until:
                return None
            token = uuid.uuid4().hex
            if self._batches.take_over(stored, owner=self.name, token=token, left=left) is None:
                return None
            log.info("batch_chunk_taken_over", extra={"batch_id": stored.id, "owner": chunk.owner})
        if stored.batch.stage in SENDING:
            rows = self._carrier.stretch(stored.id, chunk.begin, chunk.end)
            self._carrier.carry(stored, memory, [row for row in rows if not row[0].sent])
        # Of a batch that is paused nothing is sent: what is left of the chunk is looked after when it goes on.
        self._batches.free(stored.id, token)
        return self._batches.get(stored.id)

    # -- how it stands

    def _see(self, stored: StoredBatch, memory: Memory) -> BatchSeen:
        batch = stored.batch
        has_budget = batch.max_failures is not None or batch.max_failure_rate is not None
        all_taken = stored.next_seq >= batch.total
        # A budget is counted before every chunk; a verdict when there may be one.
        fresh = has_budget or (memory.stale and (batch.stage is Stage.CANARY or all_taken))
        tally = self._counter.tally(stored, memory, fresh=fresh)
        seen = self._seen(stored, tally, None)
        if all_taken or not (batch.stage in SENDING or batch.paused_by == BY_BREAKER):
            return seen
        rows = self._peek(stored, memory)
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
            until = (stored.batch.scheduled_at - repository.now()).total_seconds()
            return min(max(until, 0.05), POLL_S)
        return POLL_S

    def _until_next_send(self, stored: StoredBatch) -> float:
        """Only how long to sleep: whether it is time, the server's clock says."""
        if stored.next_send_at is None:
            return 0.0
        return max(0.0, (stored.next_send_at - repository.now()).total_seconds())

    # -- which letters next

    def _sendable(self, stored: StoredBatch, memory: Memory, seen: BatchSeen) -> list[Row]:
        """The next letters that rate, window, canary and breakers let go; none while it is not yet time."""
        wait = self._until_next_send(stored)
        if wait > 0.005:
            return []
        count = batch_rules.allowance(seen, stored.batch.rate_per_second, bytes_each=memory.bytes_each)
        if count == 0:
            return []
        rows = self._peek(stored, memory)[:count]
        trying = batch_rules.is_trying(seen)
        return rows[: batch_rules.passing(self._breaker_names(rows), self._breakers, trying=trying)]

    def _peek(self, stored: StoredBatch, memory: Memory) -> list[Row]:
        """The next letters of the plan as they stand, and how their breakers are."""
        now = self._monotonic()
        if memory.peeked_from != stored.next_seq or now >= memory.peeked_until:
            ahead, memory.ahead = memory.ahead, None
            read_at = now
            if ahead is not None and ahead[0] == stored.next_seq and now < ahead[1] + POLL_S:
                _, read_at, reading = ahead
                memory.peeked = reading.result()
            else:
                begin, end = self._next_places(stored, memory)
                memory.peeked = self._carrier.stretch(stored.id, begin, end)
            memory.peeked_from = stored.next_seq
            memory.peeked_until = read_at + POLL_S
        self._ask_breakers({seen.letter.type for _, seen in memory.peeked if seen})
        return memory.peeked

    def _next_places(self, stored: StoredBatch, memory: Memory) -> tuple[int, int]:
        batch = stored.batch
        is_careful = batch_rules.is_careful(
            batch.stage, batch.rate_per_second, batch.max_failures, batch.max_failure_rate
        )
        size = batch_rules.chunk_size(is_careful=is_careful, bytes_each=memory.bytes_each)
        if batch.rate_per_second is not None:
            size = min(size, batch_rules.rate_slice(batch.rate_per_second))
        return stored.next_seq, min(stored.next_seq + size, batch.total)

    def _read_ahead(self, taken: StoredBatch, memory: Memory) -> None:
        """Begin to read the letters that come next, while those that were taken are claimed and sent.

        They may move meanwhile, as any that were read: the claim decides.
        """
        begin, end = self._next_places(taken, memory)
        if end - begin <= batch_rules.CHUNK:
            return
        if self._reader is None:
            self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches-ahead")
        reading = self._reader.submit(self._carrier.stretch, taken.id, begin, end)
        memory.ahead = (begin, self._monotonic(), reading)

    def _ask_breakers(self, types: set[str]) -> None:
        now = self._monotonic()
        if now >= self._breakers_until:
            self._breakers, self._breaker_types, self._breakers_until = {}, set(), now + BREAKERS_S
        missing = types - self._breaker_types
        if missing:
            found = self.port.breakers(missing)
            self._breakers |= {one.name: one for many in found.values() for one in many}
            self._breaker_types |= missing

    def _breaker_names(self, rows: Iterable[Row]) -> list[str | None]:
        return [self.port.breaker_of(seen.letter.type, seen.letter.body) if seen else None for _, seen in rows]

    # -- a batch that sends nothing more

    def _end(self, stored: StoredBatch, memory: Memory) -> float:
        """Give every letter of a stopped or cancelled batch its outcome."""
        if not memory.untaken_ended:
            self._items.end_untaken(stored.id, stored.next_seq, "skipped:cancelled")
            memory.untaken_ended = True
            memory.stale = True
        self._carrier.collect(stored, memory)
        self._carrier.end_left(stored, memory)
        tally = self._counter.tally(stored, memory, fresh=memory.stale, end=stored.batch.total)
        if tally.open == 0 and self._items.first_open(stored.id) is None:
            tally = self._counter.tally(stored, memory, fresh=True, end=stored.batch.total)
            self._batches.ended(stored.id, tally, self._counter.late(stored))
            return 0.0
        self._counter.note(stored, memory)
        return COLLECT_S

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


def _waiting(seen: BatchSeen) -> str:
    """Only a batch that a breaker has paused waits for it: another has letters under way, or is between two."""
    return seen.blocked_by.words if seen.blocked_by and seen.paused_by == BY_BREAKER else ""
