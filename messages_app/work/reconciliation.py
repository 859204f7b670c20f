"""Compares what Redis remembers of ended messages with the dead letters, and records again what they lack.

After MongoDB was restored from a backup letters are missing, and letters wait whose replay ended well. Redis remembers
both kinds of outcome for ``RECORD_TTL_S`` and can put them into the outbox again.
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
from messages_app.work.upkeep import MAX_DRAIN, drain
from processes.steps import goes_on

log = logging.getLogger(__name__)

#: Outcomes that one round of cron compares, beside those that it knows to be missing.
SAMPLE = 500
_DAY_MS = 86_400_000
#: MongoDB deletes resolved letters a little after their time by its own clock; what is that old is not compared.
_MARGIN_MS = 300_000


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found."""

    looked_at: int
    #: Outcomes that there were to look at.
    of: int
    missing: Sequence[RecordedOutcome]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step of ``bring_again`` did."""

    looked_at: int
    missing: Sequence[RecordedOutcome]
    #: Put into the outbox again.
    brought: int


def oldest_ms() -> int:
    """The time (ms) since which Redis and MongoDB remember the same: older outcomes may be gone on purpose."""
    now_ms, kept_ms = ledger().now_ms(), terms_from_settings().record_ttl_ms
    days = conf.replay_policy().keep_resolved_days
    return now_ms - (min(kept_ms, days * _DAY_MS - _MARGIN_MS) if days else kept_ms)


def compare(number: int) -> Comparison:
    """Compare up to ``number`` outcomes, evenly spread over all, and remember what is missing.

    Raises the StoreUnavailable of either side.
    """
    index = recorded_outcomes()
    size, oldest = index.count(), oldest_ms()
    looked = 0
    missing: list[RecordedOutcome] = []
    offset = random.random()  # noqa: S311 - which ones is no secret
    for sampled in index.sample(number, offset):
        goes_on()
        page = [one for one in sampled if one.at_ms >= oldest]
        looked += len(page)
        missing += _missing(index, page)
    index.note(missing)
    _look_again(index, oldest)
    return Comparison(looked, size, missing)


def _look_again(index: RecordedOutcomes, oldest: int) -> None:
    """Forget what was known to be missing and is there by now; oldest first, up to the first page that is not whole."""
    while known := index.lacking():
        still = {one.message_id for one in _missing(index, [o for o in index.of(list(known)) if o.at_ms >= oldest])}
        forgotten = [name for name, at_ms in known.items() if at_ms < oldest]
        if forgotten:
            log.error("outcomes_forgotten", extra={"outcomes": len(forgotten), "for_example": forgotten[0]})
        index.note([], [name for name in known if name not in still])
        if still:
            return


def check() -> None:
    """A round of cron: a sample, and what is known to be missing. Says in the log when that number changes."""
    before = recorded_outcomes().lacking_count()
    compare(SAMPLE)
    now = recorded_outcomes().lacking_count()
    if now and now != before:
        log.error("letters_lack_outcomes", extra={"outcomes": now})
    elif before and not now:
        log.warning("letters_have_all_again")


def bring_again(since_ms: int, until_ms: int | None = None, *, dry_run: bool = False) -> Iterator[Step]:
    """Record again what the letters lack of the outcomes that were recorded in that time, oldest first, in steps.

    Killed anywhere, what was put into the outbox is recorded by any worker, and the next call goes on with the rest.
    Repeating it changes nothing: an outcome that a letter has is not brought again. Raises the StoreUnavailable of
    either side.
    """
    index, book = recorded_outcomes(), ledger()
    # What is brought is recorded anew, later than this: it is not met again.
    until_ms = book.now_ms() if until_ms is None else until_ms
    for page in index.pages(max(since_ms, oldest_ms()), until_ms):
        missing = _missing(index, page)
        brought = 0
        if missing and not dry_run:
            index.note(missing)
            brought = book.resettle_many([(one.message_id, one.epoch) for one in missing])
            # Workers do the same; without any, this is enough.
            while drain(book, letters.record_outcomes, MAX_DRAIN) >= MAX_DRAIN:
                pass
        yield Step(len(page), missing, brought)
    if not dry_run:
        compare(SAMPLE)


def _missing(index: RecordedOutcomes, page: Sequence[RecordedOutcome]) -> list[RecordedOutcome]:
    """Outcomes that the letters lack. What moved while MongoDB was asked is not among them."""
    if not page:
        return []
    lacking = letters.lacking([(one.message_id, one.epoch, one.is_death) for one in page])
    return index.again([one for one, is_missing in zip(page, lacking, strict=True) if is_missing])
