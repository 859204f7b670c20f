"""Delete resolved letters permanently. Open letters are never deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from audit_app.lines import record
from dlq_app.conf import intake
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.domain.paging import Total
from dlq_app.domain.states import Status
from dlq_app.store import repository
from dlq_app.store.repository import MIN_AGE

log = logging.getLogger(__name__)


def count(criteria: LetterCriteria, older_than: timedelta) -> Total:
    """Number of letters that ``purge`` would delete now. Raises ``CriteriaInvalid`` as it does."""
    return repository.letters().count_purgeable(criteria, _before(criteria, older_than))


def purge(
    criteria: LetterCriteria,
    older_than: timedelta,
    *,
    actor: str,
    progress: Callable[[int], None] = lambda deleted: None,
) -> int:
    """Delete the matching letters that were resolved longer ago than ``older_than``; returns their number.

    Deletes in steps of 500; deleted letters stay deleted when a store fails in between (``StoreUnavailable``). A
    running batch skips them. Raises ``CriteriaInvalid`` for another status than ``dlq_resolved``, and for less than an
    hour: a write that is in progress while its letter is deleted would create it again with an old fence.
    """
    before = _before(criteria, older_than)
    letters = repository.letters()
    deleted = 0
    try:
        while step := letters.purge(criteria, before, intake().unlist):
            deleted += step
            progress(deleted)
    finally:
        which = criteria.as_text()
        log.warning(
            "letters_purged",
            extra={"by": actor, "letters": deleted, "resolved_before": before.isoformat(), "filter": which},
        )
        why = f"resolved before {before:%Y-%m-%dT%H:%M:%SZ}"
        record(actor, "purge", kind="deadletter", name=which, why=why, count=deleted)
    return deleted


def _before(criteria: LetterCriteria, older_than: timedelta) -> datetime:
    """The limit by MongoDB's clock, which also set the time of each resolution."""
    if set(criteria.statuses) - {Status.RESOLVED}:
        message = f"must be {Status.RESOLVED}: no other letters are deleted"
        raise CriteriaInvalid(message, errors=[{"field": "status", "message": message}])
    if older_than < MIN_AGE:
        message = "must be at least one hour"
        raise CriteriaInvalid(message, errors=[{"field": "olderThan", "message": message}])
    return repository.letters().server_now() - older_than
