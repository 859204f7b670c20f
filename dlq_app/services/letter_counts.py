"""Counters of letters for monitoring: resolved ones, and those that missed their objective."""

from __future__ import annotations

from dlq_app import conf
from dlq_app.store import repository
from dlq_app.store.letter_counts import Counted
from processes.steps import progressed

#: Counters that are older than this are not current: cron is missing, or its log says why it cannot count.
MAX_AGE_S = 600.0
#: Spans that one call counts. After a pause of cron the next calls catch up.
_STEPS = 200


def advance() -> None:
    """Count what happened since the last call. Any number of processes may do this at the same time.

    Raises ``StoreUnavailable`` and ``QueryTooSlow``; nothing is then counted twice or left out.
    """
    counts, within = repository.letter_counts(), conf.letters_objective().within
    now = repository.letters().server_now()
    for _ in range(_STEPS):
        if not counts.step(now, within):
            return
        progressed()


def read() -> Counted | None:
    """The counters; None while there are no current ones. Raises ``StoreUnavailable``."""
    counted = repository.letter_counts().read()
    return counted if counted and counted.age_s <= MAX_AGE_S else None
