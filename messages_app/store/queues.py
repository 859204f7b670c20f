"""The lanes as RQ queues. They contain wake-ups, which count only after a check in the ledger."""

from __future__ import annotations

from django_rq.queues import get_queue
from rq.queue import Queue

from messages_app.envelope import ALONE, LANES

#: All lanes, in the order in which RQ's own workers should serve them.
NAMES: tuple[str, ...] = (*LANES, ALONE)


def queues() -> list[Queue]:
    """One queue per lane, on one client of RQ's own."""
    first = get_queue(NAMES[0])
    return [first, *(get_queue(name, connection=first.connection) for name in NAMES[1:])]
