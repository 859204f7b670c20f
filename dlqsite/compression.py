"""Compresses pages of the console for the browser."""

from __future__ import annotations

from typing import Final

from django.http import HttpRequest, HttpResponseBase
from django.middleware.gzip import GZipMiddleware

_PAGES: Final = "text/html"


class CompressedPages(GZipMiddleware):
    """Gzip for pages and live fragments of the console, and for nothing else.

    The length of a compressed page depends on its content, so an attacker who sees lengths and chooses a part of the
    content could guess the rest (BREACH). Hence only answers to GET: no POST of others reaches a page, and revealed
    secrets are the answer to a POST. The CSRF token has another mask in every page, API keys and recovery codes are
    shown once, cookies are not sent with requests from other sites' pages (``SameSite``), and each answer gets up to
    100 random bytes. Answers of REST are not compressed.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        """Compress the response if the browser accepts it."""
        if request.method != "GET" or response.streaming or response.status_code != 200:
            return response
        if not response.get("Content-Type", "").startswith(_PAGES):
            return response
        answer: HttpResponseBase = super().process_response(request, response)
        return answer
