"""Figures about all letters: counted when that is quick, else from a snapshot that is renewed in the background.

Counting looks at one key of an index for every letter, so its time grows with their number. Up to a tenth of a second
every reader counts for itself and sees what was written a moment ago. Beyond that a snapshot is served, which says as
of when; it is renewed so seldom that the counting takes at most a twentieth of one processor core.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from datetime import datetime, timedelta
from typing import Any

from dlq_app import repository
from dlq_app.errors import DeadLetterError, QueryTooSlow, StoreUnavailable
from dlq_app.group_states import GroupState, Said, Seen, why_ended
from dlq_app.instants import iso
from dlq_app.repository.figures import MAX_GROUPS, Figures, GroupFigures, Snapshot, figures
from dlq_app.repository.groups import groups

log = logging.getLogger(__name__)

#: Milliseconds of counting up to which every reader counts anew.
CHEAP_MS = 100.0
#: Share of one core that counting may take.
SHARE = 0.05
#: Seconds that a reader waits for a renewal before it takes the older snapshot.
WAIT_S = 0.25
#: Seconds after which counting is given up.
BOUND_S = 60.0
#: Seconds between two snapshots that are kept for whoever comes after a restart.
KEEP_EVERY_S = 30.0
#: Seconds between two looks of a worker whether a renewal is due.
LOOK_EVERY_S = 5.0
LEASE = "figures"
LEASE_TIME = timedelta(seconds=BOUND_S + 30)
_READ_BOUND_S = 3.0
_TOP = 10


class _Keeper:
    """What this process knows of the snapshot, and its one renewal at a time."""

    def __init__(self) -> None:
        self.known: Snapshot | None = None
        self.looked = float("-inf")
        self._lock = threading.Lock()
        self._renewal: threading.Thread | None = None

    def renew(self) -> threading.Thread:
        """Begin a renewal on a thread of its own, unless one is under way; the thread."""
        with self._lock:
            if self._renewal is None or not self._renewal.is_alive():
                self._renewal = threading.Thread(target=_renew, name="figures", daemon=True)
                self._renewal.start()
            return self._renewal


_keeper = _Keeper()


def snapshot() -> Snapshot:
    """The figures: of this moment while counting is quick, else the newest that are kept.

    Raises ``QueryTooSlow`` or ``StoreUnavailable`` when nothing is kept yet and counting takes long; it goes on in the
    background.
    """
    store = figures()
    kept, age = store.latest(_keeper.known)
    if kept is None or kept.cost_ms <= CHEAP_MS:
        return _counted(store, kept, age)
    _keeper.known = kept
    if age >= _pause(kept):
        _keeper.renew().join(WAIT_S)
        kept = store.latest(kept)[0] or kept
        _keeper.known = kept
    return kept


def keep_fresh() -> None:
    """Begin to renew the snapshot in the background if it is due. Costs next to nothing if it is not; never raises."""
    if time.monotonic() - _keeper.looked < LOOK_EVERY_S:
        return
    _keeper.looked = time.monotonic()
    try:
        kept, age = figures().latest(_keeper.known)
    except DeadLetterError as error:
        log.info("figures_wait", extra={"why": str(error)})
        return
    _keeper.known = kept
    if kept is None or age >= max(_pause(kept), KEEP_EVERY_S):
        _keeper.renew()


def stats() -> dict[str, Any]:
    """The figures in wire names. ``asOf`` says when they were right."""
    found = snapshot()
    replays = found.replays_succeeded + found.replays_failed
    age = (found.as_of - found.oldest_open_at).total_seconds() if found.oldest_open_at else None
    return {
        "total": found.total,
        "open": found.open,
        "byStatus": dict(found.by_status),
        "topErrorTypes": [{"errorType": name, "count": n} for name, n in found.error_types[:_TOP]],
        "byType": dict(found.types),
        "bySource": dict(found.sources),
        "oldestOpenSeconds": None if age is None else max(0, round(age)),
        "replaySuccessRate": round(found.replays_succeeded / replays, 4) if replays else None,
        "replays": {"succeeded": found.replays_succeeded, "failed": found.replays_failed},
        "hours": {"since": iso(found.hours_from), "inflow": list(found.inflow), "outflow": list(found.outflow)},
        "groups": found.group_count,
        "asOf": iso(found.as_of),
    }


def seen(group: GroupFigures, hours_from: datetime, said: Said | None) -> Seen:
    """What happened in a group, as far as its state depends on it."""
    counts = said and said.state is GroupState.IGNORED and said.until_count is not None and not said.ended
    return Seen(
        open=group.open,
        first_seen=group.first_seen,
        last_seen=group.last_seen,
        trend=group.trend,
        hours_from=hours_from,
        deaths_since=figures().deaths_since(group.fingerprint, said.at, said.until_count)
        if counts and said and said.until_count
        else 0,
    )


def _counted(store: Figures, kept: Snapshot | None, age: float) -> Snapshot:
    try:
        counted = store.count(_READ_BOUND_S)
    except (QueryTooSlow, StoreUnavailable):
        # The server may also be so busy that nothing at all was heard in time.
        _keeper.renew()
        raise
    if kept is None or age >= KEEP_EVERY_S or counted.cost_ms > CHEAP_MS:
        store.keep(counted)
        _end_ignoring(counted)
    return counted


def _pause(kept: Snapshot) -> float:
    """Seconds from one count to the next."""
    return kept.cost_ms / 1000 / SHARE


def _renew() -> None:
    """Count, and keep what was counted; one process at a time."""
    owner = f"{socket.gethostname()}-{os.getpid()}"
    try:
        if not repository.leases().take(LEASE, owner, LEASE_TIME):
            return
        store = figures()
        # Somebody else may have been quicker between the look and the lease.
        kept, age = store.latest(_keeper.known)
        if kept is None or age >= _pause(kept):
            counted = store.count(BOUND_S)
            store.keep(counted)
            _end_ignoring(counted)
            groups().forget([group.fingerprint for group in counted.groups], 5 * MAX_GROUPS)
        # Not when it failed: then the lease keeps everybody from trying again at once.
        repository.leases().give_back(LEASE, owner)
    except DeadLetterError as error:
        log.warning("figures_not_renewed", extra={"why": str(error)})
    except Exception:
        # On a thread of its own nobody else would say so; the figures that are kept stay, with their time.
        log.exception("figures_broken")


def _end_ignoring(counted: Snapshot) -> None:
    """Write down which groups are ignored no longer: the hour that was too much is forgotten a day later."""
    ignored = groups().ignored()
    known = {group.fingerprint: group for group in counted.groups if group.fingerprint in ignored}
    for name, group in known.items():
        why = why_ended(ignored[name], seen(group, counted.hours_from, ignored[name]), counted.as_of)
        if why:
            groups().end_ignoring(name, ignored[name], why, counted.as_of)
