"""What the verdict says of breakers that are not closed, those that do most harm first. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from breaker_app.held import longest_wait_ms
from breaker_app.page import held_course
from breaker_app.policy import WhenOpen
from breaker_app.states import State
from console.times import took
from console.trends import Course, Trend, added, course
from dlq_app.domain.explanation import clock_of
from dlq_app.services.groups import Group
from dlqsite.overview.trouble import Answer, Link, Trouble, answers, count_of, how_it_goes, into_s, letters_page, since

if TYPE_CHECKING:
    from dlqsite.overview.parts import BreakerSeen
    from dlqsite.overview.snapshot import Overview

#: Seconds before a breaker opens in which the failures that open it happen.
_WINDOW_S: Final = 300.0
#: States in which calls are rejected until the downstream has recovered.
FAILING: Final = (State.OPEN, State.HALF_OPEN)


def failing(o: Overview) -> list[BreakerSeen]:
    """Breakers whose downstream fails: by held messages and their priorities, then by letters."""
    found = [one for one in o.breakers.value or () if one.state in FAILING]
    return sorted(found, key=lambda one: (-one.held.weight if one.held else 0, -letters_of(o, one)))


def groups_behind(o: Overview, breaker: BreakerSeen) -> list[Group]:
    """Groups that died of what opened the breaker, as far as is known: it ignores permanent errors, and what last
    died before its window has another cause.
    """
    begun = breaker.since - timedelta(seconds=_WINDOW_S) if breaker.since else None
    return [
        group
        for group in o.groups.value or ()
        if {name for name, _ in group.types} & set(breaker.types)
        and group.error_kind != "permanent"
        and (begun is None or group.last_seen is None or group.last_seen >= begun)
    ]


def letters_of(o: Overview, breaker: BreakerSeen) -> int:
    return sum(group.open for group in groups_behind(o, breaker))


def breaker_page(breaker: BreakerSeen) -> str:
    return f"breaker_app/breaker/?{urlencode({'name': breaker.card.name})}"


def failing_trouble(o: Overview, breaker: BreakerSeen) -> Trouble:
    """An open breaker, or one that probes."""
    seen, dead = breaker.card.seen, letters_of(o, breaker)
    cause = next(iter(sorted(groups_behind(o, breaker), key=lambda group: -sum(group.trend[-2:]))), None)
    if breaker.state is State.OPEN:
        headline = f"{breaker.card.name} is failing.{_kept_back(breaker)}"
        wait_s = seen.retry_after_ms / 1000
        probes = f"Probes in {took(wait_s)}" if wait_s > 0 else "The next call is a probe"
    else:
        headline = (
            f"{breaker.card.name} is half-open: {seen.probes_succeeded} probes succeeded, {seen.probes_failed} failed."
            f"{_kept_back(breaker)}"
        )
        probes = "It closes or opens"
    recovers = breaker.state is State.HALF_OPEN and seen.probes_succeeded > seen.probes_failed
    page = letters_page(type=breaker.types[0]) if len(breaker.types) == 1 else letters_page()
    many, many_more = _how_many(o, breaker, dead)
    return Trouble(
        "warn" if recovers else "bad", "ringopen" if breaker.state is State.OPEN else "half", headline,
        _why(breaker) + (f" {cause.error_type}:" if cause else ""),
        cause.title if cause else "",
        answers=answers(
            o, since(breaker.since, o.as_of), many, probes, "Check " + breaker.card.name,
            "No replay yet: it would fail the same", many_more=many_more,
            by_itself_more=_what_follows(o, breaker, dead), worse=_worse(o, breaker),
        ),
        links=(*((Link(f"See the {count_of(dead, 'letter')}", page),) if dead else ()),
               Link("Breaker", breaker_page(breaker))),
    )  # fmt: skip


def by_hand(o: Overview) -> Iterator[Trouble]:
    """Breakers in a state that a user set, those that hold most first."""
    found = [one for one in o.breakers.value or () if one.state not in (*FAILING, State.CLOSED)]
    for breaker in sorted(found, key=lambda one: -one.held.weight if one.held else 0):
        word = breaker.state.value.replace("_", " ").lower()
        order = breaker.by_hand
        by = f" by {order.actor}" if order else ""
        dead = letters_of(o, breaker) if breaker.state is State.FORCED_OPEN else 0
        many, many_more = _how_many(o, breaker, dead)
        rejects = breaker.state is State.FORCED_OPEN
        yield Trouble(
            "warn", "lock", f"{breaker.card.name} is {word}{by}, until a user resets it."
            + (_kept_back(breaker) if rejects else ""), order.reason if order else "",
            links=(Link("Breaker", breaker_page(breaker)),),
            answers=answers(
                o, since(breaker.since, o.as_of), many if rejects else "All calls are allowed", "Nothing",
                "Reset it if the reason is gone", many_more=many_more if rejects else "",
                by_itself_more="only a user can change it"
                + (f"; {_held_run(breaker)}" if breaker.held and breaker.held.count else ""),
                worse=_worse(o, breaker) if rejects else Answer("Getting worse?", "Not known", "nothing is rejected"),
            ),
        )  # fmt: skip


def _kept_back(breaker: BreakerSeen) -> str:
    """What happens to its messages, with a space in front."""
    guarded = " and ".join(breaker.types[:3]) + (" and more" if len(breaker.types) > 3 else "")
    if not guarded:
        return ""
    if breaker.held is None:
        return f" {guarded} messages are held."
    if breaker.held.count:
        number = breaker.held.count
        return f" {number:,} {guarded} message{' is' if number == 1 else 's are'} held."
    rejects = breaker.card.policy.when_open is WhenOpen.REJECT
    return f" New {guarded} messages are {'rejected' if rejects else 'held'}."


def _why(breaker: BreakerSeen) -> str:
    failures, total = breaker.tripped
    if total:
        return f"{failures} of {total} calls failed when it opened."
    failures, total = breaker.probed
    return f"{failures} of {total} probes failed in the last round." if total else ""


def _how_many(o: Overview, breaker: BreakerSeen, dead: int) -> tuple[str, str]:
    """Held messages first: letters wait for a decision, messages wait for the breaker."""
    held, is_unknown = breaker.held, o.mongodb_is_away and not o.groups.value
    if held is None or not held.count:
        if is_unknown:
            return "Not known", "MongoDB does not answer"
        rest = f"of {o.open_letters:,} open" if o.open_letters is not None else ""
        none = "the number of held messages is not known" if held is None else "and no message is held"
        return count_of(dead, "letter"), rest if dead else none
    highest = getattr(held, held.highest)
    share = "all" if highest == held.count else f"{highest:,}"
    letters = "letters not known" if is_unknown else count_of(dead, "letter") if dead else "no letter"
    return (
        f"{count_of(held.count, 'message')} held",
        f"{share} of {held.highest} priority, the oldest for {took(held.oldest_s or 0)}; {letters}",
    )


def _worse(o: Overview, breaker: BreakerSeen) -> Answer:
    """By its own held messages and letters alone."""
    behind, held = groups_behind(o, breaker), breaker.held
    if held is None and (o.mongodb_is_away or not behind):
        return Answer("Getting worse?", "Not known", "the number of held messages is not known")
    # What was counted before MongoDB stopped answering says nothing about now.
    letters = letters_course([] if o.mongodb_is_away else behind)
    if held is not None and held.count:
        words, icon = held_course(held)
        if icon == "up" or letters.trend in (Trend.NONE, Trend.OVER):
            return Answer(
                "Getting worse?", words, "letters not known" if o.mongodb_is_away else _letters_too(letters), icon
            )
    return how_it_goes(letters, "letters")


def _letters_too(letters: Course) -> str:
    match letters.trend:
        case Trend.NONE:
            return "no new letter in the last hour"
        case Trend.OVER:
            return f"no new letter for {took(letters.over_for_s)}"
    return f"letters: {letters.words}"


def letters_course(groups: Sequence[Group]) -> Course:
    """The course of the letters of some groups together."""
    if not groups:
        return Course(trend=Trend.NONE)
    minutes: tuple[int, ...] = ()
    for group in groups:
        minutes = added(minutes, group.minutes)
    newest = max(groups, key=lambda group: group.last_seen)
    return course(minutes, into_s(newest.as_of), last_s=(newest.as_of - newest.last_seen).total_seconds())


def _held_run(breaker: BreakerSeen) -> str:
    wait_s = longest_wait_ms(breaker.card.policy.open_timeout_ms) / 1000
    return f"held messages start within {took(wait_s)} of its closing"


def _what_follows(o: Overview, breaker: BreakerSeen, dead: int) -> str:
    """When held messages and letters go on; nothing that is not known."""
    parts = [_held_run(breaker)] if breaker.held is None or breaker.held.count else []
    known = o.next_replays.value
    if known is not None and breaker.card.name in known and not o.mongodb_is_away:
        due_at = known[breaker.card.name]
        if due_at is not None:
            when = "now" if due_at <= o.as_of else f"at {clock_of(due_at, o.as_of, o.replay_policy.time_zone)}"
            parts.append(f"the next automatic replay is due {when}, and is postponed while it is open")
        elif dead:
            parts.append("no automatic replay is planned: its letters need a decision")
    return "; ".join(parts)
