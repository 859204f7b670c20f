"""What the rest of the house may ask of replay batches: try one out, start, follow and steer it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from dlq_app.replay_batch import BatchOrder, BatchPage, DryRun, ItemPage, ReplayBatch, Stage


def new_batch_id() -> str:
    return f"b-{uuid.uuid4().hex}"


def dry_run(order: BatchOrder) -> DryRun:
    """What ``start`` would do with this order at this instant. Writes nothing."""
    raise NotImplementedError


def start(order: BatchOrder, *, actor: str, batch_id: str | None = None) -> ReplayBatch:
    """Freeze the letters of an order into a plan and leave it to the DLQ workers; returns when the plan stands.

    The same ``batch_id`` again answers the batch that is there already.
    """
    raise NotImplementedError


def get(batch_id: str) -> ReplayBatch:
    """The batch. Raises ``BatchNotFound``."""
    raise NotImplementedError


def page(*, stages: Sequence[str] = (), limit: int = 20, cursor: str | None = None) -> BatchPage:
    """Batches, newest first; only those in ``stages`` if any are given."""
    raise NotImplementedError


def running(limit: int = 10) -> list[ReplayBatch]:
    """Batches that are not in a final stage, newest first."""
    raise NotImplementedError


def items(batch_id: str, *, outcome: str | None = None, limit: int = 100, cursor: str | None = None) -> ItemPage:
    """Letters of a batch in the order of its plan; ``outcome``: succeeded, failed, skipped or open.

    Raises ``BatchNotFound``, ``RequestInvalid``.
    """
    raise NotImplementedError


def report(batch_id: str) -> list[tuple[str, str, int]]:
    """How many letters have each (outcome, error type), most first. Raises ``BatchNotFound``."""
    raise NotImplementedError


def pause(batch_id: str, *, actor: str, reason: str = "") -> ReplayBatch:
    """Send nothing more until ``resume``. Raises ``BatchNotFound``, ``MoveRefused``."""
    raise NotImplementedError


def resume(batch_id: str, *, actor: str, reason: str = "") -> ReplayBatch:
    """Go on with the stage in which it was paused. Raises ``BatchNotFound``, ``MoveRefused``."""
    raise NotImplementedError


def cancel(batch_id: str, *, actor: str, reason: str = "") -> ReplayBatch:
    """Send nothing more, ever. Raises ``BatchNotFound``, ``MoveRefused``."""
    raise NotImplementedError


def tick() -> float:
    """One round of the executor over all batches that are under way; seconds until it wants to be called again."""
    raise NotImplementedError


__all__ = [
    "Stage", "cancel", "dry_run", "get", "items", "new_batch_id", "page", "pause", "report", "resume", "running",
    "start", "tick",
]  # fmt: skip
