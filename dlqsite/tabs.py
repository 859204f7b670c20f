"""Tabs of the console with counts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse

from breaker_app import services as breakers
from breaker_app.states import State
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.group_states import OPEN_STATES
from dlq_app.domain.states import OPEN
from dlq_app.services import batches, groups
from dlq_app.store import repository
from wire.errors import ServiceError

log = logging.getLogger(__name__)

#: Counts are cached for this long, for all pages and users.
KEEP_S = 5.0
#: Maximum wait of a page for counts; after it the page is shown without them.
WAIT_S = 0.4
#: Pause after a store did not respond, so that not every page waits for it.
PAUSE_S = 10.0
#: Maximum number of running batches to count.
_MAX_BATCHES = 20


@dataclass(frozen=True, slots=True)
class Count:
    """A number on a tab. ``word`` names the counted objects for screen readers."""

    number: int
    word: str
    is_alarm: bool = False
    #: Counting stopped at a limit.
    is_capped: bool = False


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab of the header."""

    url: str
    label: str
    #: Label for narrow screens.
    short: str
    icon: str
    count: Count | None
    is_current: bool
    #: Hidden on phones.
    is_wide_only: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    route: str
    label: str
    short: str
    icon: str
    permission: str = ""
    is_wide_only: bool = False


_LOOK = "dlq_app.view_deadletter"
_PLACES = (
    _Place("admin:index", "Overview", "Overview", "home", _LOOK),
    _Place("admin:dlq_app_deadletter_changelist", "Dead letters", "Letters", "letter", "dlq_app.view_deadletter"),
    _Place("admin:dlq_app_lettergroup_changelist", "Groups", "Groups", "group", "dlq_app.view_lettergroup"),
    _Place("admin:dlq_app_replaybatch_changelist", "Replays", "Replays", "replay", "dlq_app.view_replaybatch"),
    _Place("admin:breaker_app_breaker_changelist", "Breakers", "Breakers", "breaker", "breaker_app.view_breaker"),
    _Place("admin:messages_app_message_changelist", "Messages", "Messages", "search", "messages_app.view_message"),
    _Place("admin:django_rq_dashboard_changelist", "Queues", "Queues", "", _LOOK, is_wide_only=True),
)


def _open_letters() -> Count | None:
    total = repository.letters().count(LetterCriteria(statuses=tuple(status.value for status in OPEN)))
    return Count(total.count, "open dead letters", is_capped=total.is_capped) if total.count else None


def _open_groups() -> Count | None:
    found = groups.page(states=OPEN_STATES, limit=1)
    return Count(found.total, "open groups", is_capped=found.is_capped) if found.total else None


def _breakers_not_closed() -> Count | None:
    states = [card.seen.state for card in breakers.cards()]
    number = sum(state is not State.CLOSED for state in states)
    if not number:
        return None
    opened = any(state in (State.OPEN, State.FORCED_OPEN) for state in states)
    return Count(number, "not closed", is_alarm=opened)


def _running_batches() -> Count | None:
    number = len(batches.running(_MAX_BATCHES + 1))
    return Count(min(number, _MAX_BATCHES), "under way", is_capped=number > _MAX_BATCHES) if number else None


#: Label of a tab → function that counts.
COUNTERS: dict[str, Callable[[], Count | None]] = {
    "Dead letters": _open_letters,
    "Groups": _open_groups,
    "Replays": _running_batches,
    "Breakers": _breakers_not_closed,
}


class Counts:
    """Cached counts of this process, shared by threads; one thread at a time refreshes them."""

    def __init__(self) -> None:
        self._known: dict[str, Count | None] = {}
        self._good_until = 0.0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tabs")

    def get(self) -> dict[str, Count | None]:
        """Counts by label, up to a few seconds old; counts that were not ready in time are missing."""
        if time.monotonic() < self._good_until:
            return self._known
        if self._lock.acquire(blocking=False):
            try:
                # Also on failure: the next page does not ask again immediately.
                self._good_until = time.monotonic() + PAUSE_S
                asked = self._pool.submit(self._count)
            finally:
                self._lock.release()
            wait([asked], WAIT_S)
        return self._known

    def _count(self) -> None:
        known: dict[str, Count | None] = {}
        for label, counter in COUNTERS.items():
            try:
                known[label] = counter()
            except ServiceError as error:
                log.warning("no count for the tab %s: %s", label, error)
        self._known = known
        self._good_until = time.monotonic() + (KEEP_S if len(known) == len(COUNTERS) else PAUSE_S)

    def forget(self) -> None:
        """Count again for the next page."""
        self._known, self._good_until = {}, 0.0


counts = Counts()


def for_request(request: HttpRequest) -> list[Tab]:
    """The tabs that the user may open, with the current one marked."""
    known = counts.get()
    found = []
    for place in _PLACES:
        if place.permission and not request.user.has_perm(place.permission):
            continue
        try:
            url = reverse(place.route)
        except NoReverseMatch:
            continue  # the app that brings this page is not installed
        is_current = request.path == url or (place.route != "admin:index" and request.path.startswith(url))
        found.append(
            Tab(url, place.label, place.short, place.icon, known.get(place.label), is_current, place.is_wide_only)
        )
    return found
