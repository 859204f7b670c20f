"""The overview over HTTP: the fragment that the console's home renews itself by, and the same figures as JSON."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.http import require_GET
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlqsite.access import must_look
from dlqsite.overview import as_json, page
from dlqsite.overview.snapshot import Overview, overview
from dlqsite.version import VERSION
from wire.cached import Cached

#: What was rendered is shown to everybody for so long, in seconds.
KEEP_S = 1.0


#: Names by which the site is reached, of which the fragment is kept.
MAX_ORIGINS = 8


def _render(origin: str) -> tuple[Overview, str, str]:
    """The figures, their HTML, and its digest. ``origin`` is the address in the examples."""
    figures = overview()
    html = render_to_string("dlqsite/overview_body.html", context(figures, origin))
    return figures, html, hashlib.sha256(html.encode()).hexdigest()[:32]


rendered = Cached(_render, KEEP_S, max_answers=MAX_ORIGINS)


def origin(request: HttpRequest) -> str:
    """Scheme and host by which this site was reached; the host is one that settings allow."""
    return f"{request.scheme}://{request.get_host()}"


def context(figures: Overview, origin: str) -> dict[str, Any]:
    """What the templates get."""
    processes, more_processes = page.process_rows(figures)
    return {
        "o": figures,
        "banners": list(page.banners(figures)),
        "kpis": list(page.kpis(figures)),
        "breaker_rows": list(page.breaker_rows(figures)),
        "shares": page.shares(figures),
        "health_rows": page.health_rows(figures),
        "process_rows": processes,
        "more_processes": more_processes,
        "batch_rows": list(page.batch_rows(figures)),
        "home": reverse("admin:index"),
        "version": VERSION,
        "origin": origin,
        "charts": as_json.charts(figures),
    }


@require_GET
def fragment(request: HttpRequest) -> HttpResponse:
    """The live part of the home page; 304 while nothing in it has changed."""
    must_look(request)
    figures, html, digest = rendered(origin(request))
    etag = f'"{digest}"'
    if request.headers.get("If-None-Match") == etag:
        answer = HttpResponse(status=304)
    else:
        answer = HttpResponse(render_to_string("dlqsite/overview.html", live(figures, html, digest, oob=True)))
    answer["ETag"] = etag
    answer["X-As-Of"] = f"{figures.as_of:%H:%M:%S}"
    return answer


def live(figures: Overview, html: str, digest: str, *, oob: bool = False) -> dict[str, Any]:
    """The context of the element that renews itself."""
    return {"as_of": figures.as_of, "body": html, "etag": digest, "oob": oob}


# --- REST ---


class OverviewView(APIView):
    """The figures of one instant."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="overview",
        tags=["System"],
        summary="The figures of one instant",
        description=(
            "What the console's home shows: rates, queues, breakers, dead letters, the last hour, health, accounting. "
            "Always 200: a store that is away takes only its own parts with it, and `away` names them."
        ),
        responses={200: as_json.OVERVIEW_OUT},
    )
    def get(self, request: Request) -> Response:
        return Response(as_json.OVERVIEW_OUT.write({"data": overview()}))
