"""Public API of replay batches: dry run, start, read, pause, resume, cancel."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from django.conf import settings

from dlq_app import conf
from dlq_app.conf import intake
from dlq_app.domain import batch_rules
from dlq_app.domain.batch_rules import Move
from dlq_app.domain.errors import (
    BatchBeingPlanned,
    BatchNotFound,
    MoveRefused,
    QueryTooSlow,
    RequestInvalid,
    StoreUnavailable,
)
from dlq_app.domain.masking import mask_text
from dlq_app.domain.replay_batch import (
    OUTCOME_FILTERS,
    BatchOrder,
    BatchPage,
    BreakerSeen,
    DryRun,
    ItemPage,
    LeftOut,
    ReplayBatch,
    Stage,
)
from dlq_app.domain.standing import batch_standing
from dlq_app.services.batch_executor import Executor
from dlq_app.store import repository
from dlq_app.store.repository import StoredBatch
from wire import cursor as cursors
from wire.fields import storable

SAMPLE = 10
#: Time for which a count of late arrivals is cached.
LATE_S = 5.0
#: After this time an unfinished plan may be made again with the same id: its request has timed out.
REPLAN_AFTER = timedelta(seconds=90)
_MOVE_ATTEMPTS = 10
_DONE = {"pause": "paused", "resume": "resumed", "cancel": "cancelled"}

_lock = threading.Lock()
_late: dict[str, tuple[float, int]] = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def new_batch_id() -> str:
    return f"b-{uuid.uuid4().hex}"


# --- start ---


def dry_run(order: BatchOrder) -> DryRun:
    """What ``start`` would do with this order now. Writes nothing.

    Reads every letter that matches: raises ``QueryTooSlow`` after 20 s, ``StoreUnavailable``.
    """
    items, unfinished = repository.items(), repository.batches().unfinished_ids()
    groups = items.plan_groups(order, unfinished)
    count = sum(group.count for group in groups)
    by_error_type = _summed((group.error_type, group.count) for group in groups)
    by_type = _summed((group.type, group.count) for group in groups)
    return DryRun(
        count=count,
        sample=items.sample(order, min(SAMPLE, order.limit or SAMPLE), unfinished),
        by_error_type=by_error_type,
        by_type=by_type,
        breakers=_breakers([name for name, _ in by_type]),
        left_out=[LeftOut(why, number) for why, number in sorted(items.left_out(order, unfinished).items())],
        failures_at_most=batch_rules.failures_at_most(count, order.max_failures, order.max_failure_rate),
    )


def _summed(counts: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    total: dict[str, int] = {}
    for name, count in counts:
        total[name] = total.get(name, 0) + count
    return sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))


def _breakers(types: Sequence[str]) -> list[BreakerSeen]:
    """The circuit breakers of these types, each once, with its types."""
    found: dict[str, BreakerSeen] = {}
    for message_type, many in intake().breakers(types).items():
        for one in many:
            known = found.get(one.name, replace(one, types=()))
            found[one.name] = replace(known, types=tuple(sorted({*known.types, message_type})))
    return [found[name] for name in sorted(found)]


def start(order: BatchOrder, *, actor: str, batch_id: str | None = None, maximum: int | None = None) -> ReplayBatch:
    """Store the letters of an order as a plan, for the DLQ workers to run; returns when the plan is complete.

    The plan has at most ``maximum`` letters, like with a smaller ``limit``, but the batch does not show that.
    With a known ``batch_id`` it returns the existing batch, whatever the order. Raises
    ``BatchBeingPlanned`` while an earlier call with it is under way, ``QueryTooSlow`` when the plan takes longer than
    45 s (then there is no batch), ``StoreUnavailable``: ask again with the same ``batch_id``.
    """
    batch_id = batch_id or new_batch_id()
    batches, items = repository.batches(), repository.items()
    now = batches.server_now()
    if not batches.insert(batch_id, order, actor=actor, now=now):
        known = _stored(batch_id, planning=True)
        if known.batch.stage is not Stage.PLANNING:
            return known.batch
        if now - known.batch.created_at < REPLAN_AFTER:
            raise BatchBeingPlanned(f"{batch_id} is being planned.", retry_after=2)
        items.remove(batch_id)
        batches.remove(batch_id, [Stage.PLANNING])
        return start(order, actor=actor, batch_id=batch_id, maximum=maximum)
    try:
        planned = order if maximum is None else replace(order, limit=min(maximum, order.limit or maximum))
        unfinished = [one for one in batches.unfinished_ids() if one != batch_id]
        total = items.plan(batch_id, planned, unfinished) if maximum != 0 else 0
    except QueryTooSlow:
        # The server has stopped: nothing more is written. If deleting fails, an executor deletes the rest.
        items.remove(batch_id)
        batches.remove(batch_id, [Stage.PLANNING])
        raise
    batches.mark_planned(batch_id, total)
    return _stored(batch_id).batch


# --- read ---


def get(batch_id: str) -> ReplayBatch:
    """The batch; its number of late arrivals can be a few seconds old. Raises ``BatchNotFound``."""
    return _with_late(_stored(batch_id))


def page(*, stages: Sequence[str] = (), limit: int = 20, cursor: str | None = None) -> BatchPage:
    """Batches, newest first; only those in ``stages`` if any are given. Raises ``RequestInvalid``."""
    known = [stage.value for stage in Stage if stage is not Stage.PLANNING]
    if not set(stages) <= set(known):
        raise _invalid("stage", "must be one of " + ", ".join(known))
    after = _after(cursor) if cursor else None
    found = repository.batches().page(stages, limit + 1, after)
    shown = found[:limit]
    more = _cursor(shown[-1].batch) if len(found) > limit and shown else None
    return BatchPage([stored.batch for stored in shown], more)


def running(limit: int = 10) -> list[ReplayBatch]:
    """Batches that are not in a final stage, newest first."""
    stages = [Stage.PLANNED, Stage.CANARY, Stage.RUNNING, Stage.PAUSED]
    return [stored.batch for stored in repository.batches().page([s.value for s in stages], limit, None)]


def ended(since: datetime, limit: int = 100) -> list[ReplayBatch]:
    """Batches that finished or stopped automatically, those that ended at ``since`` or later, oldest first.

    Batches that stopped and still have letters in flight come first, whenever they stopped.
    """
    batches = repository.batches()
    stopped = [stored for stored in batches.active() if stored.batch.stage is Stage.STOPPED]
    return [stored.batch for stored in [*stopped, *batches.ended_since(since, limit)]]


def items(batch_id: str, *, outcome: str | None = None, limit: int = 100, cursor: str | None = None) -> ItemPage:
    """Letters of a batch in the order of its plan; ``outcome``: succeeded, failed, skipped or open.

    Raises ``BatchNotFound``, ``RequestInvalid``.
    """
    if outcome is not None and outcome not in OUTCOME_FILTERS:
        raise _invalid("outcome", "must be one of " + ", ".join(OUTCOME_FILTERS))
    after = -1 if cursor is None else _seq_after(cursor)
    _stored(batch_id)
    found = repository.items().page(batch_id, outcome, after, limit + 1)
    shown = found[:limit]
    return ItemPage(shown, cursors.encode([shown[-1].seq]) if len(found) > limit and shown else None)


def report(batch_id: str) -> list[tuple[str, str, int]]:
    """Number of letters for each (outcome, error type), largest first. Raises ``BatchNotFound``."""
    _stored(batch_id)
    return repository.items().report(batch_id)


# --- change the stage ---


def pause(batch_id: str, *, actor: str, reason: str = "") -> ReplayBatch:
    """Stop sending until ``resume``. Raises ``BatchNotFound``, ``MoveRefused``.

    Letters that an executor has just taken, at most 250, may still be sent.
    """
    return _change_stage(
        batch_id, "pause", lambda b: batch_rules.pause_by_operator(b.stage, b.resume_to), actor, reason
    )


def resume(batch_id: str, *, actor: str, reason: str = "") -> ReplayBatch:
    """Return to the stage in which it was paused. Raises ``BatchNotFound``, ``MoveRefused``."""
    return _change_stage(
        batch_id, "resume", lambda b: batch_rules.resume_by_operator(b.stage, b.resume_to), actor, reason
    )


def cancel(batch_id: str, *, actor: str, reason: str = "") -> ReplayBatch:
    """Stop sending for good. Raises ``BatchNotFound``, ``MoveRefused``.

    Letters that an executor has just taken, at most 250, may still be sent.
    """
    return _change_stage(batch_id, "cancel", lambda b: batch_rules.cancel_by_operator(b.stage, reason), actor, reason)


def _change_stage(
    batch_id: str, verb: str, decide: Callable[[ReplayBatch], Move | None], actor: str, reason: str
) -> ReplayBatch:
    for _ in range(_MOVE_ATTEMPTS):
        stored = _stored(batch_id)
        move = decide(stored.batch)
        if move is None:
            batch = stored.batch
            name = mask_text(batch.name, conf.masking_policy()) or batch.id
            raise MoveRefused(f"{name} {batch_standing(batch)}: it cannot be {_DONE[verb]}.")
        moved = repository.batches().move(stored, move, who=actor, why=reason, guard_place=False)
        if moved is not None:
            return _with_late(moved)
    raise StoreUnavailable(f"{batch_id} was changed by others at every attempt; try again", retry_after=1)


# --- the executor ---


def executor() -> Executor:
    """A new executor over the configured stores."""
    return Executor(
        repository.letters(),
        repository.items(),
        repository.batches(),
        intake(),
        keep_days=settings.DLQ_BATCH_KEEP_DAYS,
    )


# --- helpers ---


def _stored(batch_id: str, *, planning: bool = False) -> StoredBatch:
    stored = repository.batches().get(batch_id)
    if stored is None or (stored.batch.stage is Stage.PLANNING and not planning):
        raise BatchNotFound(f"There is no replay batch {batch_id}.")
    return stored


def _with_late(stored: StoredBatch) -> ReplayBatch:
    batch = stored.batch
    if batch.criteria is None or not stored.active or stored.planned_at is None:
        return batch
    now = time.monotonic()
    with _lock:
        known = _late.get(batch.id)
    if known is None or now - known[0] > LATE_S:
        try:
            count = repository.items().late_arrivals(batch.id, batch.criteria, stored.planned_at)
        except (QueryTooSlow, StoreUnavailable):
            count = known[1] if known else batch.late_arrivals  # shown to users only: an older count will do
        known = (now, count)
        with _lock:
            if len(_late) > 1000:
                _late.clear()
            _late[batch.id] = known
    return replace(batch, late_arrivals=known[1])


def _cursor(batch: ReplayBatch) -> str:
    return cursors.encode([round((batch.created_at - _EPOCH).total_seconds() * 1000), batch.id])


def _after(cursor: str) -> tuple[datetime, str]:
    """Creation time and id of the last batch of a page. Raises ``RequestInvalid``."""
    try:
        ms, batch_id = cursors.decode(cursor, plain=r"([0-9]{1,14})_([A-Za-z0-9_-]{1,64})")
        return _EPOCH + timedelta(milliseconds=int(ms)), storable(str(batch_id))
    except (ValueError, TypeError, OverflowError):
        raise _invalid("cursor", str(cursors.NotACursor())) from None


def _seq_after(cursor: str) -> int:
    """Place of the last letter of a page. Raises ``RequestInvalid``."""
    try:
        (seq,) = cursors.decode(cursor, plain=r"([0-9]{1,9})")
        return cursors.integer(int(seq))
    except (ValueError, TypeError, OverflowError):
        raise _invalid("cursor", str(cursors.NotACursor())) from None


def _invalid(name: str, message: str) -> RequestInvalid:
    return RequestInvalid(f"{name}: {message}", errors=[{"field": name, "message": message}])
