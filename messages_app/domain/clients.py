"""Who submits: what intake has to know about the one behind a request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """An authenticated client, or a stranger known by address only."""

    #: For the record and the audit: ``key:NAME``, ``user:NAME`` or ``address:IP``.
    label: str
    #: Whom the rate limit counts, unique per key or address.
    rate_key: str
    #: Default ``source`` of what the client submits.
    source: str = "api"
    #: Own requests per minute; None is the default of the settings, 0 no limit.
    rate_limit_per_minute: int | None = None
    #: Whether it may look at messages of other clients.
    may_read: bool = True
