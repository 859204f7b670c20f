"""Filters of the messages page: accounts, waits and times of messages in flight."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django import template

from console.times import took
from messages_app.domain.records import AccountRow

register = template.Library()


@register.filter
def day(row: AccountRow) -> str:
    """The day of an account, ``23 Nov``; with the year if it is another one."""
    moment = datetime.strptime(row.day, "%Y%m%d").replace(tzinfo=UTC)
    return f"{moment:%-d %b}" if moment.year == datetime.now(UTC).year else f"{moment:%-d %b %Y}"


@register.filter
def accounted(row: AccountRow) -> int:
    """done + open + dead."""
    return row.done + row.open + row.dead


@register.filter
def difference(row: AccountRow) -> str:
    """``1 missing``, ``2 too many``."""
    if not row.difference and row.below_zero:
        return f"{row.below_zero:,} below zero"
    return f"{row.difference:,} missing" if row.difference > 0 else f"{-row.difference:,} too many"


@register.filter
def waited(ms: int | None) -> str:
    """Milliseconds as a duration, to the second, so that the ETag stays stable."""
    return "" if ms is None else took(ms / 1000)


@register.filter
def flying_for(message: Any, now_ms: int) -> str:
    """How long a message has been in its state."""
    began = message.started_at_ms if message.state == "running" else (message.woken_at_ms or message.queued_at_ms)
    return f"for {took((now_ms - began) / 1000)}" if began else ""


@register.filter
def flying_until(message: Any, now_ms: int) -> str:
    """When a message continues."""
    left = (message.due_at_ms - now_ms) / 1000
    return f"in {took(left)}" if left >= 1 else "now"
