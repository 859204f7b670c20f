"""The overview as JSON: wire names, ISO instants."""

from __future__ import annotations

from typing import Any

from dlqsite.overview.charts import Chart
from dlqsite.overview.situation import GroupSight
from dlqsite.overview.snapshot import BreakerSeen, Overview
from dlqsite.overview.sources import Part
from dlqsite.overview.trouble import Trouble
from wire.instants import iso

_COUNTS = ("sent", "succeeded", "failed", "skipped", "remaining")


def wire(o: Overview) -> dict[str, Any]:
    """The whole object."""
    book, books, dead = o.ledger.value, o.accounts.value, o.letters.value
    return {
        "asOf": iso(o.as_of),
        "verdict": {**_trouble(o.verdict.worst), "also": [_trouble(trouble) for trouble in o.verdict.also]},
        "rates": {
            "acceptedPerSecond": _round(o.accepted_per_s),
            "donePerSecond": _round(o.done_per_s),
            "failedPerSecond": _round(o.failed_per_s),
            "heldPerSecond": _round(o.held_per_s),
            "dyingPerMinute": _round(o.dying_per_min),
            "replayedPerMinute": _round(o.replayed_per_min),
        },
        "queues": {
            "waiting": {lane.name: lane.waiting for lane in book.lanes} if book else None,
            "retryWait": book.retry_wait if book else None,
            "scheduled": book.scheduled if book else None,
            "running": book.running if book else None,
            "overdue": book.overdue if book else None,
            "oldestSeconds": _round(o.oldest_wait_s),
            "deadPending": book.outbox if book else None,
            "quarantined": book.quarantined if book else None,
        },
        "breakers": [_breaker(one) for one in o.breakers.value or ()],
        "deadLetters": {
            "open": dead.get("open"),
            "byStatus": dead.get("byStatus"),
            "oldestOpenSeconds": dead.get("oldestOpenSeconds"),
        }
        if dead
        else {"open": None, "byStatus": None, "oldestOpenSeconds": None},
        "groups": [_group(group) for group in o.groups.value or ()],
        "batches": [_batch(batch) for batch in o.batches.value or ()],
        "health": {
            "status": o.health.value.status.value,
            "checks": {name: finding.wire() for name, finding in o.health.value.checks.items()},
        }
        if o.health.value
        else {"status": None, "checks": {}},
        "accounting": {
            "today": {"accepted": books.accepted, "done": books.done, "open": books.open, "dead": books.dead}
            if books
            else None,
            "differences": [
                {"day": f"{row.day[:4]}-{row.day[4:6]}-{row.day[6:]}", "type": row.type, "difference": row.difference}
                for row in (books.differences if books else ())
            ],
        },
        "charts": charts(o),
        "away": {name: _away(part) for name, part in o.away.items()},
    }


def charts(o: Overview) -> dict[str, Any]:
    """The numbers that the charts are drawn from."""
    return {"throughput": _chart(o.throughput), "letters": _chart(o.letters_chart)}


def _chart(chart: Chart) -> dict[str, Any]:
    return {"times": list(chart.times), **{name: list(rates) for name, rates in chart.rates.items()}}


def _trouble(trouble: Trouble) -> dict[str, Any]:
    return {
        "level": trouble.level,
        "headline": trouble.headline,
        "lead": trouble.lead,
        "code": trouble.code,
        "answers": [
            {"question": answer.question, "answer": answer.short, "detail": answer.more} for answer in trouble.answers
        ],
    }


def _breaker(one: BreakerSeen) -> dict[str, Any]:
    seen = one.card.seen
    return {
        "name": one.card.name,
        "state": seen.state.value,
        "since": iso(one.since) if one.since else None,
        "total": seen.total,
        "failures": seen.failures,
        "failureRate": _round(seen.failure_rate),
        "retryAfterMs": seen.retry_after_ms,
        "types": list(one.types),
    }


def _group(group: GroupSight) -> dict[str, Any]:
    return {
        "fingerprint": group.fingerprint,
        "title": group.title,
        "errorType": group.error_type,
        "state": group.state,
        "open": group.open,
        "count": group.count,
        "firstSeen": iso(group.first_seen) if group.first_seen else None,
        "lastSeen": iso(group.last_seen) if group.last_seen else None,
        "trend": list(group.trend),
    }


def _batch(batch: Any) -> dict[str, Any]:
    return {
        "batchId": batch.id,
        "name": batch.name,
        "stage": batch.stage.value,
        "total": batch.total,
        "counts": {name: getattr(batch.counts, name) for name in _COUNTS},
    }


def _away(part: Part[Any]) -> dict[str, Any]:
    return {
        "why": part.why_away,
        "since": iso(part.away_since) if part.away_since else None,
        "asOf": iso(part.as_of) if part.as_of else None,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
