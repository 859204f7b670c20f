"""Rate limits outside an acceptance: reads, operator calls, rejected submissions, unknown clients."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING

from django.conf import settings
from rest_framework.exceptions import Throttled
from rest_framework.throttling import BaseThrottle

from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import RateLimit, RateState
from messages_app.store.ledger import ledger

if TYPE_CHECKING:
    from rest_framework.request import Request
    from rest_framework.views import APIView

    from messages_app.domain.clients import Client

log = logging.getLogger(__name__)


def submit_limit(client: Client) -> RateLimit | None:
    """This client's limit on submissions; None without one."""
    own = client.rate_limit_per_minute
    limit = settings.RATE_LIMIT_PER_MINUTE if own is None else own
    return RateLimit(client=client.rate_key, limit=limit) if limit > 0 else None


def count(limit: RateLimit) -> tuple[bool, RateState] | None:
    """``count_many`` of one request."""
    counted = count_many([limit])
    return counted[0] if counted else None


def count_many(limits: Sequence[RateLimit]) -> list[tuple[bool, RateState]] | None:
    """Count requests; return of each whether it is allowed, and its limit's state. None when Redis does not answer.

    One step on the server for each, so that two requests cannot take the same last place. Without an answer the caller
    allows the requests: none of them writes a message, and an unavailable limiter must not stop reads.
    """
    try:
        return ledger().throttle_many(limits)
    except StoreUnavailable as error:
        log.warning("rate limiter unavailable: %s", error)
        return None


def rate_headers(policy: str, rate: RateState) -> dict[str, str]:
    """``RateLimit`` and ``RateLimit-Policy`` as structured fields: quota, window, remaining, seconds until more."""
    return {
        "RateLimit-Policy": f'"{policy}";q={rate.limit};w=60',
        "RateLimit": f'"{policy}";r={rate.remaining};t={ceil(rate.reset_ms / 1000)}',
    }


def retry_after_s(rate: RateState) -> int:
    """Whole seconds until the next request is allowed, at least one."""
    return max(1, ceil(rate.reset_ms / 1000))


def throttle_stranger(address: str) -> None:
    """Count a request without a valid key against its address; raises ``Throttled`` above the limit."""
    if settings.RATE_LIMIT_PER_MINUTE > 0:
        _count_or_reject("address", RateLimit(client=f"address:{address}", limit=settings.RATE_LIMIT_PER_MINUTE))


def _count_or_reject(policy: str, limit: RateLimit) -> None:
    counted = count(limit)
    if counted is not None and not counted[0]:
        error = Throttled(wait=retry_after_s(counted[1]))
        error.headers = rate_headers(policy, counted[1])  # type: ignore[attr-defined]
        raise error


class ReadThrottle(BaseThrottle):
    """The default throttle of every view: reads and operator calls of a client, ``READ_RATE_LIMIT_PER_MINUTE``."""

    def allow_request(self, request: Request, view: APIView) -> bool:
        client: Client | None = getattr(request, "client", None)
        if client is not None and settings.READ_RATE_LIMIT_PER_MINUTE > 0:
            limit = settings.READ_RATE_LIMIT_PER_MINUTE
            _count_or_reject("read", RateLimit(client=f"read:{client.rate_key}", limit=limit))
        return True
