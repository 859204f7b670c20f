"""The overview as JSON, declared once for the writer and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from breaker_app.contract import HELD
from dlqsite.health.findings import Status
from dlqsite.overview.charts import Chart
from dlqsite.overview.snapshot import Overview
from dlqsite.overview.verdict import verdict_of
from wire.contract import (
    COUNT,
    INSTANT,
    NUMBER,
    OBJECT,
    TEXT,
    Field,
    Shape,
    Type,
    choice,
    envelope,
    many,
    mapping,
    nullable,
)

Get = Callable[[Any, Any], Any]
_COUNTS = ("sent", "succeeded", "failed", "skipped", "remaining")
_OPTIONAL_INSTANT = nullable(INSTANT)
_ROUNDED = Type(nullable(NUMBER).schema, lambda value, _: None if value is None else round(value, 3))
_OPTIONAL_COUNT = nullable(COUNT)


def _itself(source: Any, _: Any) -> Any:
    return source


def _part(part: str, attribute: str) -> Get:
    """An attribute of what a part found; None while nothing is known of it."""
    return lambda overview, _: getattr(getattr(overview, part).value, attribute, None)


def _values(part: str) -> Get:
    return lambda overview, _: getattr(overview, part).value or ()


def _dead(name: str) -> Get:
    return lambda overview, _: (overview.letters.value or {}).get(name)


def _chart(chart: Chart) -> dict[str, Any]:
    return {"times": list(chart.times), **{name: list(rates) for name, rates in chart.rates.items()}}


def charts(overview: Overview) -> dict[str, Any]:
    """The figures of the charts."""
    return {
        "throughput": _chart(overview.throughput),
        "letters": _chart(overview.letters_chart),
        "day": _chart(overview.day_chart),
    }


_TROUBLE_FIELDS = (
    Field("level", TEXT),
    Field("headline", TEXT),
    Field("lead", TEXT),
    Field("code", TEXT, "Code or text of the error."),
    Field(
        "answers",
        many(
            Shape(
                "OverviewAnswer",
                Field("question", TEXT),
                Field("answer", TEXT, get="short"),
                Field("detail", TEXT, get="more"),
            )
        ),
    ),
)
_VERDICT = Shape(
    "OverviewVerdict",
    [Field(one.name, one.type, one.doc, f"worst.{one.name}") for one in _TROUBLE_FIELDS],
    Field("also", many(Shape("OverviewTrouble", _TROUBLE_FIELDS)), "Every other problem."),
)
_RATES = Shape(
    "OverviewRates",
    Field("acceptedPerSecond", _ROUNDED, get="accepted_per_s"),
    Field("donePerSecond", _ROUNDED, get="done_per_s"),
    Field("failedPerSecond", _ROUNDED, get="failed_per_s"),
    Field("heldPerSecond", _ROUNDED, get="held_per_s"),
    Field("dyingPerMinute", _ROUNDED, get="dying_per_min"),
    Field("replayedPerMinute", _ROUNDED, get="replayed_per_min"),
)


def _waiting(overview: Overview, _: Any) -> dict[str, int] | None:
    book = overview.ledger.value
    return {lane.name: lane.waiting for lane in book.lanes} if book else None


_QUEUES = Shape(
    "OverviewQueues",
    Field("waiting", nullable(mapping(COUNT)), "By lane.", _waiting),
    Field("retryWait", _OPTIONAL_COUNT, get=_part("ledger", "retry_wait")),
    Field("scheduled", _OPTIONAL_COUNT, get=_part("ledger", "scheduled")),
    Field("running", _OPTIONAL_COUNT, get=_part("ledger", "running")),
    Field("overdue", _OPTIONAL_COUNT, get=_part("ledger", "overdue")),
    Field("oldestSeconds", _ROUNDED, get="oldest_wait_s"),
    Field("deadPending", _OPTIONAL_COUNT, "Dead messages that wait for MongoDB.", _part("ledger", "outbox")),
    Field("quarantined", _OPTIONAL_COUNT, get=_part("ledger", "quarantined")),
)
_BREAKER = Shape(
    "OverviewBreaker",
    Field("name", TEXT, get="card.name"),
    Field("state", TEXT, get="state.value"),
    Field("since", _OPTIONAL_INSTANT, "When it left CLOSED; null while it is CLOSED."),
    Field("held", nullable(HELD), "Messages that wait because it rejected them; null: not known."),
    Field("total", COUNT, get="card.seen.total"),
    Field("failures", COUNT, get="card.seen.failures"),
    Field("failureRate", _ROUNDED, get="card.seen.failure_rate"),
    Field("retryAfterMs", COUNT, get="card.seen.retry_after_ms"),
    Field("types", many(TEXT)),
)
_LETTERS = Shape(
    "OverviewLetters",
    Field("open", _OPTIONAL_COUNT, get=_dead("open")),
    Field("byStatus", nullable(mapping(COUNT)), get=_dead("byStatus")),
    Field("oldestOpenSeconds", _OPTIONAL_COUNT, get=_dead("oldestOpenSeconds")),
)
_GROUP = Shape(
    "OverviewGroup",
    Field("fingerprint", TEXT),
    Field("title", TEXT),
    Field("errorType", TEXT),
    Field("state", TEXT),
    Field("open", COUNT),
    Field("count", COUNT),
    Field("firstSeen", _OPTIONAL_INSTANT),
    Field("lastSeen", _OPTIONAL_INSTANT),
    Field("trend", many(COUNT), "Deaths in each of the last 24 hours."),
    Field("minutes", many(COUNT), "Deaths in each of the last 60 clock minutes; empty if there is none."),
)
_BATCH = Shape(
    "OverviewBatch",
    Field("batchId", TEXT, get="id"),
    Field("name", TEXT),
    Field("stage", TEXT, get="stage.value"),
    Field("total", COUNT),
    Field(
        "counts",
        Shape(
            "OverviewBatchCounts",
            [Field(name, COUNT) for name in ("sent", "succeeded", "failed", "skipped", "remaining")],
        ),
    ),
)
_HEALTH = Shape(
    "OverviewHealth",
    Field("status", nullable(choice(Status)), get=_part("health", "status")),
    Field(
        "checks",
        OBJECT,
        "As `GET /api/system/health` shows them.",
        lambda overview, _: {
            name: found.wire() for name, found in getattr(overview.health.value, "checks", {}).items()
        },
    ),
)
_DIFFERENCE = Shape(
    "OverviewDifference",
    Field("day", TEXT, get=lambda row, _: f"{row.day[:4]}-{row.day[4:6]}-{row.day[6:]}"),
    Field("type", TEXT),
    Field("difference", COUNT),
)
_ACCOUNTING = Shape(
    "OverviewAccounting",
    Field(
        "today",
        nullable(Shape("OverviewToday", [Field(name, COUNT) for name in ("accepted", "done", "open", "dead")])),
        get=lambda overview, _: overview.accounts.value,
    ),
    Field(
        "differences",
        many(_DIFFERENCE),
        "Days and types whose accounts do not add up.",
        lambda overview, _: getattr(overview.accounts.value, "differences", ()),
    ),
)
_UNAVAILABLE = Shape(
    "OverviewUnavailable",
    Field("why", TEXT, get="why_away"),
    Field("since", _OPTIONAL_INSTANT, get="away_since"),
    Field("asOf", _OPTIONAL_INSTANT, "Time of the figures that are shown."),
)
OVERVIEW = Shape(
    "OverviewData",
    Field("asOf", INSTANT, "Time of the snapshot."),
    Field("verdict", _VERDICT, "The worst problem, and every other one.", lambda o, _: verdict_of(o)),
    Field("rates", _RATES, "Null: not known.", "rates"),
    Field("queues", _QUEUES, "Null: not known.", _itself),
    Field("breakers", many(_BREAKER), get=_values("breakers")),
    Field("deadLetters", _LETTERS, "Null: not known.", _itself),
    Field("groups", many(_GROUP), "The groups with the most open letters.", _values("groups")),
    Field("batches", many(_BATCH), "Unfinished replay batches.", _values("batches")),
    Field("health", _HEALTH, get=_itself),
    Field("accounting", _ACCOUNTING, get=_itself),
    Field(
        "charts",
        OBJECT,
        "The last hour, `day` the last 24 hours: times in epoch seconds, and for each a rate or null.",
        lambda o, _: charts(o),
    ),
    Field("away", mapping(_UNAVAILABLE), "Parts that are unavailable."),
)
OVERVIEW_OUT = envelope("Overview", OVERVIEW)
