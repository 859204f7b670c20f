"""Replay batches with their secrets hidden. Pure."""

from __future__ import annotations

from dataclasses import replace

from dlq_app.domain.masking import MaskingPolicy, mask_text
from dlq_app.domain.replay_batch import ReplayBatch


def masked_batch(of: ReplayBatch, masking: MaskingPolicy) -> ReplayBatch:
    """The batch with secrets hidden in what people wrote and what it met: name, reasons, history."""
    return replace(
        of,
        name=mask_text(of.name, masking),
        reason=mask_text(of.reason, masking),
        stop_reason=mask_text(of.stop_reason, masking),
        waiting=mask_text(of.waiting, masking),
        history=[{**entry, "why": mask_text(str(entry.get("why") or ""), masking)} for entry in of.history],
    )
