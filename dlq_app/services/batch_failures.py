"""What went wrong in replay batches: error texts of one batch, and the last batches of the same letters."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.replay_batch import FAILED, ReplayBatch
from dlq_app.services import batches
from dlq_app.store import repository

#: Failed letters that are searched for one example of each error.
_LOOKED_AT = 100
#: Batches that are searched for earlier ones of the same letters.
_SEARCHED = 200


@dataclass(frozen=True, slots=True)
class Failure:
    """Letters of a batch whose replay failed with one error type."""

    error_type: str
    count: int
    #: The error of one of them in this batch; empty if its letter is gone. Can contain secrets: mask it.
    text: str
    message_id: str
    letter_id: str


def failures(batch_id: str, limit: int = 3) -> list[Failure]:
    """The most frequent errors of a batch's failed replays, each with one example.

    Reads the counts by index, at most a hundred items, and ``limit`` letters. Raises ``BatchNotFound``.
    """
    counts: dict[str, int] = {}
    for outcome, error_type, count in batches.report(batch_id):
        if outcome in FAILED:
            counts[error_type] = counts.get(error_type, 0) + count
    wanted = sorted(counts, key=lambda name: (-counts[name], name))[:limit]
    if not wanted:
        return []
    found: dict[str, Failure] = {}
    for item in batches.items(batch_id, outcome="failed", limit=_LOOKED_AT).items:
        if item.error_type in wanted and item.error_type not in found:
            text = _text(item.letter_id, batch_id)
            found[item.error_type] = Failure(
                item.error_type, counts[item.error_type], text, item.message_id, item.letter_id
            )
    return [found.get(name) or Failure(name, counts[name], "", "", "") for name in wanted]


def _text(letter_id: str, batch_id: str) -> str:
    """The error of the letter's replay in this batch: the letter's own error may be from a later replay."""
    letter = repository.letters().get(letter_id)
    if letter is None:
        return ""
    attempt = next((one for one in reversed(letter.replay_attempts) if one.get("batchId") == batch_id), None)
    return str((attempt or {}).get("errorReason") or "") or letter.error_reason


def recent_like(criteria: LetterCriteria | None, fingerprints: Collection[str], limit: int = 3) -> list[ReplayBatch]:
    """The last batches that replayed one of these groups, or used the same filter, newest first.

    Searches the 200 newest batches.
    """
    groups = set(criteria.fingerprints if criteria else ()) or set(fingerprints)
    found = batches.page(limit=_SEARCHED).batches
    return [one for one in found if _is_like(one, criteria, groups)][:limit]


def _is_like(batch: ReplayBatch, criteria: LetterCriteria | None, groups: set[str]) -> bool:
    if batch.criteria is None:
        return False
    if groups & set(batch.criteria.fingerprints):
        return True
    return criteria is not None and batch.criteria == criteria
