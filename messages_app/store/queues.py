"""The lanes as RQ queues. They contain wake-ups, which count only after a check in the ledger."""

from __future__ import annotations

from typing import Any

import redis
from django.core.cache.backends.base import BaseCache
from django_rq.queues import get_queue
from rq.queue import Queue

from messages_app.envelope import ALONE, LANES
from messages_app.store.connection import new_client

#: All lanes, in the order in which RQ's own workers should serve them.
NAMES: tuple[str, ...] = (*LANES, ALONE)


class RqConnection(BaseCache):
    """Gives RQ and its pages clients of the same Redis as the ledger, also with Sentinels.

    django-rq can take the client of a "cache" of the settings (``USE_REDIS_CACHE``). This one caches nothing.
    """

    def __init__(self, location: str, options: dict[str, Any]) -> None:
        super().__init__(options)

    @property
    def _client(self) -> redis.Redis:
        return new_client()


def queues() -> list[Queue]:
    """One queue per lane, on one client of RQ's own."""
    first = get_queue(NAMES[0])
    return [first, *(get_queue(name, connection=first.connection) for name in NAMES[1:])]
