"""Figures about all letters: counted when that is quick, else from a snapshot that is renewed in the background.

Counting looks at keys of indexes for every letter, so its time grows with their number. As long as a tenth of a second
is expected to suffice, every reader counts for itself and sees what was written a moment ago. Beyond that a snapshot is
served, which says as of when. What to expect follows from the last count and from the number of letters that the store
knows without counting; when that number has changed much, the snapshot is renewed before its time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from dlq_app import conf
from dlq_app.domain.errors import DeadLetterError, QueryTooSlow, StoreUnavailable
from dlq_app.domain.group_states import GroupState, Said, Seen, why_ended
from dlq_app.domain.masking import mask_text
from dlq_app.store import repository
from dlq_app.store.figures import MAX_GROUPS, Figures, GroupFigures, Snapshot, figures
from dlq_app.store.groups import groups
from processes.names import process_name
from wire.instants import iso

log = logging.getLogger(__name__)

#: Milliseconds of counting, as expected, up to which every reader counts anew.
CHEAP_MS = 100.0
#: Letters up to which the first reader of all, who knows of no count before, counts for itself.
CHEAP_LETTERS = 40_000
#: Letters below which the time of counting hardly depends on their number.
FEW_LETTERS = 5_000
#: A snapshot is renewed early when so many letters came or went since, and so large a part of what it counted.
DRIFT_LETTERS = 10_000
DRIFT_SHARE = 0.2
#: Share of the time that counting may take, as long as the pause that this asks for is no longer than the longest.
SHARE = 0.05
#: Seconds from one count to the next at most, unless a count takes more than half of that.
LONGEST_PAUSE_S = 120.0
#: Seconds that readers wait for a renewal, from its beginning, before they take the older snapshot.
WAIT_S = 0.25
#: The same when the number of letters has changed much since.
DRIFT_WAIT_S = 2.0
#: Seconds that a reader waits when there is no snapshot at all.
FIRST_WAIT_S = 2.5
#: Seconds after which counting is given up; in the background, and while a reader waits for it.
BOUND_S = 120.0
INLINE_BOUND_S = 2.0
#: Seconds between two snapshots that are kept for whoever comes after a restart.
KEEP_EVERY_S = 30.0
#: Seconds between two looks of a worker whether a renewal is due.
LOOK_EVERY_S = 5.0
LEASE = "figures"
LEASE_TIME = timedelta(seconds=BOUND_S + 30)
_TOP = 10
#: Seconds between two attempts of one process to renew, and between two looks whether another process has.
_AGAIN_S = 1.0
_POLL_S = 0.1
_FIRST_COUNT = "The letters are being counted for the first time. Ask again."
_COME_AGAIN_S = 5


class _Keeper:
    """What this process knows of the snapshot, and its one renewal at a time."""

    def __init__(self) -> None:
        self.known: Snapshot | None = None
        self.looked = float("-inf")
        #: Since when a newer snapshot than ``known`` is waited for, by the monotonic clock.
        self.waiting_since: float | None = None
        self._tried = float("-inf")
        self._lock = threading.Lock()
        self._renewal: threading.Thread | None = None

    def learn(self, kept: Snapshot | None) -> None:
        """Note the newest snapshot there is."""
        with self._lock:
            if kept is not self.known:
                self.known, self.waiting_since = kept, None

    def renew(self) -> tuple[threading.Thread, float]:
        """Begin a renewal on a thread of its own, unless one is under way; the thread, and since when one is wanted.

        A renewal that brought nothing, as when another process is at it, is not tried again within a second.
        """
        with self._lock:
            now = time.monotonic()
            is_new = self.waiting_since is None
            if self.waiting_since is None:
                self.waiting_since = now
            may_try = self._renewal is None or not self._renewal.is_alive()
            if self._renewal is None or (may_try and (is_new or now - self._tried >= _AGAIN_S)):
                self._tried = now
                self._renewal = threading.Thread(target=_renew, name="figures", daemon=True)
                self._renewal.start()
            return self._renewal, self.waiting_since


_keeper = _Keeper()


def snapshot() -> Snapshot:
    """The figures: of this moment while counting is quick, else the newest that are kept.

    Waits for newer ones when they are due: ``WAIT_S`` at most, ``DRIFT_WAIT_S`` when the number of letters has changed
    much; both from the beginning of the renewal, so that not every reader waits while it lasts. Whatever goes wrong in
    counting, what is kept is served. Raises ``QueryTooSlow`` when nothing is kept and counting takes longer than
    ``FIRST_WAIT_S``; it goes on in the background. Raises ``StoreUnavailable`` when the store is away.
    """
    store = figures()
    kept, age = store.latest(_keeper.known)
    _keeper.learn(kept)
    try:
        estimated = store.estimated()
        if _is_cheap(kept, estimated):
            return _counted(store, kept, age, estimated)
    except (QueryTooSlow, StoreUnavailable) as error:
        # The server may also be so busy that nothing at all was heard in time.
        _keeper.renew()
        if kept is not None:
            return kept
        if isinstance(error, StoreUnavailable):
            raise
        raise QueryTooSlow(_FIRST_COUNT, retry_after=_COME_AGAIN_S) from error
    if kept is None:
        found = _newer(store, None, time.monotonic() + FIRST_WAIT_S)
        if found is None:
            raise QueryTooSlow(_FIRST_COUNT, retry_after=_COME_AGAIN_S)
        return found
    if not _is_due(kept, age, estimated):
        return kept
    _, since = _keeper.renew()
    return _newer(store, kept, since + (DRIFT_WAIT_S if _has_drifted(kept, estimated) else WAIT_S)) or kept


def keep_fresh() -> None:
    """Begin to renew the snapshot in the background if it is due. Costs next to nothing if it is not; never raises."""
    if time.monotonic() - _keeper.looked < LOOK_EVERY_S:
        return
    _keeper.looked = time.monotonic()
    try:
        store = figures()
        kept, age = store.latest(_keeper.known)
        estimated = store.estimated()
    except DeadLetterError as error:
        log.info("figures_wait", extra={"why": str(error)})
        return
    _keeper.learn(kept)
    # Quick figures are kept only for whoever comes after a restart: so seldom is enough, however short their pause.
    if kept is None or (_is_due(kept, age, estimated) and (age >= KEEP_EVERY_S or _has_drifted(kept, estimated))):
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
        "bySource": _masked_counts(found.sources),
        "oldestOpenSeconds": None if age is None else max(0, round(age)),
        "replaySuccessRate": round(found.replays_succeeded / replays, 4) if replays else None,
        "replays": {"succeeded": found.replays_succeeded, "failed": found.replays_failed},
        "hours": {"since": iso(found.hours_from), "inflow": list(found.inflow), "outflow": list(found.outflow)},
        "groups": found.group_count,
        "asOf": iso(found.as_of),
    }


def _masked_counts(sources: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Counts by name as it is shown; sources that differ in what is hidden only are counted together."""
    counts: dict[str, int] = {}
    for source, count in sources:
        name = mask_text(source, conf.masking_policy())
        counts[name] = counts.get(name, 0) + count
    return counts


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


def _counted(store: Figures, kept: Snapshot | None, age: float, estimated: int) -> Snapshot:
    counted = store.count(INLINE_BOUND_S)
    if kept is None or age >= KEEP_EVERY_S or counted.cost_ms > CHEAP_MS or _has_drifted(kept, estimated):
        store.keep(counted)
        _end_ignoring(counted)
    return counted


def _newer(store: Figures, kept: Snapshot | None, until: float) -> Snapshot | None:
    """Another snapshot than ``kept`` as soon as there is one, from whichever process; None if not until then."""
    while True:
        left = until - time.monotonic()
        thread, _ = _keeper.renew()
        if left > 0:
            thread.join(left)
        try:
            found, _ = store.latest(kept)
        except (QueryTooSlow, StoreUnavailable):
            if kept is None:
                raise
            return None
        if found is not None and found is not kept:
            _keeper.learn(found)
            return found
        left = until - time.monotonic()
        if left <= 0:
            return None
        # Another process is at it, or it failed here.
        time.sleep(min(left, _POLL_S))


def _letters(kept: Snapshot, estimated: int) -> int:
    """About how many letters there are: what was counted, and what came or went since by the store's own number.

    That number may be wrong after a crash, for as long as the collection lives; its changes are still right.
    """
    return max(0, kept.total + estimated - kept.estimated)


def _is_cheap(kept: Snapshot | None, estimated: int) -> bool:
    if kept is None:
        return estimated <= CHEAP_LETTERS
    return kept.cost_ms * _letters(kept, estimated) / max(kept.total, FEW_LETTERS) <= CHEAP_MS


def _has_drifted(kept: Snapshot, estimated: int) -> bool:
    return abs(estimated - kept.estimated) > max(DRIFT_LETTERS, DRIFT_SHARE * kept.total)


def _is_due(kept: Snapshot, age: float, estimated: int) -> bool:
    return age >= _pause(kept) or (_has_drifted(kept, estimated) and age >= _rest(kept))


def _pause(kept: Snapshot) -> float:
    """Seconds from the beginning of one count to that of the next."""
    return max(min(kept.cost_ms / 1000 / SHARE, LONGEST_PAUSE_S), _rest(kept))


def _rest(kept: Snapshot) -> float:
    """The least of these seconds, whatever happens: half of the time nothing is counted."""
    return 2 * kept.cost_ms / 1000


def _renew() -> None:
    """Count, and keep what was counted; one process at a time."""
    owner = process_name()
    try:
        if not repository.leases().take(LEASE, owner, LEASE_TIME):
            return
        store = figures()
        # Somebody else may have been quicker between the look and the lease.
        kept, age = store.latest(_keeper.known)
        if kept is None or _is_due(kept, age, store.estimated()):
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
