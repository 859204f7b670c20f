"""How far a batch is: counted over its items, and written down for people."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.services.batch_memory import Memory
from dlq_app.store.repository import Batches, Items, StoredBatch, Tally

log = logging.getLogger(__name__)

#: Counting takes at most this share of the time.
COUNT_SHARE = 0.1
COUNT_S = 0.25
#: What is not known to have changed is counted again all the same, after so long: others copy outcomes, too.
RECOUNT_S = 1.0


class Counter:
    """Counts and notes of batches. Holds nothing between calls but what ``Memory`` remembers."""

    def __init__(self, items: Items, batches: Batches, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._items = items
        self._batches = batches
        self._monotonic = monotonic

    def tally(self, stored: StoredBatch, memory: Memory, *, fresh: bool, end: int | None = None) -> Tally:
        """Counts over the letters that were taken; at most a tenth of the time goes into it unless ``fresh``."""
        now = self._monotonic()
        rest = 0.0 if memory.stale else RECOUNT_S
        if memory.tally is not None and not fresh and now < memory.count_due + rest:
            return memory.tally
        end = stored.next_seq if end is None else end
        if stored.settled_to > memory.settled_to:
            memory.settled_to, memory.settled = stored.settled_to, stored.settled
        first = self._items.first_open(stored.id)
        settled_to = end if first is None else min(first, end)
        if settled_to > memory.settled_to:
            # What has an outcome keeps it: these are counted once and for all.
            memory.settled = memory.settled + self._items.tally(stored.id, memory.settled_to, settled_to)
            memory.settled_to = settled_to
        memory.tally = memory.settled + self._items.tally(stored.id, memory.settled_to, end)
        took = self._monotonic() - now
        memory.count_due = now + max(COUNT_S, took / COUNT_SHARE)
        memory.stale = False
        return memory.tally

    def note(self, stored: StoredBatch, memory: Memory, waiting: str | None = None) -> None:
        """Write down how far it is, when that has changed, a few times a second at most.

        ``waiting``: what it waits for, in words; None: nobody has looked, what was noted stays.
        """
        now = self._monotonic()
        if waiting is None:
            waiting = memory.noted[1] if memory.noted is not None else ""
        tally = self.tally(stored, memory, fresh=False)
        if (tally, waiting) == memory.noted or (now < memory.note_due and memory.noted is not None):
            return
        self._write(stored, memory, tally, waiting)
        memory.noted = (tally, waiting)
        memory.note_due = now + COUNT_S
        memory.waiting = waiting

    def note_late(self, stored: StoredBatch, memory: Memory) -> None:
        """Write down the late arrivals, where they can be told."""
        late = self.late(stored)
        if late is not None and memory.tally is not None:
            self._write(stored, memory, memory.tally, "", late)

    def _write(self, stored: StoredBatch, memory: Memory, tally: Tally, waiting: str, late: int | None = None) -> None:
        self._batches.note(
            stored, tally=tally, settled_to=memory.settled_to, settled=memory.settled, waiting=waiting, late=late
        )

    def say_waiting(self, stored: StoredBatch, memory: Memory, why: str) -> None:
        """Tell what the batch waits for. With MongoDB away the question raises: then the caller has to say so."""
        if memory.waiting != why:
            log.warning("batch_waits", extra={"batch_id": stored.id, "why": why})
            memory.waiting = why
        memory.noted = None
        self._batches.say_waiting(stored.id, why)

    def late(self, stored: StoredBatch) -> int | None:
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
