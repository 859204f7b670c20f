"""The rules that every record of the ledger follows at any time, and what differs from them. Pure.

A record and the indexes that contain it change in one script. So a difference between the two, read at one instant, is
none that passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from messages_app.domain.records import State

#: The mover runs every second. An entry that is later than this is not moved at all.
LATE_MS = 60_000
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_STATES = frozenset(state.value for state in State)
_ENDED = (State.DONE, State.DEAD)
_DUE = (State.SCHEDULED, State.RETRY_WAIT, State.RUNNING)
OUTBOX, QUARANTINE = "outbox", "quarantine"


class RecordState(NamedTuple):
    """The fields of a record that decide about its letter."""

    state: str
    epoch: int
    outbox: str
    replay_id: str

    @property
    def is_under_way(self) -> bool:
        """Whether it is open, or its outcome waits for MongoDB."""
        return self.state not in _ENDED or bool(self.outbox)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A record, its expiry, and the indexes that contain it, at one instant. Texts are empty where there is none."""

    message_id: str
    now_ms: int
    state: str
    epoch: str
    outbox: str
    account: str
    replay_id: str
    due_at_ms: int | None
    lease_until_ms: int | None
    wake_at_ms: int | None
    #: As PTTL: -1 never, -2 missing.
    ttl_ms: int
    body_ttl_ms: int
    lacks_edited: bool
    #: Whether its wake-up is in its lane, as far as the lane shows.
    has_wake_up: bool
    #: Index → score.
    places: Mapping[str, float]

    @property
    def exists(self) -> bool:
        return self.ttl_ms != -2

    @property
    def is_ended(self) -> bool:
        """Ended, and its outcome is recorded."""
        return self.state in _ENDED and not self.outbox

    @property
    def is_open(self) -> bool:
        """As the accounts count it."""
        return self.state in _STATES and self.state not in _ENDED


def is_message_id(text: str) -> bool:
    """Whether intake could have accepted a message with this id."""
    return bool(_ID.fullmatch(text))


def differences_of(seen: Located) -> Iterator[str]:
    """The kinds of differences of one record (``dlq_app.domain.differences``)."""
    if not seen.exists or seen.is_ended:
        if seen.places:
            yield "index_leftover"
        if seen.exists and seen.ttl_ms == -1:
            yield "never_expires"
        return
    if seen.state not in _STATES or not seen.epoch.isdigit() or len(seen.account) < 10:
        yield "record_unreadable"
        return
    yield from _misplaced(seen)
    yield from _late(seen)
    if seen.is_open and (seen.body_ttl_ms == -2 or seen.lacks_edited):
        yield "payload_missing"
    if seen.ttl_ms >= 0 or seen.body_ttl_ms >= 0:
        yield "expires_while_open"


def _misplaced(seen: Located) -> Iterator[str]:
    wanted = _wanted(seen)
    # Without the flag the next drainer would remove the entry.
    is_unflagged = seen.state == State.DEAD_PENDING and not seen.outbox
    if is_unflagged or not wanted & seen.places.keys():
        yield "outcome_in_no_index" if OUTBOX in wanted else "open_in_no_index"
    elif len(seen.places) > 1 or not seen.places.keys() <= wanted:
        yield "index_leftover"


def _wanted(seen: Located) -> frozenset[str]:
    """The indexes of which one must contain the message. The mover changes the lane of a queued message."""
    if seen.state == State.QUEUED:
        return frozenset(f"waiting:{lane}" for lane in ("high", "normal", "low", "alone"))
    if seen.state in _DUE:
        return frozenset((f"due:{seen.state}",))
    return frozenset((OUTBOX, QUARANTINE))


def _late(seen: Located) -> Iterator[str]:
    before = seen.now_ms - LATE_MS
    if seen.state == State.QUEUED:
        pushed = max((score for place, score in seen.places.items() if place.startswith("waiting:")), default=None)
        if pushed is not None and pushed < before and not seen.has_wake_up:
            yield "wakeup_lost"
    elif seen.state == State.RUNNING:
        if seen.lease_until_ms is None or seen.lease_until_ms < before:
            yield "lease_over"
    elif seen.state in _DUE and (seen.due_at_ms is None or seen.due_at_ms < before):
        yield "overdue"
