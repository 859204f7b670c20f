"""Template tags of the overview: geometry of charts, and the live part."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from django import template

from dlq_app.admin.letters.groupings import parts_later
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.services.facets import OPEN_STATUSES
from dlqsite.overview import page, views

register = template.Library()

register.filter("rate", page.rate)
#: Curve → CSS class, label.
_CURVES = {
    "accepted": ("in", "accepted"), "done": ("done", "done"), "failed": ("fail", "failed"),
    "died": ("fail", "new"), "replayed": ("done", "replayed"),
}  # fmt: skip


@register.filter
def curve_class(name: str) -> str:
    """CSS class of a curve."""
    return _CURVES[name][0]


@register.filter
def curve_word(name: str) -> str:
    """Label of a curve."""
    return _CURVES[name][1]


@register.simple_tag(takes_context=True)
def overview_now(context: Any) -> dict[str, Any]:
    """The current live part: ``as_of``, ``body``, ``etag``."""
    figures, html, digest = views.rendered(views.origin(context["request"]))
    return views.live(figures, html, digest)


@register.inclusion_tag("dlq_app/parts_later.html")
def open_parts() -> dict[str, Any]:
    """The part of the page that shows the facets of open letters."""
    return parts_later(LetterCriteria(statuses=OPEN_STATUSES))


@register.filter
def time_of_day(ms: int) -> str:
    """Epoch ms as ``03:12`` UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M}"


@register.filter
def scale(value: float) -> str:
    """A label of a chart's scale: ``90``, ``2.5``, ``1.2k``."""
    if value >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


@register.filter
def spark(counts: Sequence[int]) -> list[tuple[int, float, float]]:
    """Bars of a sparkline 30 units high: x, y, height; an empty hour has a small mark."""
    most = max(counts, default=0) or 1
    heights = [round(28 * count / most, 1) or 0.6 for count in counts]
    return [(4 * place, round(30 - height, 1), height) for place, height in enumerate(heights)]


#: State of a breaker → class, y and height in its lane. Thin: closed, middle: half-open, full: open.
_LANE = {"CLOSED": ("fill-ok", 6, 4), "HALF_OPEN": ("fill-warn", 3, 10), "OPEN": ("fill-bad", 0, 16)}


@register.filter
def lane_rects(spans: Sequence[Any]) -> list[tuple[str, int, int, int, int]]:
    """Class, x, y, width and height of each span."""
    return [
        (tone, span.x, y, span.width, height)
        for span in spans
        for tone, y, height in [_LANE.get(span.state, ("fill-mute", 0 if span.state == "FORCED_OPEN" else 6,
                                                       16 if span.state == "FORCED_OPEN" else 4))]
    ]  # fmt: skip


@register.filter
def lane_words(lane: Any) -> str:
    """Text alternative of a lane for screen readers."""
    states = [span.state.replace("_", " ").lower() for span in lane.spans]
    if len(set(states)) == 1:
        return f"{lane.name}: {states[0]} all hour"
    return f"{lane.name}: {', then '.join(states[-6:])}"
