"""Comparison of the outcomes in Redis with the dead letters; missing outcomes are recorded again.

After MongoDB was restored from a backup, letters are missing, and letters wait whose replay has succeeded. Redis keeps
both kinds of outcome for ``RECORD_TTL_S`` and can return them to the outbox.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dlq_app import conf
from dlq_app.services import dead_letters as letters
from messages_app.store.ledger import ledger
from messages_app.store.ledger_server import terms_from_settings
from messages_app.store.recorded_outcomes import RecordedOutcome, RecordedOutcomes, recorded_outcomes
from messages_app.work.draining import drain
from messages_app.work.upkeep import MAX_DRAIN
from processes.steps import progressed

log = logging.getLogger(__name__)

#: Outcomes that cron compares in one round, beside the known missing ones.
SAMPLE = 500
_DAY_MS = 86_400_000
#: MongoDB deletes resolved letters some time after they expire. Outcomes within this margin are not compared.
_MARGIN_MS = 300_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """Result of ``compare``: the recorded outcomes that MongoDB does not have."""

    looked_at: int
    #: Number of outcomes that exist.
    of: int
    missing: Sequence[RecordedOutcome]


@dataclass(frozen=True, slots=True)
class Step:
    """Result of one step of ``bring_again``."""

    looked_at: int
    missing: Sequence[RecordedOutcome]
    #: Outcomes returned to the outbox.
    brought: int


def oldest_ms() -> int:
    """The earliest time (ms) to compare: one of the stores may have deleted older outcomes as configured."""
    now_ms, kept_ms = ledger().now_ms(), terms_from_settings().record_ttl_ms
    days = conf.replay_policy().keep_resolved_days
    return now_ms - (min(kept_ms, days * _DAY_MS - _MARGIN_MS) if days else kept_ms)


def compare(number: int) -> Comparison:
    """Compare up to ``number`` outcomes, evenly spread over all, and store which are missing.

    Raises the ``StoreUnavailable`` of either store.
    """
    index = recorded_outcomes()
    size, oldest = index.count(), oldest_ms()
    looked = 0
    missing: list[RecordedOutcome] = []
    offset = random.random()  # noqa: S311 - which ones is no secret
    for sampled in index.sample(number, offset):
        progressed()
        page = [one for one in sampled if one.at_ms >= oldest]
        looked += len(page)
        missing += _missing(index, page)
    index.note(missing)
    _recheck(index, oldest)
    return Comparison(looked, size, missing)


def _recheck(index: RecordedOutcomes, oldest: int) -> None:
    """Remove known missing outcomes that exist by now, oldest first, up to the first page with one still missing."""
    while known := index.lacking():
        still = {one.message_id for one in _missing(index, [o for o in index.of(list(known)) if o.at_ms >= oldest])}
        forgotten = [name for name, at_ms in known.items() if at_ms < oldest]
        if forgotten:
            log.error("outcomes_forgotten", extra={"outcomes": len(forgotten), "for_example": forgotten[0]})
        index.note([], [name for name in known if name not in still])
        if still:
            return


def check() -> None:
    """Compare a sample and the known missing outcomes, for cron. Logs a change of their number."""
    before = recorded_outcomes().lacking_count()
    compare(SAMPLE)
    now = recorded_outcomes().lacking_count()
    if now and now != before:
        log.error("letters_lack_outcomes", extra={"outcomes": now})
    elif before and not now:
        log.warning("letters_have_all_again")


def bring_again(since_ms: int, until_ms: int | None = None, *, dry_run: bool = False) -> Iterator[Step]:
    """Record missing outcomes of that time again, oldest first, in steps.

    After a kill any worker records the outcomes in the outbox, and the next call continues with the rest. A repetition
    changes nothing: existing outcomes are not recorded again. Raises the ``StoreUnavailable`` of either store.
    """
    index, book = recorded_outcomes(), ledger()
    # Outcomes that are recorded again have a later time, so they are not read twice.
    until_ms = book.now_ms() if until_ms is None else until_ms
    for page in index.pages(max(since_ms, oldest_ms()), until_ms):
        missing = _missing(index, page)
        brought = 0
        if missing and not dry_run:
            index.note(missing)
            brought = book.resettle_many([(one.message_id, one.epoch) for one in missing])
            drain_all()
        yield Step(len(page), missing, brought)
    if not dry_run:
        compare(SAMPLE)


def missing_among(page: Sequence[RecordedOutcome]) -> list[RecordedOutcome]:
    """Those outcomes that are missing in the letters. Changes nothing."""
    oldest = oldest_ms()
    return _missing(recorded_outcomes(), [one for one in page if one.at_ms >= oldest])


def drain_all() -> None:
    """Record the outcomes of the outbox, as workers do; this suffices without them."""
    while drain(ledger(), letters.record_outcomes, MAX_DRAIN) >= MAX_DRAIN:
        pass


def _missing(index: RecordedOutcomes, page: Sequence[RecordedOutcome]) -> list[RecordedOutcome]:
    """Outcomes missing in the letters, without those of messages that moved in the meantime."""
    if not page:
        return []
    lacking = letters.lacking([(one.message_id, one.epoch, one.is_death) for one in page])
    return index.unchanged([one for one, is_missing in zip(page, lacking, strict=True) if is_missing])
