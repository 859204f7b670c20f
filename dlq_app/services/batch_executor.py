"""The executor of replay batches: gives each unfinished batch a turn (``batch_run``), and deletes old batches.

Any number of executors, in any number of processes, run the same batches, and each may be killed at any line: stages
and places in the plan change by conditional updates of the batch, and another executor picks up unfinished work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial

from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.ports import IntakePort
from dlq_app.domain.replay_batch import FINAL, Stage
from dlq_app.services.batch_run import POLL_S, BatchRun, Every
from dlq_app.store.batches import ABANDONED_AFTER
from dlq_app.store.repository import Batches, Items, Letters, StoredBatch
from processes.names import new_name
from processes.steps import progressed

log = logging.getLogger(__name__)

CLEAN_S = 3600.0
_CLEAN_PAGE = 10


class Executor:
    """Runs all unfinished batches. One per thread; call ``tick`` repeatedly."""

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
        self._items = items
        self._batches = batches
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches-ahead")
        self._new_run = partial(
            BatchRun, letters=letters, items=items, batches=batches, port=port, owner=new_name(),
            reader=self._reader, clock=monotonic,
        )  # fmt: skip
        self._runs: dict[str, BatchRun] = {}
        self._keep_days = keep_days
        self._clean_due = Every(CLEAN_S, monotonic)

    @property
    def at_work(self) -> int:
        """Number of unfinished batches."""
        return len(self._runs)

    def tick(self) -> float:
        """Give every batch one turn; return the seconds until the next. Raises ``StoreUnavailable`` for MongoDB.

        A batch that fails for another reason stores it in ``waiting`` and is tried again; the others go on.
        """
        if self._clean_due.is_due():
            self._clean()
        found = self._batches.active()
        for gone in set(self._runs) - {stored.id for stored in found}:
            del self._runs[gone]
        return min([POLL_S, *(self._turn(stored, alone=len(found) == 1) for stored in found)])

    def stop(self) -> None:
        """Release finished work, so that no other executor has to wait until it expires."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        for run in self._runs.values():
            run.stop()

    def _turn(self, stored: StoredBatch, *, alone: bool) -> float:
        run = self._runs.setdefault(stored.id, self._new_run(stored.id))
        progressed()
        try:
            if stored.batch.stage is Stage.PLANNING:
                return self._drop_abandoned_plan(stored)
            return run.turn(stored, alone=alone)
        except DeadLetterError as error:
            run.report_waiting(str(error))
        except Exception:
            # A bug that one batch triggers must not stop the others.
            log.exception("batch_broken", extra={"batch_id": stored.id})
            run.report_waiting("Internal error; see the DLQ worker's log.")
        return POLL_S

    def _drop_abandoned_plan(self, stored: StoredBatch) -> float:
        if self._batches.server_now() - stored.batch.created_at > ABANDONED_AFTER:
            self._items.remove(stored.id)
            if self._batches.remove(stored.id, [Stage.PLANNING]):
                log.info("batch_plan_abandoned", extra={"batch_id": stored.id})
        return POLL_S

    def _clean(self) -> None:
        """Delete batches that ended more than ``keep_days`` ago, with their items, a few at a time."""
        self._clean_due.done()
        if self._keep_days <= 0:
            return
        before = self._batches.server_now() - timedelta(days=self._keep_days)
        old = self._batches.ended_before(before, _CLEAN_PAGE)
        for batch_id in old:
            self._items.remove(batch_id)
            self._batches.remove(batch_id, sorted(FINAL))
            log.info("batch_deleted", extra={"batch_id": batch_id})
        if len(old) == _CLEAN_PAGE:
            self._clean_due.done(again_in=POLL_S)
