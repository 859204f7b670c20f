"""A problem of RFC 9457 as a value and as bytes: the shape of every error response."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from wire.visible_text import one_line

CONTENT_TYPE = "application/problem+json"
_DETAIL_LIMIT = 1000

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def printable(text: str, limit: int = _DETAIL_LIMIT) -> str:
    """The text on one line, unseen characters written out, cut to ``limit``.

    Error texts quote what a client sent, which must not control a terminal or a log viewer.
    """
    shown = one_line(text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def problem(
    status: int, code: str, title: str, detail: str, errors: Iterable[Mapping[str, object]] | None = None
) -> dict[str, Any]:
    """The members of a problem; ``errors`` (a list of field and message) only for invalid input."""
    members: dict[str, Any] = {
        "type": f"urn:dlq:problem:{code}",
        "title": printable(title),
        "status": status,
        "detail": printable(detail),
        "code": code,
    }
    if errors is not None:
        members["errors"] = [
            {"field": printable(str(error["field"]), 200), "message": printable(str(error["message"]))}
            for error in errors
        ]
    return members


def encode(members: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON."""
    return _encode(members).encode("utf-8")
