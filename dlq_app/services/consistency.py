"""Compares letters, batches and figures with each other, and repairs what is safe to repair.

What differs is read again before it counts: letters and batches of a running system change while they are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from dlq_app.domain import batch_rules
from dlq_app.domain.differences import Report, named
from dlq_app.domain.replay_batch import SENDING
from dlq_app.domain.states import OPEN, Status
from dlq_app.services import figures as figures_service
from dlq_app.store import indexes, repository
from dlq_app.store.consistency import SCAN_S, Consistency, SeenLetter, consistency
from dlq_app.store.figures import figures
from dlq_app.store.mongo import database, patiently
from dlq_app.store.repository import StoredBatch, Tally
from processes.steps import progressed

#: An executor copies outcomes within seconds. What is older than this is not copied at all.
LATE = timedelta(seconds=60)
#: A batch is stored some seconds after its letters are reserved.
_PLANNED_BY_THEN = timedelta(minutes=10)
_BATCH_ID = "b-"
_MAX_CHANGED = 10_000


def compare_letters(report: Report, page: Iterable[SeenLetter]) -> None:
    """What letters tell about themselves."""
    for letter in page:
        is_claimed = letter.status == Status.PROCESSING
        if any(
            not has_outcome and not is_imported and not (is_claimed and epoch == letter.fence)
            for epoch, has_outcome, _, is_imported in letter.attempts
        ):
            report.add("attempt_without_outcome", letter.message_id)
        if letter.status == Status.PENDING and letter.next_retry_at is None:
            report.add("pending_without_time", letter.message_id)
        batches = [batch_id for _, _, batch_id, is_imported in letter.attempts if batch_id and not is_imported]
        if len(set(batches)) < len(batches):
            report.add("sent_twice_by_batch", letter.message_id)


def compare_collection(report: Report) -> None:
    """Documents that are not letters, and messages with two letters."""
    store = consistency()
    number, some = store.not_letters()
    if number:
        report.add("not_letters", *named(some), count=number)
    if indexes.UNIQUE in indexes.missing(database()):
        number, some = store.twice()
        if number:
            report.add("letters_twice", *named(some), count=number)


# --- batches ---


def compare_batches(report: Report, since: datetime | None = None, *, only_active: bool = False) -> None:
    """Batches with their letters. ``since``: only batches that changed since then."""
    store = consistency()
    for batch in store.batches(since, only_active=only_active):
        progressed()
        report.looked_at("batches", 1)
        if isinstance(batch, str):
            report.add("batch_unreadable", *named([batch]))
            continue
        if batch.active:
            report.in_flight["batches"] = report.in_flight.get("batches", 0) + 1
        _compare_batch(report, store, batch)
    if not only_active:
        _compare_items_without_batch(report, store)
        _compare_approvals(report, store)


def _compare_batch(report: Report, store: Consistency, batch: StoredBatch) -> None:
    with patiently(SCAN_S):
        number = store.number_of_items(batch.id)
        tally = repository.items().tally(batch.id, 0, max(batch.batch.total, number) + 1)
    if number < batch.batch.total:
        report.add("batch_letters_missing", batch.id)
    _compare_outcomes(report, store, batch)
    current = store.again_batch(batch.id)
    if current is None or current.batch.updated_at != batch.batch.updated_at or current.active != batch.active:
        return  # it is at work
    if not batch.active:
        _compare_ended(report, store, batch, tally)
        return
    is_ending = batch.batch.stage in SENDING or batch.batch.is_final
    if is_ending and tally.open == 0 and repository.batches().server_now() - batch.batch.updated_at > LATE:
        report.add("batch_not_ended", batch.id)


def _compare_ended(report: Report, store: Consistency, batch: StoredBatch, tally: Tally) -> None:
    if tally.open:
        report.add("batch_ended_with_open_letters", batch.id)
        if report.fix and store.reopen(batch):
            report.repaired("batch_ended_with_open_letters")
        return
    stored = batch.batch.counts
    if (stored.succeeded, stored.failed, stored.skipped) != (tally.succeeded, tally.failed, tally.skipped):
        report.add("batch_counts_differ", batch.id)
        if report.fix and store.store_counts(batch, tally):
            report.repaired("batch_counts_differ")


def _compare_outcomes(report: Report, store: Consistency, batch: StoredBatch) -> None:
    now = repository.batches().server_now()
    for page in store.outcomes(batch.id):
        missing, differing = [], []
        for letter_id, item_outcome, letter_outcome, ended_at in page:
            right = batch_rules.copied(letter_outcome, {}).outcome
            if not item_outcome and (ended_at is None or now - ended_at > LATE):
                missing.append(letter_id)
            elif item_outcome and item_outcome != right:
                differing.append(letter_id)
        report.looked_at("batchLetters", len(page))
        if differing:
            report.add("batch_outcome_differs", *(f"{batch.id} {one}" for one in differing))
        if missing:
            report.add("batch_outcome_missing", *(f"{batch.id} {one}" for one in missing))
            if report.fix:
                ended = repository.letters().ended_for_batch(missing, batch.id)
                copies = {name: batch_rules.copied(str(one["outcome"]), one) for name, one in ended.items()}
                outcomes = {name: (copy.outcome, copy.error_type) for name, copy in copies.items()}
                repository.items().record_outcomes(batch.id, outcomes)
                report.repaired("batch_outcome_missing", len(outcomes))


def _compare_items_without_batch(report: Report, store: Consistency) -> None:
    # Items before batches: a batch that is stored meanwhile is known then.
    named_batches = store.batches_of_items()
    for batch_id in sorted(set(named_batches) - store.known_batches(named_batches)):
        report.add("letters_without_batch", *named([batch_id]))
        if report.fix:
            repository.items().remove(batch_id)
            report.repaired("letters_without_batch")


def _compare_approvals(report: Report, store: Consistency) -> None:
    reserved = store.reserved(_BATCH_ID, _PLANNED_BY_THEN)
    known = store.known_batches([batch_id for _, batch_id in reserved])
    for who, batch_id in reserved:
        if batch_id not in known:
            report.add("approval_without_batch", *named([f"{who} {batch_id}"]))
            if report.fix:
                repository.approvals().release(who, batch_id, kept=0)
                report.repaired("approval_without_batch")


# --- figures ---


def compare_figures(report: Report) -> None:
    """The stored figures, which readers of a large queue see, with a count. Allows for changes since they were made."""
    kept, _ = figures().latest()
    if kept is None or kept.total <= figures_service.MAX_INLINE_LETTERS:
        return
    store = consistency()
    counted = store.by_status()
    changed = store.changed_since(kept.as_of, _MAX_CHANGED)
    if changed == _MAX_CHANGED:
        report.undecided.append("The stored figures: too many letters have changed since they were counted.")
        return
    # Resolved letters are also deleted, which leaves no trace.
    off = {
        status.value: counted.get(status.value, 0) - kept.by_status.get(status.value, 0)
        for status in sorted(OPEN)
        if abs(counted.get(status.value, 0) - kept.by_status.get(status.value, 0)) > changed
    }
    if off:
        report.add("figures_differ", *(f"{status} {number:+}" for status, number in off.items()), count=1)
        if report.fix:
            figures().keep(figures().count(figures_service.RENEW_LIMIT_S))
            report.repaired("figures_differ")
