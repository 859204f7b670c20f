"""The run of one replay batch in one executor: collect outcomes, choose the next stage, send letters, report progress.

``BatchRun.turn`` is the entry; the methods follow in the order in which it calls them. The process may be killed at
any line, and several executors may run the same batch. A letter is sent at most once because its own claim says so, and
an item's outcome is a copy of the letter's: every step may be repeated by any executor.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from dlq_app.domain import batch_rules
from dlq_app.domain.batch_rules import BatchView, Copy, Wait
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.ports import IntakePort
from dlq_app.domain.replay_batch import BY_BREAKER, SENDING, BreakerSeen, Stage
from dlq_app.services.batch_dispatch import Dispatcher, Row
from dlq_app.store import repository
from dlq_app.store.batches import Chunk, counts_of
from dlq_app.store.repository import Batches, Items, Letters, StoredBatch, Tally
from processes.names import has_ended
from processes.steps import progressed

log = logging.getLogger(__name__)

#: Recorded as the author of moves that no person made.
SYSTEM = "system"
#: Maximum pause between two turns: new, resumed and abandoned batches are picked up within this time.
POLL_S = 1.0
#: Time for which the state of circuit breakers is cached.
BREAKERS_S = 0.25
#: Chunks of one batch in one turn, while there are other batches.
CHUNKS_PER_TURN = 4
#: Pause between two copies of outcomes, and how many letters are copied at once.
COLLECT_S = 0.15
COLLECT_PAGE = 500
COLLECT_PAGES = 4
#: In a batch without limits, marked letters are slow or of another executor: the pause between two looks at them.
COLLECT_MARKED_S = 1.0
#: A letter without an outcome is marked as sent after this time; an outcome that comes sooner makes the mark needless.
MARK_AFTER_S = 1.0
#: Pause between two checks for letters that an executor took and did not send, and for letters in flight that are lost.
UNSENT_S = 1.0
LOST_S = 15.0
#: Pause between two counts, and between two reports. Counting takes at most this share of the time.
COUNT_S = 0.25
COUNT_SHARE = 0.1
#: Even without a known change the letters are counted after this time: other executors copy outcomes, too.
RECOUNT_S = 1.0


class Every:
    """A repeated task: due at once, then ``seconds`` after it was last done. ``clock``: monotonic seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._due = float("-inf")

    def is_due(self, later_s: float = 0.0) -> bool:
        """Whether the task is due; with ``later_s``, whether it has been due for that long."""
        return self._clock() >= self._due + later_s

    def done(self, again_in: float | None = None) -> None:
        self._due = self._clock() + (self._seconds if again_in is None else again_in)


class _Ahead(NamedTuple):
    """Letters of the plan from place ``begin`` on, read at ``at``; ``rows`` waits for the reading to end."""

    begin: int
    at: float
    rows: Callable[[], list[Row]]


class BatchRun:
    """One batch in one executor. Its state is a cache: all of it can be read again from the stores."""

    def __init__(
        self,
        batch_id: str,
        *,
        letters: Letters,
        items: Items,
        batches: Batches,
        port: IntakePort,
        owner: str,
        reader: ThreadPoolExecutor,
        clock: Callable[[], float],
    ) -> None:
        """``owner``: the executor's name in chunks and claims. ``reader``: reads ahead while letters are sent."""
        self.id = batch_id
        self._letters, self._items, self._batches, self._port = letters, items, batches, port
        self._owner = owner
        self._dispatcher = Dispatcher(letters, port, owner=owner)
        self._reader = reader
        self._clock = clock

        self._stored: StoredBatch  # set by ``turn``
        #: Token of a finished chunk of this run that is still in the stored batch.
        self._finished_chunk = ""
        self._ahead: _Ahead | None = None
        self._bytes_each = 0.0
        self._breakers: dict[str, BreakerSeen] = {}
        self._breaker_types: set[str] = set()
        self._breakers_due = Every(BREAKERS_S, clock)

        #: Letters that were sent and whose items are not marked yet, with the time of sending.
        self._unmarked: dict[str, float] = {}
        self._collect_due = Every(COLLECT_S, clock)
        self._marked_due = Every(COLLECT_MARKED_S, clock)
        self._collect_after = -1
        self._unsent_due = Every(UNSENT_S, clock)
        self._lost_due = Every(LOST_S, clock)
        self._lost_after = -1
        self._rest_skipped = False

        self._tally: Tally | None = None
        self._settled_to, self._settled = 0, Tally()
        #: Whether outcomes may have come since the last count.
        self._stale = True
        self._count_due = Every(COUNT_S, clock)
        self._reported: tuple[Tally, str] | None = None
        self._report_due = Every(COUNT_S, clock)
        self._waiting = ""

    def turn(self, stored: StoredBatch, *, alone: bool) -> float:
        """Do what is due; return the seconds until the next turn. ``alone``: there is no other batch."""
        self._stored = stored
        if stored.batch.is_final:
            return self._finish()
        self._collect()
        self._recover()
        for _ in range(CHUNKS_PER_TURN * (4 if alone else 1)):
            progressed()
            wait = self._step()
            if wait is not None:
                return wait
            if self._stored.batch.is_final:
                return 0.0
            self._collect()
        return 0.0

    def _step(self) -> float | None:
        """Finish an open chunk, change the stage, or send a chunk. Return the seconds to wait, None: go on at once."""
        chunk = self._open_chunk()
        if chunk is not None:
            if self._finish_chunk(chunk):
                return None
            self._report()
            return COLLECT_S
        view = self._judge()
        move = batch_rules.next_move(view)
        if move is not None:
            # Judge again with counts that are exact for the place at which the batch was read.
            move = batch_rules.next_move(self._view(self._count(fresh=True), view.blocked_by))
        if move is not None:
            return None if self._move(move, view.blocked_by) else 0.0
        rows = self._sendable(view)
        if not rows:
            # Nothing follows at once: without this the next executor would wait for a chunk that is finished.
            self._release_chunk()
            self._report(_waiting(view))
            return self._pause(view)
        return self._send(view, rows)

    # --- collect ---

    def _collect(self) -> None:
        """Copy the outcomes of letters in flight, if it is time."""
        if not self._collect_due.is_due():
            return
        self._collect_unmarked()
        if batch_rules.is_limited(self._stored.batch) or self._marked_due.is_due():
            self._collect_marked()
            self._marked_due.done()
        self._collect_due.done()

    def _collect_unmarked(self) -> None:
        """Copy outcomes of letters that this run has sent and not marked, oldest first."""
        sent = list(self._unmarked)
        for begin in range(0, len(sent), COLLECT_PAGE):
            page = sent[begin : begin + COLLECT_PAGE]
            ended = self._copy_outcomes(page)
            for letter_id in ended:
                del self._unmarked[letter_id]
            if 2 * len(ended) < len(page):
                break  # the next pages were sent later: most of their letters are still in flight
        self._mark_sent(older_than_s=MARK_AFTER_S)

    def _collect_marked(self) -> None:
        """Copy outcomes of letters whose items are marked as sent."""
        for _ in range(COLLECT_PAGES):
            found = self._items.in_flight(self.id, self._collect_after, self._stored.next_seq, COLLECT_PAGE)
            self._copy_outcomes([item.letter_id for item in found])
            # Continue behind this page next time: slow letters at the beginning must not keep the others from it.
            self._collect_after = found[-1].seq if len(found) == COLLECT_PAGE else -1
            if len(found) < COLLECT_PAGE:
                break

    def _copy_outcomes(self, letter_ids: Sequence[str]) -> list[str]:
        """Copy the outcomes of these letters; return the ids of those that have one."""
        if not letter_ids:
            return []
        outcomes = {}
        for letter_id, attempt in self._letters.ended_for_batch(letter_ids, self.id).items():
            copy = batch_rules.copied(str(attempt["outcome"]), attempt)
            outcomes[letter_id] = (copy.outcome, copy.error_type)
        if outcomes:
            self._items.record_outcomes(self.id, outcomes)
            self._stale = True
        return list(outcomes)

    def _mark_sent(self, *, older_than_s: float = 0.0) -> None:
        """Mark the items of letters that were sent before this time and have no outcome."""
        until = self._clock() - older_than_s
        sent = [letter_id for letter_id, sent_at in self._unmarked.items() if sent_at <= until]
        self._items.mark_sent(self.id, sent)
        for letter_id in sent:
            del self._unmarked[letter_id]

    def _recover(self) -> None:
        """Dispatch letters that an executor took and did not send; check letters in flight that may be lost."""
        stage, ending = self._stored.batch.stage, self._stored.batch.is_final
        if (stage in SENDING or ending) and self._unsent_due.is_due():
            chunk = None if ending else self._open_chunk()
            page = COLLECT_PAGE if ending else batch_rules.CHUNK
            found = self._items.unsent(self.id, chunk.begin if chunk else self._stored.next_seq, COLLECT_PAGE)
            # Most may be this run's own, sent and not marked yet. Those of other executors come first: taken earlier.
            left = [item for item in found if item.letter_id not in self._unmarked][:page]
            self._dispatch(self._dispatcher.read(self.id, left, with_body=not ending))
            self._unsent_due.done(again_in=0.0 if len(left) == page else None)
        if self._lost_due.is_due():
            self._check_lost()
            self._lost_due.done()

    def _check_lost(self) -> None:
        """Check a page of letters in flight: was the letter deleted, or released because its message never existed?"""
        found = self._items.in_flight(self.id, self._lost_after, self._stored.next_seq, COLLECT_PAGE)
        self._lost_after = found[-1].seq if len(found) == COLLECT_PAGE else -1
        gone, unsent = [], []
        for item, seen in self._dispatcher.read(self.id, found, with_body=False):
            if seen is None:
                gone.append(item.letter_id)
            elif not isinstance(
                batch_rules.next_step(seen.letter, self.id, skipped=seen.skipped, ending=True), Wait | Copy
            ):
                unsent.append(item.letter_id)
        if gone:
            self._items.record_outcomes(self.id, dict.fromkeys(gone, ("skipped:gone", "")))
        self._items.mark_unsent(self.id, unsent)
        self._stale = self._stale or bool(gone or unsent)

    # --- a chunk that is already taken ---

    def _open_chunk(self) -> Chunk | None:
        """The stored chunk, unless this run has finished it."""
        chunk = self._stored.chunk
        return chunk if chunk and chunk.token != self._finished_chunk else None

    def _finish_chunk(self, chunk: Chunk) -> bool:
        """Finish a chunk of an executor that is gone, or of this one; False while its owner may be alive."""
        token = chunk.token
        if chunk.owner != self._owner:
            is_gone = has_ended(chunk.owner)
            if not is_gone and repository.now() <= chunk.until:
                return False
            token = uuid.uuid4().hex
            if self._batches.take_over_chunk(self._stored, owner=self._owner, token=token, owner_ended=is_gone) is None:
                return False
            log.info("batch_chunk_taken_over", extra={"batch_id": self.id, "owner": chunk.owner})
        if self._stored.batch.stage in SENDING:
            # A paused batch sends nothing: ``_recover`` dispatches the rest of the chunk when it is resumed.
            self._dispatch([row for row in self._read(chunk.begin, chunk.end) if not row[0].sent])
        self._batches.release_chunk(self.id, token)
        found = self._batches.get(self.id)
        if found is None:
            return False
        self._stored = found
        return True

    def _release_chunk(self) -> None:
        if self._finished_chunk:
            self._batches.release_chunk(self.id, self._finished_chunk)
            self._finished_chunk = ""

    # --- judge ---

    def _judge(self) -> BatchView:
        """The batch with its counts, and the circuit breaker that blocks its next letter."""
        batch = self._stored.batch
        all_taken = self._stored.next_seq >= batch.total
        # Counted before every chunk where a budget depends on it; else when the canary or the batch may be over.
        may_be_over = self._stale and (batch.stage is Stage.CANARY or all_taken)
        tally = self._count(fresh=batch_rules.has_budget(batch) or may_be_over)
        blocked_by = None
        if not all_taken and (batch.stage in SENDING or batch.paused_by == BY_BREAKER):
            seen = [self._breakers.get(name or "") for name in self._breaker_names(self._next_rows()[:1])]
            blocked_by = next((breaker for breaker in seen if breaker and not breaker.passes), None)
        return self._view(tally, blocked_by)

    def _view(self, tally: Tally, blocked_by: BreakerSeen | None) -> BatchView:
        batch = self._stored.batch
        return BatchView(
            batch=replace(batch, counts=counts_of(tally, batch.total)),
            next_seq=self._stored.next_seq,
            # An upper bound: letters taken since the count are in flight.
            under_way=self._stored.next_seq - tally.succeeded - tally.failed - tally.skipped,
            is_due=batch.stage is not Stage.PLANNED
            or batch.scheduled_at is None
            or batch.scheduled_at <= self._batches.server_now(),
            blocked_by=blocked_by,
        )

    def _count(self, *, fresh: bool = False) -> Tally:
        """Counts of the letters that were taken, or of all in a final stage. Cached, unless ``fresh``."""
        if self._tally is not None and not fresh and not self._count_due.is_due(0.0 if self._stale else RECOUNT_S):
            return self._tally
        begun, stored = self._clock(), self._stored
        end = stored.batch.total if stored.batch.is_final else stored.next_seq
        if stored.settled_to > self._settled_to:
            self._settled_to, self._settled = stored.settled_to, stored.settled
        first = self._items.first_open(self.id)
        settled_to = end if first is None else min(first, end)
        if settled_to > self._settled_to:
            # An outcome never changes: these need not be counted again.
            self._settled = self._settled + self._items.tally(self.id, self._settled_to, settled_to)
            self._settled_to = settled_to
        self._tally = self._settled + self._items.tally(self.id, self._settled_to, end)
        self._count_due.done(again_in=max(COUNT_S, (self._clock() - begun) / COUNT_SHARE))
        self._stale = False
        return self._tally

    def _move(self, move: batch_rules.Move, blocked_by: BreakerSeen | None) -> bool:
        """Change the stage; False when the batch has changed since it was read."""
        why = blocked_by.words if blocked_by else ""
        if move.to is Stage.FINISHED and self._tally is not None and (late := self._late_arrivals()) is not None:
            self._write_progress(self._tally, "", late)
        errors = self._errors() if move.to is Stage.STOPPED else ()
        moved = self._batches.move(self._stored, move, who=SYSTEM, why=why, tally=self._tally, errors=errors)
        if moved is None:
            return False
        extra = {"batch_id": self.id, "stage": move.to.value, "why": why or move.stop_reason}
        log.info("batch_moved", extra=extra)
        self._stored, self._ahead = moved, None
        return True

    def _errors(self) -> Sequence[tuple[str, int]]:
        try:
            return self._items.errors(self.id)
        except QueryTooSlow as error:
            # Shown to people only: the batch stops without them.
            log.info("stop_errors_unknown", extra={"batch_id": self.id, "why": str(error)})
            return ()

    # --- send ---

    def _sendable(self, view: BatchView) -> list[Row]:
        """The next letters that rate, window, canary and breakers allow; none before the next time of sending."""
        if self._until_next_send() > 0.005:
            return []
        count = batch_rules.allowance(view, bytes_each=self._bytes_each)
        if count == 0:
            return []
        rows = self._next_rows()[:count]
        trying = batch_rules.is_trying(view)
        return rows[: batch_rules.passing(self._breaker_names(rows), self._breakers, trying=trying)]

    def _next_rows(self) -> list[Row]:
        """The next letters of the plan, read at most ``POLL_S`` ago. Refreshes the state of their breakers."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.begin != self._stored.next_seq or self._clock() >= ahead.at + POLL_S:
            read_at, found = self._clock(), self._read(*self._next_places())
            ahead = _Ahead(self._stored.next_seq, read_at, lambda: found)
        rows = ahead.rows()
        self._ahead = ahead
        self._refresh_breakers({seen.letter.type for _, seen in rows if seen})
        return rows

    def _next_places(self) -> tuple[int, int]:
        begin, batch = self._stored.next_seq, self._stored.batch
        return begin, min(begin + batch_rules.chunk_size(batch, bytes_each=self._bytes_each), batch.total)

    def _read_ahead(self) -> None:
        """Start to read the next letters while those just taken are sent. They may change meanwhile: claims decide."""
        begin, end = self._next_places()
        if end - begin > batch_rules.CHUNK:
            self._ahead = _Ahead(begin, self._clock(), self._reader.submit(self._read, begin, end).result)

    def _read(self, begin: int, end: int) -> list[Row]:
        """The items from place ``begin`` to before ``end`` that have no outcome, with their letters."""
        return self._dispatcher.read(self.id, self._items.open_items(self.id, begin, end))

    def _refresh_breakers(self, types: set[str]) -> None:
        if self._breakers_due.is_due():
            self._breakers, self._breaker_types = {}, set()
            self._breakers_due.done()
        missing = types - self._breaker_types
        if missing:
            found = self._port.breakers(missing)
            self._breakers |= {one.name: one for many in found.values() for one in many}
            self._breaker_types |= missing

    def _breaker_names(self, rows: Iterable[Row]) -> list[str | None]:
        return [self._port.breaker_of(seen.letter.type, seen.letter.body) if seen else None for _, seen in rows]

    def _send(self, view: BatchView, rows: list[Row]) -> float | None:
        """Take these letters, unless another executor was first, and dispatch them."""
        token, self._ahead = uuid.uuid4().hex, None
        taken = self._batches.take_chunk(
            self._stored, len(rows), owner=self._owner, token=token, finished=self._finished_chunk
        )
        if taken is None:
            self._report(_waiting(view))
            return self._until_next_send() or 0.01
        self._stored, self._finished_chunk = taken, ""
        self._read_ahead()
        self._dispatch(rows)
        if view.batch.rate_per_second is None and view.batch.stage is Stage.RUNNING:
            # The update that takes the next chunk releases this one.
            self._finished_chunk = token
            self._report()
            return None
        self._batches.release_chunk(self.id, token)
        self._report()
        return self._until_next_send()

    def _dispatch(self, rows: list[Row]) -> None:
        """Claim and forward letters of the plan, skip them, or copy their outcome. Safe to repeat."""
        if not rows:
            return
        self._stale = True
        done = self._dispatcher.dispatch(self._stored.batch, rows)
        # Unmarked, a sent letter looks like one that an executor left: found claimed for this batch, it is forwarded
        # again under the same epoch, which intake recognises. So only limited batches pay for a mark of every letter.
        if batch_rules.is_limited(self._stored.batch):
            self._items.mark_sent(self.id, done.sent)
        else:
            self._unmarked |= dict.fromkeys(done.sent, self._clock())
        self._items.record_outcomes(self.id, done.outcomes)
        if done.bytes_each is not None:
            self._bytes_each = 0.8 * (self._bytes_each or done.bytes_each) + 0.2 * done.bytes_each

    def _pause(self, view: BatchView) -> float:
        batch = view.batch
        if view.under_way:
            return COLLECT_S
        if batch.stage in SENDING:
            return self._until_next_send() or COLLECT_S
        if batch.stage is Stage.PLANNED and batch.scheduled_at:
            return min(max((batch.scheduled_at - repository.now()).total_seconds(), 0.05), POLL_S)
        return POLL_S

    def _until_next_send(self) -> float:
        """Seconds to sleep. Whether letters may be taken is decided by the server's clock."""
        at = self._stored.next_send_at
        return max(0.0, (at - repository.now()).total_seconds()) if at else 0.0

    # --- report ---

    def _report(self, waiting: str | None = None) -> None:
        """Store counts that have changed, a few times a second at most.

        ``waiting``: what the batch waits for, in words; None: not known, keep the last text.
        """
        if waiting is None:
            waiting = self._reported[1] if self._reported is not None else ""
        report = (self._count(), waiting)
        if report == self._reported or (self._reported is not None and not self._report_due.is_due()):
            return
        self._write_progress(*report)
        self._reported, self._waiting = report, waiting
        self._report_due.done()

    def _write_progress(self, tally: Tally, waiting: str, late: int | None = None) -> None:
        self._batches.record_progress(
            self._stored, tally=tally, settled_to=self._settled_to, settled=self._settled, waiting=waiting, late=late
        )

    def report_waiting(self, why: str) -> None:
        """Store what the batch waits for. Raises ``StoreUnavailable`` when MongoDB is not responding."""
        if self._waiting != why:
            log.warning("batch_waits", extra={"batch_id": self.id, "why": why})
            self._waiting = why
        self._reported = None
        self._batches.record_waiting(self.id, why)

    def _late_arrivals(self) -> int | None:
        """Letters that fit the filter and came after the plan; None when the count is not known."""
        batch, planned_at = self._stored.batch, self._stored.planned_at
        if batch.criteria is None or planned_at is None:
            return None
        try:
            return self._items.late_arrivals(self.id, batch.criteria, planned_at)
        except (QueryTooSlow, StoreUnavailable) as error:
            # Shown to people only: the batch does not wait for it.
            log.info("late_arrivals_unknown", extra={"batch_id": self.id, "why": str(error)})
            return None

    # --- the end ---

    def _finish(self) -> float:
        """Record an outcome for every letter of a stopped or cancelled batch."""
        if not self._rest_skipped:
            self._items.record_untaken(self.id, self._stored.next_seq, "skipped:cancelled")
            self._rest_skipped = self._stale = True
        self._collect()
        self._recover()
        tally = self._count(fresh=self._stale)
        if tally.open == 0 and self._items.first_open(self.id) is None:
            self._batches.mark_finished(self.id, self._count(fresh=True), self._late_arrivals())
            return 0.0
        self._report()
        return COLLECT_S

    def stop(self) -> None:
        """Mark sent letters and release the chunk, so that no other executor has to wait until it expires."""
        self._mark_sent()
        self._release_chunk()


def _waiting(view: BatchView) -> str:
    """The breaker that a paused batch waits for. Otherwise letters are in flight or the batch is between two chunks."""
    return view.blocked_by.words if view.blocked_by and view.batch.paused_by == BY_BREAKER else ""
