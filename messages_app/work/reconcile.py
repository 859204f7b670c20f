"""Compares ledger, letters, batches and accounts with each other, and repairs what is safe to repair.

Only reads, unless ``Report.fix``. A difference is what differs at one instant: a record and its indexes are read by one
script; a letter is read before and after the record of its message. So traffic under way is no difference. Every
repair is one conditional step that other processes could also take, so it is safe while they run.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dlq_app.conf import intake
from dlq_app.domain.differences import Report, named
from dlq_app.domain.states import Status
from dlq_app.services import consistency as letters_consistency
from dlq_app.services.replaying import Replayer
from dlq_app.store import repository
from dlq_app.store.consistency import SeenLetter, consistency
from messages_app.domain.ledger_rules import Located, RecordState, differences_of, is_message_id
from messages_app.domain.records import AccountRow, State
from messages_app.store.inspection import Inspection, inspection
from messages_app.store.ledger import ledger
from messages_app.store.recorded_outcomes import RecordedOutcome, recorded_outcomes
from messages_app.work import reconciliation
from processes.steps import progressed

log = logging.getLogger(__name__)

#: Longer than the sweep needs to release a stale claim (five minutes) and to come by.
STALE_CLAIM = timedelta(minutes=6)
#: Passes over all records, to compare counts with accounts that change meanwhile.
_PASSES = 4
#: Rounds of the mover that a repair runs: each moves up to 100 messages of each index.
_MOVER_ROUNDS = 1000
_QUICK_SAMPLE = 500
_ALL_DAYS = 36_500
_MAX_TOLD = 100_000
#: The repair of each kind of a record.
_REINDEXED = frozenset(
    {"open_in_no_index", "index_leftover", "outcome_in_no_index", "expires_while_open", "never_expires"}
)
_MOVED = frozenset({"wakeup_lost", "lease_over", "overdue"})
Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What to compare."""

    #: Only outcomes, letters and batches that changed since then. The ledger and the accounts are compared as a whole.
    since: datetime | None = None
    #: Only what is open or under way, and a sample of the outcomes: the cost does not depend on ended messages.
    quick: bool = False


def reconcile(
    scope: Scope | None = None, *, fix: bool = False, progress: Progress = lambda what, number: None
) -> Report:
    """Compare everything in ``scope`` and return the differences. ``fix``: repair those with a safe repair.

    ``progress`` gets the name of a step and how many objects it has compared. Raises the ``StoreUnavailable`` of either
    store; what was repaired stays repaired, and a repetition continues.
    """
    scope = scope or Scope()
    report = Report(fix=fix)
    run = _Run(report, scope, progress, inspection())
    run.indexes()
    if not scope.quick:
        run.records()
    run.accounts_alone()
    run.quarantine()
    run.outcomes()
    run.letters()
    if not scope.quick:
        run.epochs()
        letters_consistency.compare_collection(report)
        letters_consistency.compare_figures(report)
    letters_consistency.compare_batches(report, scope.since, only_active=scope.quick)
    run.under_way()
    return report


@dataclass(slots=True)
class _Run:
    report: Report
    scope: Scope
    progress: Progress
    ledger: Inspection
    #: Differences of records that are counted: a scan can return a key twice.
    _told: set[tuple[str, str]] = field(default_factory=set)

    # -- the ledger

    def indexes(self) -> None:
        """Every entry of an index belongs to a message in that state."""
        with_every = not self.scope.quick
        for page in self.ledger.indexed():
            seen = self.ledger.located(page, every=True)
            # The records themselves are compared by ``records``; those without one only here.
            self._judge([one for one in seen if not with_every or not one.exists or one.is_ended])
            self._looked("entries", len(page))

    def records(self) -> None:
        """Every record is where it belongs, every payload has a record, and the accounts count them."""
        before = _accounts()
        counts = _Counts()
        for keys in self.ledger.scan():
            seen = self.ledger.located(keys.records)
            # Entries of ended messages are compared by ``indexes``.
            self._judge(seen)
            counts.add(seen)
            orphans = self.ledger.without_expiry(sorted(set(keys.parts)))
            if orphans:
                self.report.add("payload_without_message", *named(orphans))
                self._reindex("payload_without_message", orphans)
            self._looked("messages", len(seen))
        self._compare_counts(before, counts)

    def _judge(self, seen: Sequence[Located]) -> None:
        found: dict[str, list[str]] = {}
        for one in seen:
            for kind in differences_of(one):
                if (kind, one.message_id) in self._told:
                    continue
                if len(self._told) < _MAX_TOLD:
                    self._told.add((kind, one.message_id))
                found.setdefault(kind, []).append(one.message_id)
        for kind, ids in found.items():
            self.report.add(kind, *named(ids))
            if kind in _REINDEXED:
                self._reindex(kind, ids)
            elif kind in _MOVED and self.report.fix:
                self._move(kind, ids)

    def _reindex(self, kind: str, ids: Sequence[str]) -> None:
        if self.report.fix:
            self.report.repaired(kind, self.ledger.reindex([name for name in ids if is_message_id(name)]))

    def _move(self, kind: str, ids: Sequence[str]) -> None:
        for _ in range(_MOVER_ROUNDS):
            due = ledger().due(1000)
            if not due.moved and not due.woken_again:
                break
        left = sum(kind in differences_of(one) for one in self.ledger.located(ids))
        self.report.repaired(kind, len(ids) - left)

    def quarantine(self) -> None:
        waiting = ledger().quarantined()
        if waiting:
            self.report.add("quarantined", *named(one.message_id for one in waiting))

    # -- accounts

    def accounts_alone(self) -> None:
        """Each account adds up. A move and its counting are one step."""
        rows = ledger().accounting(_ALL_DAYS)
        self.report.looked_at("accounts", len(rows))
        differing = [f"{row.day} {row.type} {row.difference:+}" for row in rows if row.difference]
        negative = [f"{row.day} {row.type}" for row in rows if row.below_zero]
        if differing:
            self.report.add("account_differs", *named(differing))
        if negative:
            self.report.add("account_negative", *named(negative))
            if self.report.fix:
                self.report.repaired("account_negative", min(ledger().balance(), len(negative)))

    def _compare_counts(self, before: Mapping[str, AccountRow], counts: _Counts) -> None:
        """Compare the accounts with the counted records. Accounts that moved during the count are counted again."""
        after = _accounts()
        undecided = _suspects(before, after, counts, set(before) | set(after) | set(counts.open))
        wrong: set[str] = set()
        for _ in range(_PASSES - 1):
            if not undecided:
                break
            # A scan can return a key twice. So what differs is counted again, each message once.
            before, counts = _accounts(), _Counts(only=undecided)
            for keys in self.ledger.scan():
                counts.add(self.ledger.located(keys.records))
                progressed()
            after = _accounts()
            suspects = _suspects(before, after, counts, undecided)
            decided = {name for name in suspects if before.get(name) == after.get(name)}
            wrong |= decided
            undecided = suspects - decided
        for name in sorted(wrong):
            row = after.get(name)
            opened, counted = (row.open if row else 0), counts.open[name]
            if opened != counted:
                self.report.add("account_open_differs", f"{name}: {opened} in the account, {counted} records"[:200])
            else:
                self.report.add("account_below_records", *named([name]))
        self.report.undecided += [
            f"Account {name}: it changed during each count. Run it again with less traffic."
            for name in sorted(undecided)[:10]
        ]

    def epochs(self) -> None:
        """New messages get an epoch above those of all letters: else an outcome would seem to be recorded already."""
        highest = consistency().highest_epoch()
        lowest_new = self.ledger.lowest_new_epoch()
        if highest >= lowest_new:
            self.report.add("epoch_behind", f"letters {highest}, new messages {lowest_new}")
            if self.report.fix:
                self.ledger.lowest_new_epoch(highest + 1)
                self.report.repaired("epoch_behind")

    # -- messages and letters

    def outcomes(self) -> None:
        """Every outcome that Redis remembers is in its letter."""
        if self.scope.quick and not self.report.fix:
            for sampled in recorded_outcomes().sample(_QUICK_SAMPLE, random.random()):  # noqa: S311 - no secret
                self._add_missing(reconciliation.missing_among(sampled))
                self._looked("outcomes", len(sampled))
            return
        since_ms = int(self.scope.since.timestamp() * 1000) if self.scope.since else 0
        for step in reconciliation.bring_again(since_ms, dry_run=not self.report.fix):
            progressed()
            self._add_missing(step.missing)
            for kind, is_death in (("death_without_letter", True), ("success_without_letter", False)):
                share = sum(one.is_death is is_death for one in step.missing)
                if share and step.brought:
                    self.report.repaired(kind, share if step.brought >= len(step.missing) else 0)
            self._looked("outcomes", step.looked_at)

    def _add_missing(self, missing: Sequence[RecordedOutcome]) -> None:
        deaths = [one.message_id for one in missing if one.is_death]
        successes = [one.message_id for one in missing if not one.is_death]
        if deaths:
            self.report.add("death_without_letter", *named(deaths))
        if successes:
            self.report.add("success_without_letter", *named(successes))

    def letters(self) -> None:
        """Every letter fits the record of its message."""
        store = consistency()
        for page in store.letters(self.scope.since, only_claimed=self.scope.quick):
            progressed()
            letters_consistency.compare_letters(self.report, page)
            records = self.ledger.states([letter.message_id for letter in page])
            now = repository.now()
            suspects = {letter.id: kind for letter in page if (kind := _kind(letter, records, now))}
            if suspects:
                # The same before and after the record was read: so it stood like this when the record was read.
                again = store.again(list(suspects))
                still = [one for one in page if one.id in suspects and again.get(one.id) == one]
                self._report_letters([(suspects[letter.id], letter) for letter in still])
            self.report.in_flight["claimedLetters"] = self.report.in_flight.get("claimedLetters", 0) + sum(
                letter.status == Status.PROCESSING for letter in page
            )
            self._looked("letters", len(page))

    def _report_letters(self, found: Sequence[tuple[str, SeenLetter]]) -> None:
        # ``outcomes`` has reported these: they lack an outcome that Redis remembers.
        recorded = {one.message_id: one.epoch for one in recorded_outcomes().of([one.message_id for _, one in found])}
        for kind, letter in found:
            epoch = recorded.get(letter.message_id, 0)
            if epoch > letter.closed_epoch and epoch >= letter.fence and kind != "claim_without_message":
                continue
            self.report.add(kind, letter.message_id)
            if self.report.fix and kind in ("claim_without_message", "claim_ended"):
                self._end_claim(kind, letter)

    def _end_claim(self, kind: str, seen: SeenLetter) -> None:
        letter = repository.letters().get(str(seen.id))
        if letter is None or letter.fence != seen.fence or letter.status is not Status.PROCESSING:
            return
        answer = Replayer(repository.letters(), intake()).end_stale(letter)
        log.info("stale_claim", extra={"message_id": letter.message_id, "epoch": letter.fence, "found": answer})
        if kind == "claim_ended":
            reconciliation.drain_all()
        self.report.repaired(kind)

    # --

    def under_way(self) -> None:
        """Numbers of what is under way, which is no difference."""
        figures = ledger().figures()
        self.report.in_flight |= {
            "queued": sum(lane.waiting for lane in figures.lanes),
            "scheduled": figures.scheduled,
            "retryWait": figures.retry_wait,
            "running": figures.running,
            "outbox": figures.outbox,
        }

    def _looked(self, what: str, number: int) -> None:
        progressed()
        self.report.looked_at(what, number)
        self.progress(what, self.report.compared[what])


class _Counts:
    """Records by account: open, done, dead."""

    def __init__(self, only: set[str] | None = None) -> None:
        self.open: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        self._only = only
        #: Only for accounts that differ: then their messages are few, or everything is lost anyway.
        self._met: set[str] = set()

    def add(self, page: Sequence[Located]) -> None:
        for one in page:
            if self._only is not None:
                if one.account not in self._only or one.message_id in self._met:
                    continue
                self._met.add(one.message_id)
            if one.is_open:
                self.open[one.account] += 1
            elif one.state in (State.DONE, State.DEAD):
                self.ended[one.account, one.state] += 1


def _accounts() -> dict[str, AccountRow]:
    return {f"{row.day}:{row.type}": row for row in ledger().accounting(_ALL_DAYS)}


def _suspects(
    before: Mapping[str, AccountRow], after: Mapping[str, AccountRow], counts: _Counts, names: set[str]
) -> set[str]:
    """The accounts that neither before nor after the count have as many messages as were counted."""

    def agrees(row: AccountRow | None, name: str) -> bool:
        done, dead = counts.ended[name, State.DONE], counts.ended[name, State.DEAD]
        if row is None:
            return not (counts.open[name] or done or dead)
        return row.open == counts.open[name] and row.done >= done and row.dead >= dead

    return {name for name in names if not agrees(before.get(name), name) and not agrees(after.get(name), name)}


def _kind(letter: SeenLetter, records: Mapping[str, RecordState], now: datetime) -> str:
    """The kind of difference between a letter and the record of its message; empty without one."""
    record = records.get(letter.message_id)
    if letter.status == Status.PROCESSING:
        if record and record.epoch == letter.fence:
            return "" if record.is_under_way else "claim_ended"
        is_stale = letter.locked_at is None or now - letter.locked_at > STALE_CLAIM
        return "claim_without_message" if is_stale else ""
    if record is None:
        return ""
    is_waiting = letter.status != Status.RESOLVED
    if record.state == State.DONE and not record.outbox and is_waiting and record.epoch >= letter.fence:
        return "open_letter_of_done_message"
    is_running = record.state not in (State.DONE, State.DEAD, State.DEAD_PENDING)
    if is_running and record.replay_id and record.epoch > letter.closed_epoch:
        return "replay_without_claim"
    return ""
