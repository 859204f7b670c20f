"""Keep answers of the API out of caches: they depend on the permissions of the client."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase
from django.utils.cache import patch_vary_headers


class PrivateAnswers:
    """Add ``Cache-Control`` and ``Vary`` to every answer below ``/api`` that does not set its own ``Cache-Control``."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if request.path_info.startswith("/api/"):
            response.headers.setdefault("Cache-Control", "private, no-store")
            patch_vary_headers(response, ("Authorization", "Cookie"))
        return response
