"""The digest of each morning: new and resolved letters, new groups, the oldest letters and their owners."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

from console.times import took
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.paging import SORTS, PageRequest
from dlq_app.domain.states import OPEN
from dlq_app.services import figures, groups
from dlq_app.store import repository
from notify_app.collecting.sources import counted, shown
from notify_app.domain.events import Event, Kind, Severity
from wire.instants import iso

#: New groups and oldest letters that are listed.
_GROUPS: Final = 10
_LETTERS: Final = 10
_DAY: Final = timedelta(hours=24)
NO_OWNER: Final = "no owner"


def key_of(day: date) -> str:
    """The key of the digest of one local day: each recipient gets it once."""
    return f"digest:{day.isoformat()}"


def owner_of(letter: DeadLetter) -> str:
    """Who looks after the letter: as set for its group, else by ``owners.toml``."""
    return groups.owner_of(letter.fingerprint, letter.error_type, letter.type).name or NO_OWNER


def build(day: date, now: datetime) -> Event:
    """The digest. Raises ``StoreUnavailable`` without MongoDB."""
    snapshot = figures.snapshot()
    fresh = [group for group in groups.page(limit=5_000).groups if now - group.first_seen < _DAY]
    fresh.sort(key=lambda group: (-group.open, group.fingerprint))
    request = PageRequest(sort=SORTS["createdAt"], limit=_LETTERS)
    oldest = repository.letters().page(LetterCriteria(statuses=tuple(one.value for one in OPEN)), request).letters
    arrived, resolved = sum(snapshot.inflow), sum(snapshot.outflow)
    lines = [
        f"Last 24 hours: {counted(arrived, 'new dead letter')}, {resolved:,} resolved. "
        f"Open now: {snapshot.open:,}, in {counted(sum(1 for group in snapshot.groups if group.open), 'group')}.",
        f"New groups: {len(fresh):,}" if fresh else "No new groups.",
        *(
            f"- {group.open:,} open: {shown(group.telling_title)}, {shown(group.owner.name) or NO_OWNER}"
            for group in fresh[:_GROUPS]
        ),
    ]
    if oldest:
        lines.append("Oldest open letters:")
    for letter in oldest:
        age = took((now - letter.created_at).total_seconds())
        source = f" from {name}" if (name := shown(str(letter.metadata.get("source") or ""))) else ""
        lines.append(f"- {age}: {shown(letter.message_id)}, {shown(letter.type)}{source}, {shown(owner_of(letter))}")
    return Event(
        kind=Kind.DIGEST,
        severity=Severity.INFO,
        key=key_of(day),
        subject="digest",
        title=f"Dead letters on {day.isoformat()}: {snapshot.open:,} open, {arrived:,} new, {resolved:,} resolved",
        lines=tuple(lines),
        facts={
            "day": day.isoformat(),
            "open": snapshot.open,
            "arrived": arrived,
            "resolved": resolved,
            "newGroups": len(fresh),
            "oldest": [
                {
                    "messageId": shown(letter.message_id),
                    "type": shown(letter.type),
                    "createdAt": iso(letter.created_at),
                    "owner": None if owner_of(letter) == NO_OWNER else owner_of(letter),
                }
                for letter in oldest
            ],
        },
    )  # fmt: skip
