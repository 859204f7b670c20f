"""How far a batch is: counted over its items, and written down for people."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from dlq_app.batch_progress import Progress
from dlq_app.errors import QueryTooSlow, StoreUnavailable
from dlq_app.replay_batch import BY_BREAKER, BreakerSeen
from dlq_app.repository import Batches, Items, StoredBatch, Tally

log = logging.getLogger(__name__)

#: Counting takes at most this share of the time.
COUNT_SHARE = 0.1
COUNT_S = 0.25
#: What is not known to have changed is counted again all the same, after so long: others copy outcomes, too.
RECOUNT_S = 1.0


class Counter:
    """Counts and notes of batches. Holds nothing between calls but what ``Progress`` remembers."""

    def __init__(self, items: Items, batches: Batches, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._items = items
        self._batches = batches
        self._monotonic = monotonic

    def tally(self, stored: StoredBatch, progress: Progress, *, fresh: bool, end: int | None = None) -> Tally:
        """Counts over the letters that were taken; at most a tenth of the time goes into it unless ``fresh``."""
        now = self._monotonic()
        rest = 0.0 if progress.stale else RECOUNT_S
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
        took = self._monotonic() - now
        progress.count_due = now + max(COUNT_S, took / COUNT_SHARE)
        progress.stale = False
        return progress.tally

    def note(self, stored: StoredBatch, progress: Progress, blocked_by: BreakerSeen | str | None = "") -> None:
        """Write down how far it is, when that has changed, a few times a second at most.

        ``blocked_by``: the breaker that the next letter would meet; empty: nobody has looked, what was noted stays.
        """
        now = self._monotonic()
        if isinstance(blocked_by, str):
            waiting = progress.noted[1] if progress.noted is not None else ""
        else:
            blocked = blocked_by if stored.batch.paused_by == BY_BREAKER else None
            waiting = f"circuit breaker {blocked.name} is {blocked.state}" if blocked else ""
        tally = self.tally(stored, progress, fresh=False)
        if (tally, waiting) == progress.noted or (now < progress.note_due and progress.noted is not None):
            return
        self._write(stored, progress, tally, waiting)
        progress.noted = (tally, waiting)
        progress.note_due = now + COUNT_S
        progress.waiting = waiting

    def note_late(self, stored: StoredBatch, progress: Progress) -> None:
        """Write down the late arrivals, where they can be told."""
        late = self.late(stored)
        if late is not None and progress.tally is not None:
            self._write(stored, progress, progress.tally, "", late)

    def _write(
        self, stored: StoredBatch, progress: Progress, tally: Tally, waiting: str, late: int | None = None
    ) -> None:
        self._batches.note(
            stored, tally=tally, settled_to=progress.settled_to, settled=progress.settled, waiting=waiting, late=late
        )

    def say_waiting(self, stored: StoredBatch, progress: Progress, why: str) -> None:
        """Tell what the batch waits for. With MongoDB away the question raises: then the caller has to say so."""
        if progress.waiting != why:
            log.warning("batch_waits", extra={"batch_id": stored.id, "why": why})
            progress.waiting = why
        progress.noted = None
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
