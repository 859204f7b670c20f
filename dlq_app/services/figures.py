"""Figures about all letters: counted for each reader while there are few, else read from a snapshot.

Counting reads index keys of every letter, so its time grows with their number. The DLQ worker counts every few seconds
and stores a snapshot, one process at a time; readers of a large queue read it and show its time.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from dlq_app import conf
from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.group_states import GroupFigures, GroupState, Said, why_ended
from dlq_app.domain.masking import mask_text
from dlq_app.domain.store_problem import StoreProblem
from dlq_app.store import repository
from dlq_app.store.figures import MAX_GROUPS, Snapshot, figures
from dlq_app.store.groups import groups
from processes.names import process_name
from wire.instants import iso

log = logging.getLogger(__name__)

#: Up to this number of letters every reader counts, so that a new letter is in the figures at once.
MAX_INLINE_LETTERS = 10_000
#: Seconds after which counting is given up: for a waiting reader, and in the DLQ worker.
INLINE_LIMIT_S = 2.0
RENEW_LIMIT_S = 120.0
#: Seconds from one snapshot to the next; or this many times what counting takes, so that it takes a fifth of the time.
RENEW_EVERY_S = 10.0
RENEW_FACTOR = 5
LEASE = "figures"
LEASE_TIME = timedelta(seconds=RENEW_LIMIT_S + 30)
RETRY_AFTER_S = 5
#: Figures for monitoring may be renewed this much later than planned, in seconds.
_LATE_S = 30.0
_TOP = 10
_COUNT_AGAIN = "Start a DLQ worker; if one runs, its log says why counting fails."

#: The last snapshot that this process has read: it is read again only after a change.
_known: Snapshot | None = None


def snapshot() -> Snapshot:
    """The figures: of now while there are few letters, else the stored ones, whatever their age.

    Without stored figures a reader counts, too. Raises ``QueryTooSlow`` when that takes longer than ``INLINE_LIMIT_S``:
    the DLQ worker's first count takes as long as it needs. Raises ``StoreUnavailable`` only without stored figures.
    """
    kept, _ = _latest()
    try:
        # The estimate is wrong after a crash of the server, the last count is out of date after a large import.
        if kept is None or max(kept.total, figures().estimated()) <= MAX_INLINE_LETTERS:
            return figures().count(INLINE_LIMIT_S)
    except (QueryTooSlow, StoreUnavailable) as error:
        if kept is None:
            if isinstance(error, StoreUnavailable):
                raise
            message = "The letters have not been counted yet: the DLQ worker counts them. Try again."
            raise QueryTooSlow(message, retry_after=RETRY_AFTER_S) from error
    return kept


def kept() -> tuple[Snapshot, float] | None:
    """The stored figures and their age in seconds; None if there are none, or they were not renewed when due.

    Reads one document, however many letters there are. Raises ``StoreUnavailable``.
    """
    found, age = _latest()
    return (found, age) if found and age <= 2 * _pause(found) + _LATE_S else None


def problems() -> list[StoreProblem]:
    """The problem of stored figures that are used and were not renewed in time; allows for two failed counts.

    Raises ``StoreUnavailable``.
    """
    kept, age = _latest()
    if kept is None or max(kept.total, figures().estimated()) <= MAX_INLINE_LETTERS:
        return []
    if age <= _pause(kept) + 2 * LEASE_TIME.total_seconds():
        return []
    what = f"The figures of dead letters are {round(age / 60)} min old."
    return [StoreProblem(part="mongodb", code="figures_old", what=what, fix=_COUNT_AGAIN)]


def renew() -> float:
    """Count and store a snapshot if one is due and no other process counts; return the seconds until the next is due.

    Raises ``QueryTooSlow`` and ``StoreUnavailable``; the stored figures stay.
    """
    owner = process_name()
    if not repository.leases().take(LEASE, owner, LEASE_TIME):
        return RENEW_EVERY_S
    kept, age = _latest()
    wait = _pause(kept) - age if kept else 0.0
    if wait <= 0:
        counted = figures().count(RENEW_LIMIT_S)
        figures().keep(counted)
        _end_ignoring(counted)
        groups().delete_unused([group.fingerprint for group in counted.groups], 5 * MAX_GROUPS)
        wait = _pause(counted) - counted.cost_ms / 1000
    # Not after an error: the lease then keeps other workers from repeating at once what has just failed.
    repository.leases().give_back(LEASE, owner)
    return wait


def _latest() -> tuple[Snapshot | None, float]:
    """The stored snapshot and its age in seconds."""
    global _known
    _known, age = figures().latest(_known)
    return _known, age


def _pause(counted: Snapshot) -> float:
    """Seconds from the beginning of this count to that of the next."""
    return max(RENEW_EVERY_S, RENEW_FACTOR * counted.cost_ms / 1000)


def stats() -> dict[str, Any]:
    """The figures under their wire names, as of ``asOf``."""
    found = snapshot()
    replays = found.replays_succeeded + found.replays_failed
    age = (found.as_of - found.oldest_open_at).total_seconds() if found.oldest_open_at else None
    return {
        "total": found.total,
        "open": found.open,
        "byStatus": dict(found.by_status),
        "topErrorTypes": [{"errorType": name, "count": n} for name, n in found.error_types[:_TOP]],
        "byType": dict(found.types),
        "bySource": _masked_counts(found.sources),
        "oldestOpenSeconds": None if age is None else max(0, round(age)),
        "replaySuccessRate": round(found.replays_succeeded / replays, 4) if replays else None,
        "replays": {"succeeded": found.replays_succeeded, "failed": found.replays_failed},
        "hours": {"since": iso(found.hours_from), "inflow": list(found.inflow), "outflow": list(found.outflow)},
        "groups": found.group_count,
        "asOf": iso(found.as_of),
    }


def _masked_counts(sources: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Counts by masked name: sources that differ only in what is hidden are counted together."""
    counts: dict[str, int] = {}
    for source, count in sources:
        name = mask_text(source, conf.masking_policy())
        counts[name] = counts.get(name, 0) + count
    return counts


def deaths_since(group: GroupFigures, said: Said | None) -> int:
    """Letters that failed since the group was ignored; 0 unless its state depends on them."""
    if said and said.state is GroupState.IGNORED and said.until_count and not said.ended:
        return figures().deaths_since(group.fingerprint, said.at, said.until_count)
    return 0


def _end_ignoring(counted: Snapshot) -> None:
    """Store which groups are no longer ignored: a day later the figures would no longer show why."""
    ignored = groups().ignored()
    for group in counted.groups:
        said = ignored.get(group.fingerprint)
        if said is None:
            continue
        deaths = deaths_since(group, said)
        why = why_ended(said, group, counted.as_of, hours_from=counted.hours_from, deaths_since=deaths)
        if why:
            groups().end_ignoring(group.fingerprint, said, why, counted.as_of)
