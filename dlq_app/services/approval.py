"""Limits the letters that one person can start within an hour without an administrator (``DLQ_APPROVAL_SIZE``).

Replay batches and moves of many letters count, over REST and in the console. The server counts the letters, reserves
their number before it starts them, and releases the part that was not started. If a process or MongoDB fails in
between, the reservation stays until its hour is over.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from django.conf import settings

from dlq_app.domain.errors import ApprovalNeeded, QueryTooSlow, StoreUnavailable
from dlq_app.domain.replay_batch import BatchOrder, ReplayBatch
from dlq_app.domain.states import Verb
from dlq_app.services import batches, bulk
from dlq_app.store import repository
from dlq_app.store.repository import Selection, Start
from wire.instants import iso

log = logging.getLogger(__name__)

WINDOW = timedelta(hours=1)


def start(order: BatchOrder, *, actor: str, batch_id: str | None = None, unlimited: bool) -> ReplayBatch:
    """``batches.start`` within the limit of ``actor``; administrators are ``unlimited``.

    The plan has at most the counted number of letters, also if more arrive in between. Raises ``ApprovalNeeded`` before
    anything is started, and the errors of ``batches.dry_run`` and ``batches.start``.
    """
    if unlimited:
        return batches.start(order, actor=actor, batch_id=batch_id)
    batch_id = batch_id or batches.new_batch_id()
    count = batches.dry_run(order).count
    _reserve(actor, batch_id, count)
    try:
        batch = batches.start(order, actor=actor, batch_id=batch_id, maximum=count)
    except QueryTooSlow:
        _release(actor, batch_id, kept=0)  # there is no batch
        raise
    if batch.total < count:
        _release(actor, batch_id, kept=batch.total)
    return batch


def move_many(which: Selection, verb: Verb, *, count: int, actor: str, reason: str, unlimited: bool) -> bulk.Moved:
    """``bulk.move_many`` within the limit of ``actor``, for at most ``count`` letters, the number that they saw.

    Raises ``ApprovalNeeded`` before anything is moved.
    """
    if unlimited:
        return bulk.move_many(which, verb, count=count, actor=actor, reason=reason)
    number = min(count, repository.letters().movable(which, verb, limit=count))
    move_id = f"m-{uuid.uuid4().hex}"
    _reserve(actor, move_id, number)
    done = bulk.move_many(which, verb, count=number, actor=actor, reason=reason)
    if done.count < number and not done.stopped:
        _release(actor, move_id, kept=done.count)
    return replace(done, asked=count)


def used(actor: str) -> int:
    """Number of letters that ``actor`` started within the last hour."""
    return _sum(repository.approvals().starts(actor, window=WINDOW))


def why_not(actor: str, count: int) -> str:
    """The reason why ``actor`` cannot start ``count`` letters now; empty if they can. Reserves nothing."""
    starts = repository.approvals().starts(actor, window=WINDOW)
    size: int = settings.DLQ_APPROVAL_SIZE
    return _words(count, starts, size) if _sum(starts) + count > size else ""


def _reserve(actor: str, start_id: str, count: int) -> None:
    size: int = settings.DLQ_APPROVAL_SIZE
    if count == 0:
        return
    in_the_way = repository.approvals().reserve(actor, start_id, count, size=size, window=WINDOW)
    if in_the_way is not None:
        raise ApprovalNeeded(_words(count, in_the_way, size))


def _release(actor: str, start_id: str, *, kept: int) -> None:
    try:
        repository.approvals().release(actor, start_id, kept=kept)
    except StoreUnavailable as error:
        # The start itself has ended and must be answered. The sum stays too high until the hour is over.
        log.warning("approval_not_given_back", extra={"by": actor, "start": start_id, "why": str(error)})


def _words(count: int, starts: Sequence[Start], size: int) -> str:
    """The sum, the limit, and when the letters can be started."""
    before = _sum(starts)
    letters = f"{count:,} letter{'' if count == 1 else 's'}"
    limit = f"More than {size:,} letters within an hour need the administrator role or the scope admin."
    if not before:
        return f"{letters}: too many. {limit} Choose fewer, or ask an administrator."
    sums = f"{letters} and the {before:,} that you started within the last hour are {before + count:,}."
    left = before
    for one in starts:
        left -= one.count
        if left + count <= size:
            return f"{sums} {limit} You can start {count:,} at {iso(one.at + WINDOW)}."
    return f"{sums} {limit} The sum decreases at {iso(starts[0].at + WINDOW)}. Choose fewer, or ask an administrator."


def _sum(starts: Sequence[Start]) -> int:
    return sum(one.count for one in starts)
