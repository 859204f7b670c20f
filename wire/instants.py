"""Instants on the wire: ISO 8601, UTC, milliseconds, ``Z``."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)\Z")
ACCEPTED = "must be an ISO 8601 instant with its zone, such as 2026-11-24T03:12:00Z"


def iso(moment: datetime) -> str:
    """``2026-11-24T03:12:00.123Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_instant(text: str) -> datetime:
    """Parse ``text`` into an aware UTC datetime; raise ``ValueError`` with the accepted form."""
    if not _INSTANT.match(text):
        raise ValueError(ACCEPTED)
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(ACCEPTED) from error
