"""Live fragments: parts of a page that reload themselves, with ETag and 304."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.template.response import TemplateResponse
from django.utils.http import parse_etags


def etag_of(*shown: object) -> str:
    """Return a tag that changes when the representation of the shown values changes."""
    return hashlib.sha256(repr(shown).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def etag_for(request: HttpRequest, now: datetime, shown: object) -> str:
    """Return a tag for one user and one day: times of today are shown without their date."""
    return etag_of(request.user.get_username(), now.date(), shown)


def is_current(request: HttpRequest, etag: str) -> bool:
    """Whether the browser has the representation with this tag. A tag of a compressed answer is weak."""
    given = parse_etags(request.headers.get("If-None-Match", ""))
    return any(one.removeprefix("W/") == f'"{etag}"' for one in given)


def fragment(
    request: HttpRequest, template: str, context: Mapping[str, Any], etag: str, *, as_of: datetime | None = None
) -> HttpResponse:
    """Render a live part, or answer 304 if the browser has it. ``as_of`` goes with both answers, as X-As-Of."""
    quoted = f'"{etag}"'
    if is_current(request, etag):
        response: HttpResponse = HttpResponseNotModified()
    else:
        response = TemplateResponse(request, template, {**context, "oob": True})
    response["ETag"] = quoted
    response["Cache-Control"] = "private, no-cache"
    response["Vary"] = "HX-Request, Cookie"
    if as_of is not None:
        response["X-As-Of"] = f"{as_of:%H:%M:%S}"
    return response
