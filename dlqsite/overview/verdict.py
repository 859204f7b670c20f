"""The problems of a snapshot, worst first: cause, since when, how many, trend, what follows, what to do. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Final

from console.times import took
from console.trends import Trend
from dlq_app.domain.explanation import clock_of
from dlq_app.domain.replay_batch import ReplayBatch
from dlq_app.domain.strategies import Strategy
from dlq_app.services.groups import Group
from dlqsite.overview.breaker_troubles import by_hand, failing, failing_trouble, groups_behind, letters_course
from dlqsite.overview.store_troubles import (
    AWAY,
    lacking,
    lost,
    mongodb_away,
    problem_trouble,
    redis_away,
    unhealthy_checks,
)
from dlqsite.overview.trouble import (
    Answer,
    Link,
    Trouble,
    answers,
    batch_page,
    count_of,
    group_page,
    how_it_goes,
    letters_page,
    per_minute,
    since,
)

if TYPE_CHECKING:
    from dlqsite.overview.parts import Accounts
    from dlqsite.overview.snapshot import Overview

#: Worst first. ``bad``: something fails; ``hand``: needs a decision; ``ok``: no problem.
LEVELS: Final = ("bad", "warn", "hand", "ok", "empty")
#: New dead letters a minute from which on they are a problem.
DYING_PER_MINUTE: Final = 1.0
#: Seconds that the oldest message may wait before it is a problem.
SLOW_S: Final = 60.0
#: Number of problems below the worst that are shown at first; the others follow on request.
SHOWN_ALSO: Final = 5
#: Maximum number of groups with a sentence of their own; the others share one.
_GROUPS: Final = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst problem, and the others, worst first."""

    worst: Trouble
    also: tuple[Trouble, ...] = ()

    @property
    def level(self) -> str:
        return self.worst.level

    @property
    def shown(self) -> tuple[Trouble, ...]:
        """The other problems that are shown at first."""
        return self.also[:SHOWN_ALSO]

    @property
    def more(self) -> tuple[Trouble, ...]:
        """The rest of them."""
        return self.also[SHOWN_ALSO:]


def verdict_of(o: Overview) -> Verdict:
    """The worst problem of the snapshot, and the others."""
    troubles = sorted([*_troubles(o)] or unhealthy_checks(o), key=lambda trouble: LEVELS.index(trouble.level))
    if not troubles:
        return Verdict(_quiet(o))
    worst, *also = troubles
    return Verdict(worst, tuple(also))


def _troubles(o: Overview) -> Iterator[Trouble]:
    """In the order of how bad they are within one level: stores, then who works, then breakers, then letters."""
    figures = o.ledger.value
    # That a store is unavailable has a sentence of its own.
    known = [(one, begun) for one, begun in o.problems if one.code not in AWAY]
    problems = {
        part: [problem_trouble(o, one, begun) for one, begun in known if one.part == part]
        for part in ("redis", "mongodb", "database", "workers", "disk")
    }
    redis_refuses = any(one.part == "redis" and one.stops for one, _ in o.problems)
    yield from problems["redis"]
    if o.redis_is_away:
        # A server that refuses gives a reason; one that gives no answer is unavailable.
        if not redis_refuses or not problems["redis"]:
            yield redis_away(o)
        yield from problems["mongodb"]
        if o.mongodb_is_away and not problems["mongodb"]:
            yield mongodb_away(o)
        return  # everything else would be a guess
    yield from problems["database"]
    for loss in reversed(o.facts("losses").get("losses", ())):
        yield lost(o, loss)
    if o.facts("letters").get("lacking"):
        yield lacking(o)
    if o.mongodb_is_away:
        # That outcomes wait goes without saying.
        problems["mongodb"] = [one for one in problems["mongodb"] if one.level == "bad"]
    yield from problems["mongodb"]
    if o.mongodb_is_away and not any(one.part == "mongodb" and one.stops for one, _ in known):
        yield mongodb_away(o)
    yield from problems["disk"]
    yield from problems["workers"]
    if o.alive("workers") == 0 and not redis_refuses:
        yield _no_worker(o)
    opened = failing(o)
    yield from (failing_trouble(o, breaker) for breaker in opened)
    explained = {group.fingerprint for breaker in opened for group in groups_behind(o, breaker)}
    fresh = _failing_groups(o, explained)
    yield from _failing(o, explained, fresh)
    if o.accounts.value and o.accounts.value.differences:
        yield _unaccounted(o, o.accounts.value)
    if figures and figures.quarantined:
        yield _quarantined(o, figures.quarantined)
    # While Redis refuses writes nothing is in time, and no process can report itself.
    if not redis_refuses:
        yield from _slow(o)
    yield from by_hand(o)
    for missing, number, what in (
        ("DLQ worker", o.alive("dlqWorker"), "automatic replays and replay batches wait"),
        ("cron process", o.alive("scheduler"), "accounts are not checked"),
    ):
        if number == 0 and not redis_refuses:
            yield Trouble(
                "warn", "clock", f"No {missing} is alive: {what}.", "Messages are accepted and processed as always.",
                answers=answers(
                    o, "at least 15 s ago", "All of them", "Nothing", "Start one",
                    "manage.py doctor shows what is missing", many_more="none has reported",
                    by_itself_more="what waits is done once one starts",
                ),
                links=(Link("Health", "#health"),),
            )  # fmt: skip
    for batch in o.stopped_batches:
        yield _stopped(o, batch)
    yield from _undecided(o, sum(group.open for group in fresh))


def _recent(group: Group) -> int:
    """How many letters failed in this clock hour and the one before."""
    return sum(group.trend[-2:])


def _types(group: Group) -> str:
    return " and ".join(name for name, _ in group.types[:2])


def _no_worker(o: Overview) -> Trouble:
    waits = count_of(o.waiting or 0, "message")
    told = f"{waits} {'waits' if o.waiting == 1 else 'wait'}" if o.waiting else "No message is waiting yet"
    pace = o.rates.accepted_per_s
    return Trouble(
        "bad", "octx", f"No message worker is alive. {told}.",
        "Messages are accepted and kept, but not processed.",
        answers=answers(
            o, f"{took(o.oldest_wait_s)} ago" if o.oldest_wait_s else "the last 15 s", waits,
            "Nothing", "Start a worker", "manage.py doctor shows what is missing",
            since_more="the age of the oldest waiting message", by_itself_more="they run as soon as one starts",
            worse=Answer("Getting worse?", f"{pace:.1f} more a second" if pace else "No", "as fast as they arrive"),
        ),
        links=(Link("Messages", "messages_app/message/"), Link("Health", "#health")),
    )  # fmt: skip


def _failing_groups(o: Overview, explained: set[str]) -> list[Group]:
    """Groups whose letters are arriving now, and for which no open breaker is to blame."""
    if o.rates.dying_per_min is None or o.rates.dying_per_min < DYING_PER_MINUTE or o.mongodb_is_away:
        return []
    fresh = [
        group for group in o.groups.value or ()
        if group.fingerprint not in explained and group.last_seen and (o.as_of - group.last_seen).total_seconds() < 300
        and letters_course([group]).trend is not Trend.OVER
    ]  # fmt: skip
    # What dies most lately is what fails now, however many letters others have gathered.
    return sorted(fresh, key=lambda group: -_recent(group))


def _failing(o: Overview, explained: set[str], fresh: Sequence[Group]) -> Iterator[Trouble]:
    if o.rates.dying_per_min is None or o.rates.dying_per_min < DYING_PER_MINUTE or o.mongodb_is_away:
        return
    if not fresh:
        if not explained:
            yield Trouble(
                "bad", "octx", f"New dead letters: {per_minute(o.rates.dying_per_min)} a minute.",
                answers=answers(
                    o, "the last minutes", count_of(o.open_letters or 0, "open letter"),
                    "Transient failures are replayed", "Check the newest letters",
                    by_itself_more="the others need a decision",
                ),
                links=(Link("See the letters", letters_page()),),
            )  # fmt: skip
        return
    for group in fresh[:_GROUPS]:
        goes_on, goes_on_more = _goes_on(o, group)
        what = _types(group) or "Messages"
        yield Trouble(
            "bad", "tri" if group.is_new else "octx",
            f"{what}: {count_of(group.open, 'letter')} with {group.error_type}"
            + (", a new error." if group.is_new else "."),
            group.frame, group.title,
            answers=answers(
                o, since(group.first_seen, o.as_of), count_of(group.open, "open letter"), goes_on,
                "Open a letter and read its error", "replay all once the cause is fixed",
                many_more=f"of {o.open_letters:,} open"
                + (f", {_recent(group):,} in the last two hours" if _recent(group) else "")
                if o.open_letters is not None else "",
                by_itself_more=goes_on_more, worse=how_it_goes(letters_course([group]), "letters")
                if group.minutes else None,
            ),
            links=(Link("Open the group", group_page(group.fingerprint)),),
        )  # fmt: skip
    if len(fresh) > _GROUPS:
        rest = fresh[_GROUPS:]
        yield Trouble(
            "bad", "octx", f"{count_of(len(rest), 'more group')} {'has' if len(rest) == 1 else 'have'} new letters.",
            links=(Link("See the groups", "dlq_app/lettergroup/?sort=-lastSeen"),),
            answers=answers(
                o, since(min(group.first_seen for group in rest), o.as_of),
                count_of(sum(group.open for group in rest), "open letter"), "See each group",
                "Open each group and read its error", worse=how_it_goes(letters_course(rest), "letters"),
            ),
        )  # fmt: skip


def _goes_on(o: Overview, group: Group) -> tuple[str, str]:
    """When letters of the group are replayed automatically, as each letter says it."""
    policy, strategy = o.replay_policy, o.replay_policy.strategy(group.error_type, group.error_kind)
    times = f"up to {policy.max_automatic_replays} times, then they need a decision"
    slot = policy.next_replay_at(strategy, 0, o.as_of)
    if slot is None:
        return "Nothing: they need a decision", "open letters never expire"
    if strategy is Strategy.OFF_PEAK:
        return f"They are replayed off-peak, next at {clock_of(slot, o.as_of, policy.time_zone)}", times
    return "They are replayed automatically", f"first after {policy.immediate_minutes[0]} min, {times}"


def _unaccounted(o: Overview, accounts: Accounts) -> Trouble:
    row, number = accounts.differences[0], accounts.difference
    where = f"{row.type}, {date.fromisoformat(row.day):%-d %b}"
    return Trouble(
        "bad", "tri", f"{count_of(number, 'message')} "
        f"{'is' if number == 1 else 'are'} not accounted for: {where}.",
        "Accepted does not equal done + open + dead there. Each move is counted in the same step, so this is a fault.",
        answers=answers(
            o, "see the day", count_of(number, "message"), "Nothing",
            "See the row, then the runbook", "was Redis restored from a backup, or written to by hand?",
            worse=Answer("Getting worse?", "See whether it changes", "checked every minute"),
        ),
        links=(Link("Show the row", "messages_app/message/#acct"),),
    )  # fmt: skip


def _quarantined(o: Overview, number: int) -> Trouble:
    return Trouble(
        "bad", "hand", f"{count_of(number, 'outcome')} could not be recorded and "
        f"{'needs' if number == 1 else 'need'} a decision.",
        "MongoDB can never take them in this form; they are kept in Redis.",
        answers=answers(
            o, "see the list", count_of(number, "outcome"), "Nothing: they are kept",
            "Read the reason for each",
        ),
        links=(Link("Show them", "messages_app/message/#quarantine"),),
    )  # fmt: skip


def _slow(o: Overview) -> Iterator[Trouble]:
    if o.alive("workers") == 0:
        return
    oldest = o.oldest_wait_s
    waits = f"the oldest for {took(oldest)}" if oldest and oldest >= 1 else "none has waited long"
    pace = f"{o.rates.accepted_per_s or 0:.1f} arrive and {o.rates.done_per_s or 0:.1f} finish a second"
    grows = (o.rates.accepted_per_s or 0) > (o.rates.done_per_s or 0) * 1.05 + 0.05
    worse = Answer("Getting worse?", "Yes" if grows else "No", pace, "up" if grows else "dn")
    if oldest is not None and oldest > SLOW_S:
        yield Trouble(
            "warn", "clock", f"Messages wait too long: the oldest for {took(oldest)}.",
            "More messages arrive than are processed, or a handler is slow.",
            answers=answers(
                o, f"{took(oldest)} ago", count_of(o.waiting or 0, "message"), "They run in order",
                "Start more workers", "or raise WORKER_CONCURRENCY", many_more="wait in their lanes", worse=worse,
                by_itself_more="high before normal before low",
            ),
            links=(Link("Messages", "messages_app/message/"),),
        )  # fmt: skip
    late = o.ledger.value.overdue if o.ledger.value else 0
    if late:
        yield Trouble(
            "warn", "clock", f"{count_of(late, 'message')} "
            f"{'is' if late == 1 else 'are'} more than 5 s late.",
            "The workers are behind in moving retries and scheduled messages to their lanes.",
            answers=answers(o, "the last seconds", count_of(late, "message"), "They are moved in order",
                             "Check the workers", waits, worse=worse),
            links=(Link("Messages", "messages_app/message/"),),
        )  # fmt: skip


def _stopped(o: Overview, batch: ReplayBatch) -> Trouble:
    why = "the canary failed" if batch.stop_reason == "canary_failed" else "too many letters failed"
    failed, sent = batch.counts.failed, batch.counts.sent
    return Trouble(
        "hand", "replay", f"Replay batch {batch.name or batch.reason or batch.id} stopped automatically: {why}.",
        f"{failed:,} of {sent:,} sent letters failed; {batch.total - sent:,} were not sent.",
        answers=answers(
            o, since(batch.finished_at or batch.updated_at, o.as_of), f"{count_of(failed, 'letter')} failed again",
            "Nothing: it has ended", "Read the errors", "then start another batch for the rest",
            many_more=f"of {sent:,} sent, {batch.total:,} planned",
            worse=Answer("Getting worse?", "No", "it has ended", "flat"),
            by_itself_more="letters that were not sent are unchanged",
        ),
        links=(Link("Open the batch", batch_page(batch.id)),),
    )  # fmt: skip


def _undecided(o: Overview, told: int) -> Iterator[Trouble]:
    """Letters that need a decision, unless all of them are among the ``told`` ones."""
    waiting = {status: o.by_status.get(status, 0) for status in ("dlq_manual", "dlq_failed")}
    number = sum(waiting.values())
    if number <= told:
        return
    status = max(waiting, key=lambda name: waiting[name])
    worst = next((group for group in o.groups.value or () if group.error_kind != "transient"), None)
    yield Trouble(
        "hand", "hand", f"{count_of(number, 'letter')} {'needs' if number == 1 else 'need'} a decision.",
        f"Most: {worst.error_type} in {_types(worst) or 'one group'}." if worst else "",
        worst.title if worst else "",
        answers=answers(
            o, since(worst.first_seen, o.as_of) if worst and worst.first_seen else "see the letters",
            count_of(number, "letter"), "Nothing: they are kept", "Read one, fix the cause, replay all",
            many_more=f"{waiting['dlq_manual']:,} need a decision, {waiting['dlq_failed']:,} used up their replays",
            by_itself_more="open letters never expire",
        ),
        links=(Link("See the letters", letters_page(status=status)), Link("As groups", "dlq_app/lettergroup/")),
    )  # fmt: skip


def _quiet(o: Overview) -> Trouble:
    if o.accounts.value and o.accounts.value.accepted_ever == 0 and not o.open_letters:
        return Trouble("empty", "mark", "Ready. Nothing has been submitted yet.")
    open_letters = o.open_letters or 0
    pending = o.by_status.get("dlq_pending", 0)
    waits = o.waiting or 0
    return Trouble(
        "ok", "check", "All quiet. Nothing needs you.",
        "Every breaker is closed, every part is healthy, and every message accepted is accounted for.",
        answers=(
            Answer("Last dead letter", f"{took((o.as_of - o.rates.last_death_at).total_seconds())} ago"
                   if o.rates.last_death_at else "None in 24 h"),
            Answer("Needs a decision", "Nothing", "no letter needs a decision"),
            Answer("Next automatic step", count_of(pending, "replay") if pending else "Nothing is due",
                   "each at its time" if pending else f"{count_of(open_letters, 'open letter')}"
                   if open_letters else "no letter is open"),
            Answer("In the lanes", count_of(waits, "message"),
                   f"the oldest for {took(o.oldest_wait_s)}" if o.oldest_wait_s and waits else "nothing waits"),
        ),
    )  # fmt: skip
