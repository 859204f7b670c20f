"""The client behind a request, as intake needs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """An authenticated client, or one known only by its address."""

    #: For records and the audit log: ``key:NAME``, ``user:NAME`` or ``address:IP``.
    label: str
    #: Name in the rate limit, unique per key or address.
    rate_key: str
    #: Default ``source`` of the client's messages.
    source: str = "api"
    #: Requests per minute; None for the default in the settings, 0 for no limit.
    rate_limit_per_minute: int | None = None
    #: Whether it may read messages of other clients.
    may_read: bool = True
