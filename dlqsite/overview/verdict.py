"""What is wrong, the worst first: what fails, why, since when, how many, is it getting worse, what happens by itself,
what can be done. Pure.

Words and numbers come in as ``Sight``; nothing here asks a store or a clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from console.times import took
from dlqsite.overview.situation import BatchSight, BreakerSight, GroupSight, Sight
from dlqsite.overview.store_troubles import AWAY, lacking, lost, mongodb_away, problem_trouble, redis_away, unwell
from dlqsite.overview.trouble import Answer, Link, Trouble, answers, count_of, letters_page, per_minute, since

#: Worst first. ``bad`` burns; ``hand`` waits for a person; ``ok`` is all quiet.
LEVELS: Final = ("bad", "warn", "hand", "ok", "empty")
#: Deaths a minute from which on messages are said to be dying.
DYING_PER_MINUTE: Final = 1.0
#: Seconds that the oldest message may wait before that is worth a word.
SLOW_S: Final = 60.0
#: Seconds before a breaker opens in which the failures that open it happen.
_WINDOW_S: Final = 300.0
#: At most so many troubles are listed below the worst.
MOST_ALSO: Final = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The worst thing, and what else is open, worst first."""

    worst: Trouble
    also: tuple[Trouble, ...] = ()

    @property
    def level(self) -> str:
        return self.worst.level


def judge(sight: Sight) -> Verdict:
    """The verdict over what is seen."""
    troubles = sorted([*_troubles(sight)] or unwell(sight), key=lambda trouble: LEVELS.index(trouble.level))
    if not troubles:
        return Verdict(_quiet(sight))
    worst, *also = troubles
    return Verdict(worst, tuple(also[:MOST_ALSO]))


def _troubles(sight: Sight) -> Iterator[Trouble]:
    """In the order of how bad they are within one level."""
    problems = {
        part: [problem_trouble(sight, one) for one in sight.problems if one.part == part and one.code not in AWAY]
        for part in ("redis", "mongodb", "database", "workers", "disk")
    }
    redis_refuses = any(one.part == "redis" and one.stops for one in sight.problems)
    yield from problems["redis"]
    if sight.redis_away_since:
        # A server that refuses says why; one that says nothing is away.
        if not redis_refuses or not problems["redis"]:
            yield redis_away(sight, sight.redis_away_since)
        yield from problems["mongodb"]
        if sight.mongodb_away_since and not problems["mongodb"]:
            yield mongodb_away(sight, sight.mongodb_away_since)
        return  # all else would be guesses
    yield from problems["database"]
    for loss in sight.losses:
        yield lost(sight, loss)
    if sight.lacking:
        yield lacking(sight)
    yield from problems["workers"]
    if sight.workers == 0 and not redis_refuses:
        yield _nobody_works(sight)
    opened = [breaker for breaker in sight.breakers if breaker.state == "OPEN"]
    for breaker in sorted(opened, key=lambda one: -_letters_of(sight, one)):
        yield _open_breaker(sight, breaker)
    if sight.mongodb_away_since:
        # That outcomes wait goes without saying.
        problems["mongodb"] = [one for one in problems["mongodb"] if one.level == "bad"]
    yield from problems["mongodb"]
    why_not = [one for one in sight.problems if one.part == "mongodb" and one.stops and one.code not in AWAY]
    if sight.mongodb_away_since and not why_not:
        yield mongodb_away(sight, sight.mongodb_away_since)
    yield from problems["disk"]
    blamed = {group.fingerprint for breaker in opened for group in _behind(sight, breaker)}
    fresh = _dying_groups(sight, blamed)
    yield from _dying(sight, blamed, fresh)
    if sight.unaccounted:
        yield _unaccounted(sight)
    if sight.quarantined:
        yield _quarantined(sight)
    # While Redis refuses writes nothing is in time, and no process can report itself.
    if not redis_refuses:
        yield from _slow(sight)
    for breaker in sight.breakers:
        if breaker.state == "HALF_OPEN":
            yield _half_open(breaker)
        elif breaker.state not in ("OPEN", "CLOSED"):
            yield _set_by_hand(breaker)
    for missing, number, what in (
        ("DLQ worker", sight.dlq_workers, "automatic replays and replay batches wait"),
        ("cron process", sight.crons, "accounts are not checked"),
    ):
        if number == 0 and not redis_refuses:
            yield Trouble(
                "warn", "clock", f"No {missing} is alive: {what}.", "Messages are accepted and processed as always.",
                answers=answers(
                    sight, "at least 15 s ago", "All of them", "Nothing", "Start one",
                    "manage.py doctor names what is missing", many_more="none has said a word",
                    by_itself_more="what waits is done once one starts",
                ),
                links=(Link("Health", "#health"),),
            )  # fmt: skip
    for batch in sight.stopped:
        yield _stopped(sight, batch)
    yield from _for_a_person(sight, sum(group.open for group in fresh))


def _behind(sight: Sight, breaker: BreakerSight) -> list[GroupSight]:
    """Groups that died of what opened the breaker, as far as can be told: it ignores permanent errors, and what last
    died before its window has another cause.
    """
    begun = breaker.since - timedelta(seconds=_WINDOW_S) if breaker.since else None
    return [
        group
        for group in sight.groups
        if set(group.types) & set(breaker.types)
        and group.kind != "permanent"
        and (begun is None or group.last_seen is None or group.last_seen >= begun)
    ]


def _letters_of(sight: Sight, breaker: BreakerSight) -> int:
    return sum(group.open for group in _behind(sight, breaker))


def _nobody_works(sight: Sight) -> Trouble:
    waits = count_of(sight.waiting or 0, "message")
    told = f"{waits} {'waits' if sight.waiting == 1 else 'wait'}" if sight.waiting else "Nothing waits yet"
    pace = sight.accepted_per_s
    return Trouble(
        "bad", "octx", f"No message worker is alive. {told}.",
        "Messages are accepted and kept, and nobody processes them.",
        answers=answers(
            sight, f"{took(sight.oldest_wait_s)} ago" if sight.oldest_wait_s else "the last 15 s", waits,
            "Nothing", "Start a worker", "manage.py doctor names what is missing",
            since_more="as far as the oldest waits", by_itself_more="they run as soon as one starts",
            worse=Answer("Getting worse?", f"{pace:.1f} more a second" if pace else "No", "as fast as they come in"),
        ),
        links=(Link("Messages", "messages_app/message/"), Link("Health", "#health")),
    )  # fmt: skip


def _open_breaker(sight: Sight, breaker: BreakerSight) -> Trouble:
    dead = _letters_of(sight, breaker)
    is_unknown = bool(sight.mongodb_away_since) and not sight.groups
    cause = next(iter(sorted(_behind(sight, breaker), key=lambda group: -group.lately)), None)
    guarded = " and ".join(breaker.types[:3]) + (" and more" if len(breaker.types) > 3 else "")
    probes = "The next call is a probe" if not breaker.probes_in_s else f"Probes in {took(breaker.probes_in_s)}"
    rate = f"{breaker.failures} of {breaker.total} calls failed when it opened." if breaker.total else ""
    page = letters_page(type=breaker.types[0]) if len(breaker.types) == 1 else letters_page()
    return Trouble(
        "bad", "ringopen", f"{breaker.name} is failing." + (f" {guarded} messages are held." if guarded else ""),
        rate + (f" {cause.error_type}:" if cause else ""),
        cause.title if cause else "",
        answers=answers(
            sight, since(breaker.since, sight.now), "Not known" if is_unknown else count_of(dead, "letter"),
            probes, "Look after " + breaker.name, "No replay yet: it would fail the same",
            many_more="MongoDB does not answer" if is_unknown else "its messages wait, they do not die" if not dead
            else f"of {sight.open_letters:,} open" if sight.open_letters is not None else "",
            by_itself_more="messages that are held, and replays, go on once it is CLOSED",
        ),
        links=(*((Link(f"See the {count_of(dead, 'letter')}", page),) if dead else ()),
               Link("Breaker", "breaker_app/breaker/")),
    )  # fmt: skip


def _dying_groups(sight: Sight, blamed: set[str]) -> list[GroupSight]:
    """Groups whose letters are arriving now, and for which no open breaker is to blame."""
    if sight.dying_now is None or sight.dying_now < DYING_PER_MINUTE or sight.mongodb_away_since:
        return []
    fresh = [
        group for group in sight.groups
        if group.fingerprint not in blamed and group.last_seen and (sight.now - group.last_seen).total_seconds() < 300
    ]  # fmt: skip
    # What dies most lately is what fails now, however many letters others have gathered.
    return sorted(fresh, key=lambda group: -group.lately)[:3]


def _dying(sight: Sight, blamed: set[str], fresh: Sequence[GroupSight]) -> Iterator[Trouble]:
    if sight.dying_now is None or sight.dying_now < DYING_PER_MINUTE or sight.mongodb_away_since:
        return
    if not fresh:
        if not blamed:
            yield Trouble(
                "bad", "octx", f"Messages are dying: {per_minute(sight.dying_now)} a minute.",
                answers=answers(
                    sight, "the last minutes", count_of(sight.open_letters or 0, "open letter"),
                    "Transient ones replay", "Look at the newest letters", by_itself_more="the others need a person",
                ),
                links=(Link("See the letters", letters_page()),),
            )  # fmt: skip
        return
    for group in fresh:
        what = " and ".join(group.types[:2]) or "Messages"
        yield Trouble(
            "bad", "tri" if group.is_new else "octx",
            f"{what}: {count_of(group.open, 'letter')} with {group.error_type}"
            + (", a new error." if group.is_new else "."),
            group.place, group.title,
            answers=answers(
                sight, since(group.first_seen, sight.now), count_of(group.open, "open letter"),
                "They replay by themselves" if group.kind == "transient" else "Nothing: they wait for a person",
                "Open one and read why", "replay all once the cause is gone",
                many_more=f"of {sight.open_letters:,} open"
                + (f", {group.lately:,} in the last two hours" if group.lately else "")
                if sight.open_letters is not None else "",
                by_itself_more="a few times, then they wait for a person" if group.kind == "transient"
                else "open letters never expire",
            ),
            links=(Link("Open the group", group.page),),
        )  # fmt: skip


def _unaccounted(sight: Sight) -> Trouble:
    return Trouble(
        "bad", "tri", f"{count_of(sight.unaccounted, 'message')} "
        f"{'is' if sight.unaccounted == 1 else 'are'} not accounted for: {sight.unaccounted_where}.",
        "Accepted is not done + open + dead there. A move and its counting are one step: this does not pass by itself.",
        answers=answers(
            sight, "see the day", count_of(sight.unaccounted, "message"), "Nothing",
            "See the row, then the runbook", "was Redis restored from a backup, or written to by hand?",
            worse=Answer("Getting worse?", "See whether it changes", "checked every minute"),
        ),
        links=(Link("Show the row", "messages_app/message/#acct"),),
    )  # fmt: skip


def _quarantined(sight: Sight) -> Trouble:
    return Trouble(
        "bad", "hand", f"{count_of(sight.quarantined, 'outcome')} could not be recorded and "
        f"{'needs' if sight.quarantined == 1 else 'need'} a person.",
        "MongoDB can never take them in this form; they are kept in Redis.",
        answers=answers(
            sight, "see the list", count_of(sight.quarantined, "outcome"), "Nothing: they are kept",
            "Read why each was set aside",
        ),
        links=(Link("Show them", "messages_app/message/#quarantine"),),
    )  # fmt: skip


def _slow(sight: Sight) -> Iterator[Trouble]:
    if sight.workers == 0:
        return
    oldest = sight.oldest_wait_s
    waits = f"the oldest for {took(oldest)}" if oldest and oldest >= 1 else "none for long"
    pace = f"{sight.accepted_per_s or 0:.1f} come in, {sight.done_per_s or 0:.1f} are done a second"
    grows = (sight.accepted_per_s or 0) > (sight.done_per_s or 0) * 1.05 + 0.05
    worse = Answer("Getting worse?", "Yes" if grows else "No", pace, "up" if grows else "dn")
    if oldest is not None and oldest > SLOW_S:
        yield Trouble(
            "warn", "clock", f"Messages wait longer than they should: the oldest for {took(oldest)}.",
            "More comes in than is processed, or a handler is slow.",
            answers=answers(
                sight, f"{took(oldest)} ago", count_of(sight.waiting or 0, "message"), "They run in their turn",
                "Start more workers", "or raise WORKER_CONCURRENCY", many_more="wait in their lanes", worse=worse,
                by_itself_more="high before normal before low",
            ),
            links=(Link("Messages", "messages_app/message/"),),
        )  # fmt: skip
    if sight.overdue:
        yield Trouble(
            "warn", "clock", f"{count_of(sight.overdue, 'message')} "
            f"{'is' if sight.overdue == 1 else 'are'} more than 5 s past the time.",
            "Retries and schedules are moved by every worker; they fall behind.",
            answers=answers(sight, "the last seconds", count_of(sight.overdue, "message"), "They are moved in turn",
                             "Look at the workers", waits, worse=worse),
            links=(Link("Messages", "messages_app/message/"),),
        )  # fmt: skip


def _half_open(breaker: BreakerSight) -> Trouble:
    probes = f"{breaker.probes_succeeded} probes succeeded, {breaker.probes_failed} failed"
    return Trouble(
        "warn", "half", f"{breaker.name} is being tried out: {probes}.",
        links=(Link("Breaker", "breaker_app/breaker/"),),
        answers=(Answer("What happens by itself", "It closes or opens", "as the probes end"),),
    )  # fmt: skip


def _set_by_hand(breaker: BreakerSight) -> Trouble:
    word = breaker.state.replace("_", " ").lower()
    by = f" by {breaker.actor}" if breaker.actor else ""
    return Trouble(
        "warn", "lock", f"{breaker.name} is {word}{by}, until somebody resets it.", breaker.reason,
        links=(Link("Breaker", "breaker_app/breaker/"),),
        answers=(Answer("What happens by itself", "Nothing", "only a person changes it"),),
    )  # fmt: skip


def _stopped(sight: Sight, batch: BatchSight) -> Trouble:
    why = "the canary failed" if batch.why == "canary_failed" else "too many failed"
    return Trouble(
        "hand", "replay", f"The replay batch {batch.title} stopped by itself: {why}.",
        f"{batch.failed:,} of {batch.sent:,} sent came back; {batch.total - batch.sent:,} were not sent.",
        answers=answers(
            sight, since(batch.stopped_at, sight.now), count_of(batch.failed, "letter") + " failed again",
            "Nothing: it is over", "Read what came back", "then start another with the rest",
            many_more=f"of {batch.sent:,} sent, {batch.total:,} planned",
            by_itself_more="what was not sent is as it was",
        ),
        links=(Link("Open the batch", batch.page),),
    )  # fmt: skip


def _for_a_person(sight: Sight, told: int) -> Iterator[Trouble]:
    """Letters that wait for a decision, unless the ``told`` ones are all of them."""
    waiting = {status: sight.by_status.get(status, 0) for status in ("dlq_manual", "dlq_failed")}
    number = sum(waiting.values())
    if number <= told:
        return
    status = max(waiting, key=lambda name: waiting[name])
    worst = next((group for group in sight.groups if group.kind != "transient"), None)
    yield Trouble(
        "hand", "hand", f"{count_of(number, 'letter')} {'needs' if number == 1 else 'need'} a person.",
        f"Most: {worst.error_type} in {' and '.join(worst.types[:2]) or 'one group'}." if worst else "",
        worst.title if worst else "",
        answers=answers(
            sight, since(worst.first_seen, sight.now) if worst and worst.first_seen else "see the letters",
            count_of(number, "letter"), "Nothing: they are kept", "Read one, mend the cause, replay all",
            many_more=f"{waiting['dlq_manual']:,} need a decision, {waiting['dlq_failed']:,} used up their replays",
            by_itself_more="open letters never expire",
        ),
        links=(Link("See the letters", letters_page(status=status)), Link("As groups", "dlq_app/lettergroup/")),
    )  # fmt: skip


def _quiet(sight: Sight) -> Trouble:
    if sight.accepted_ever == 0 and not sight.open_letters:
        return Trouble("empty", "mark", "Ready. Nothing has been submitted yet.")
    open_letters = sight.open_letters or 0
    pending = sight.by_status.get("dlq_pending", 0)
    waits = sight.waiting or 0
    return Trouble(
        "ok", "check", "All quiet. Nothing needs you.",
        "Every breaker is closed, every part is healthy, and every message accepted is accounted for.",
        answers=(
            Answer("Last dead letter", f"{took((sight.now - sight.last_death_at).total_seconds())} ago"
                   if sight.last_death_at else "None in 24 h"),
            Answer("Waiting for a person", "Nothing", "no letter needs a decision"),
            Answer("Next, by itself", count_of(pending, "replay") if pending else "Nothing is due",
                   "each when its time has come" if pending else f"{count_of(open_letters, 'open letter')}"
                   if open_letters else "no letter is open"),
            Answer("In the lanes", count_of(waits, "message"),
                   f"the oldest for {took(sight.oldest_wait_s)}" if sight.oldest_wait_s and waits else "nothing waits"),
        ),
    )  # fmt: skip
