"""What the admins of letters, groups and batches share: nothing is written through models, live parts are asked for."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotModified
from django.template.response import TemplateResponse

from audit_app.pages import LinesAsHistory


def tag(request: HttpRequest, now: datetime, shown: object) -> str:
    """Names what somebody is shown: the same as long as nothing of it changed, but for the time of looking."""
    # A time of today is written without its date, so tomorrow it is not the same.
    parts = (request.user.get_username(), now.date(), shown)
    return hashlib.sha256(repr(parts).encode("utf-8", "backslashreplace")).hexdigest()[:32]


class StoredAdmin(LinesAsHistory):
    """Looks at what MongoDB holds. Services write; what one may not do is shown locked, with the reason."""

    #: How browsers may keep live parts.
    keep_live = "private, no-cache"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def must_view(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def context(self, request: HttpRequest, title: str) -> dict[str, Any]:
        return {**self.admin_site.each_context(request), "title": title, "opts": self.opts}

    def fragment(self, request: HttpRequest, template: str, context: dict[str, Any], live_tag: str) -> HttpResponse:
        """A live part; 304 when the reader has it already. ``live_tag`` comes from ``tag``."""
        etag = f'"{live_tag}"'
        if request.headers.get("If-None-Match") == etag:
            response: HttpResponse = HttpResponseNotModified()
        else:
            response = TemplateResponse(request, template, {**context, "oob": True})
        response["ETag"] = etag
        response["Cache-Control"] = self.keep_live
        response["Vary"] = "HX-Request, Cookie"
        return response
