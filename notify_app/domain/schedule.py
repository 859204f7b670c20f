"""When a notification is sent, tried again, or given up. Pure."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from notify_app.domain.policy import Digest

#: Delay before the second attempt; it doubles up to the maximum.
FIRST_DELAY = timedelta(seconds=30)
MAX_DELAY = timedelta(minutes=15)
#: A claimed notification is sent and recorded within this time; otherwise its process was killed. Longer than a step of
#: a process may take (``processes.steps.END_S``).
LEASE = timedelta(seconds=120)


def again_after(attempts: int) -> timedelta:
    """Delay after this number of failed attempts."""
    doublings = min(max(attempts - 1, 0), 10)
    return min(FIRST_DELAY * (1 << doublings), MAX_DELAY)


def digest_day(digest: Digest, now: datetime) -> date | None:
    """The local day whose digest is due: from its time until midnight. None before."""
    local = now.astimezone(digest.zone)
    return local.date() if local.time().replace(tzinfo=None) >= digest.time else None
