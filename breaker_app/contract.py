"""Requests and answers of the breakers' REST API, each declared once."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil

from breaker_app.held import PRIORITIES
from breaker_app.policy import WhenOpen
from breaker_app.states import MAX_REASON, State, Transition, Why
from wire.contract import (
    BOOLEAN,
    COUNT,
    INSTANT,
    NUMBER,
    TEXT,
    Field,
    Shape,
    choice,
    envelope,
    many,
    mapping,
    nullable,
    text,
)

REASON_IN = Shape(
    "ReasonIn", Field("reason", text(MAX_REASON, blank=False), "Why; kept with the transition and in the audit log.")
)


def reason_of(one: Transition) -> str:
    """An automatic change in words, with the numbers that decided."""
    total, failures = one.total, one.failures
    return {
        Why.FAILURE_RATE: f"{failures} of {total} calls failed",
        Why.SLOW_RATE: f"too many of {total} calls were slow",
        Why.OPEN_TIME_OVER: "the open time was over and a call came",
        Why.PROBES_SUCCEEDED: f"{total - failures} of {total} probes succeeded",
        Why.PROBES_FAILED: f"{failures} of {total} probes failed",
        Why.PROBES_LOST: "too many probes never answered",
        Why.MANUAL: "by hand",
    }[one.why]


_THRESHOLDS = Shape(
    "ThresholdsOut",
    Field("failureThreshold", NUMBER),
    Field("timeWindowMs", COUNT),
    Field("minimumRequests", COUNT),
    Field("openTimeoutMs", COUNT),
    Field("halfOpenMaxRequests", COUNT),
    Field("halfOpenSuccessThreshold", NUMBER),
    Field("permitLeaseMs", COUNT),
    Field("slowCallMs", nullable(COUNT)),
    Field("slowCallThreshold", nullable(NUMBER)),
)
_COUNTS = Shape(
    "CountsOut", Field("total", COUNT, "Outcomes in the window."), Field("failures", COUNT), Field("slow", COUNT)
)
_PROBES = Shape(
    "ProbesOut",
    Field("permitted", COUNT, "Probes that one half-open period admits.", "policy.half_open_max_requests"),
    Field("underWay", COUNT, get="seen.leases"),
    Field("succeeded", COUNT, get="seen.probes_succeeded"),
    Field("failed", COUNT, get="seen.probes_failed"),
    Field("lost", COUNT, "Probes without an outcome; their permits were given to others.", "seen.probes_lost"),
)
HELD = Shape(
    "HeldOut",
    Field("total", COUNT, get="count"),
    Field("byPriority", mapping(COUNT), get=lambda held, _: {name: getattr(held, name) for name in PRIORITIES}),
    Field(
        "oldest",
        nullable(INSTANT),
        "When the longest held message was rejected first.",
        lambda held, _: None if held.oldest_ms is None else datetime.fromtimestamp(held.oldest_ms / 1_000, UTC),
    ),
)
BREAKER = Shape(
    "BreakerOut",
    Field("name", TEXT),
    Field("state", choice(State), get="seen.state"),
    Field(
        "since",
        nullable(INSTANT),
        "When it left CLOSED, however often its probes have failed since; null while it is CLOSED.",
    ),
    Field("due", BOOLEAN, "OPEN, and its time is over: the next call is a probe.", "seen.due"),
    Field("counts", _COUNTS, get="seen"),
    Field("failureRate", NUMBER, "0 to 1.", lambda card, _: round(card.seen.failure_rate, 4)),
    Field("slowRate", NUMBER, "0 to 1.", lambda card, _: round(card.seen.slow_rate, 4)),
    Field("probes", _PROBES, get=lambda card, _: card),
    Field("held", nullable(HELD), "Messages that wait because it rejected them; null: not known."),
    Field("opens", COUNT, "How often it has opened; a reset keeps this count.", "seen.opens"),
    Field("generation", COUNT, "Increases with every change of state.", "seen.generation"),
    Field(
        "retryAfter",
        nullable(COUNT),
        "Seconds until a call may be admitted; 0: now; null: not until an operator acts.",
        lambda card, _: None if card.seen.retry_after_ms < 0 else ceil(card.seen.retry_after_ms / 1_000),
    ),
    Field("whenOpen", choice(WhenOpen), get="policy.when_open"),
    Field("thresholds", _THRESHOLDS, get="policy"),
    Field("links", Shape("LinksOut", Field("self", TEXT)), get=lambda card, _: {"self": f"/api/breakers/{card.name}"}),
)
TRANSITION = Shape(
    "TransitionOut",
    Field("at", INSTANT, get=lambda one, _: datetime.fromtimestamp(one.at_ms / 1_000, UTC)),
    Field("from", choice(State), get="source"),
    Field("to", choice(State)),
    Field("generation", COUNT),
    Field("why", choice(Why)),
    Field(
        "reason",
        TEXT,
        "What the operator wrote, or the figures that caused it.",
        lambda one, _: one.reason or reason_of(one),
    ),
    Field(
        "actor",
        TEXT,
        "`key:NAME`, `user:NAME`, `cli:NAME`; `system` for automatic changes.",
        lambda one, _: one.actor or "system",
    ),
    Field("total", COUNT),
    Field("failures", COUNT),
)
DETAIL = Shape(
    "BreakerDetailOut", BREAKER.fields, Field("transitions", many(TRANSITION), "The last 100, newest first.")
)
DETAIL_OUT = envelope("BreakerShownOut", DETAIL)
LIST_OUT = Shape(
    "BreakerListOut",
    Field("data", many(BREAKER)),
    Field("pagination", Shape("OnePage", [Field(name, COUNT) for name in ("page", "limit", "total", "pages")])),
)
