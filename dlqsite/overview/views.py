"""The overview over HTTP: the live part of the console's home page, and the same figures as JSON."""

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

from console.live import is_current
from dlqsite.access import must_look
from dlqsite.overview import as_json, page
from dlqsite.overview.snapshot import Overview, overview
from dlqsite.overview.verdict import verdict_of
from dlqsite.version import VERSION
from wire.cached import Cached

#: How long a rendered fragment is reused, in seconds.
KEEP_S = 1.0


#: Maximum number of host names for which the fragment is kept.
MAX_ORIGINS = 8


def _render(origin: str) -> tuple[Overview, str, str]:
    """The figures, their HTML, and its digest. ``origin`` is the address in the examples."""
    figures = overview()
    html = render_to_string("dlqsite/overview_body.html", context(figures, origin))
    return figures, html, hashlib.sha256(html.encode()).hexdigest()[:32]


rendered = Cached(_render, KEEP_S, max_answers=MAX_ORIGINS)


def origin(request: HttpRequest) -> str:
    """Scheme and host of the request; the host is in ALLOWED_HOSTS."""
    return f"{request.scheme}://{request.get_host()}"


def context(figures: Overview, origin: str) -> dict[str, Any]:
    """The context of the templates."""
    processes, more_processes = page.process_rows(figures)
    return {
        "o": figures,
        "verdict": verdict_of(figures),
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
    """The live part of the home page; 304 if it has not changed."""
    must_look(request)
    figures, html, digest = rendered(origin(request))
    etag = f'"{digest}"'
    if is_current(request, digest):
        answer = HttpResponse(status=304)
    else:
        answer = HttpResponse(render_to_string("dlqsite/overview.html", live(figures, html, digest, oob=True)))
    answer["ETag"] = etag
    answer["X-As-Of"] = f"{figures.as_of:%H:%M:%S}"
    return answer


def live(figures: Overview, html: str, digest: str, *, oob: bool = False) -> dict[str, Any]:
    """The context of the live element."""
    return {"as_of": figures.as_of, "body": html, "etag": digest, "oob": oob}


# --- REST ---


class OverviewView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="overview",
        tags=["System"],
        summary="Show the overview",
        description=(
            "The content of the console's home page: rates, queues, breakers, dead letters, the last hour, health, "
            "accounting. Always 200: when a store is unavailable, only its own parts are outdated or null; `away` "
            "lists them."
        ),
        responses={200: as_json.OVERVIEW_OUT},
    )
    def get(self, request: Request) -> Response:
        return Response(as_json.OVERVIEW_OUT.write({"data": overview()}))
