"""One thing that is, or is not, as it should be, and the words that sentences about it share. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from console.times import took
from console.trends import Course, Trend, pace

if TYPE_CHECKING:
    from dlqsite.overview.snapshot import Overview


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the questions of the one on call, answered."""

    question: str
    short: str
    more: str = ""
    #: Name of an icon, or empty.
    icon: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """Where to go from here: a page of the console, relative to its home."""

    text: str
    page: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is, or is not, as it should be."""

    level: str
    icon: str
    headline: str
    lead: str = ""
    #: Code or text of the error, shown as code; attacker's text.
    code: str = ""
    answers: tuple[Answer, ...] = ()
    links: tuple[Link, ...] = ()


def answers(
    o: Overview, since: str, many: str, by_itself: str, do: str, do_more: str = "",
    *, since_more: str = "", many_more: str = "", by_itself_more: str = "", worse: Answer | None = None,
) -> tuple[Answer, ...]:  # fmt: skip
    return (
        Answer("Since", since, since_more),
        Answer("How many", many, many_more),
        worse or _getting_worse(o),
        Answer("What happens automatically", by_itself, by_itself_more),
        Answer("What you can do", do, do_more),
    )


def _getting_worse(o: Overview) -> Answer:
    """Of the whole installation: for problems that concern all of it."""
    question, now, before = "Getting worse?", o.rates.dying_per_min, o.rates.dying_before
    if now is None:
        return Answer(question, "Not known", "no samples of the last minutes")
    shown = f"{per_minute(now)} dead letters a minute"
    if before is None:
        return Answer(question, shown, "no earlier figures to compare with")
    told = f"of all types; {per_minute(before)} in the hour before"
    if now < 0.05:
        last = o.rates.last_death_at
        quiet = f": none for {took((o.as_of - last).total_seconds())}" if last else ""
        return Answer(question, f"No{quiet}", "no new dead letters of any type in the last 3 minutes", "flat")
    if now > 1.5 * before and now - before > 0.3:
        return Answer(question, f"Yes: {shown}", told, "up")
    if now < before / 1.5:
        return Answer(question, f"No: {shown}", told, "dn")
    return Answer(question, f"Steady: {shown}", told, "flat")


def how_it_goes(course: Course, what: str) -> Answer:
    """Whether something gets worse, by its own minutes. ``what``: its plural."""
    question, before = "Getting worse?", f"{pace(course.before)} before" if course.before else "none before"
    match course.trend:
        case Trend.NONE:
            return Answer(question, "No", f"no new {what} in the last hour", "flat")
        case Trend.OVER:
            return Answer(
                question, f"No: over for {took(course.over_for_s)}", f"{course.total:,} {what} in the last hour", "flat"
            )
        case Trend.RISING:
            return Answer(question, f"Yes: {pace(course.per_minute)}", f"new {what}; {before}", "up")
        case Trend.FALLING:
            return Answer(question, f"No: {pace(course.per_minute)}, falling", f"new {what}; {before}", "dn")
    return Answer(question, f"Steady: {course.words.removesuffix(', steady')}", f"new {what}", "flat")


def into_s(moment: datetime) -> float:
    """How far its minute has come, in seconds."""
    return moment.second + moment.microsecond / 1e6


def per_minute(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 9.5 else f"{rate:.1f}".removesuffix(".0")


def count_of(number: int, one: str, many: str = "") -> str:
    """``1 letter``, ``1,696 letters``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def since(moment: datetime | None, now: datetime) -> str:
    """``02:41:07, 32 min``; with the day if it was another one."""
    if moment is None:
        return "not known"
    clock = f"{moment:%H:%M:%S}" if moment.date() == now.date() else f"{moment.day} {moment:%b %H:%M}"
    return f"{clock}, {took((now - moment).total_seconds())}"


def letters_page(**filters: str | Sequence[str]) -> str:
    """The list of dead letters, narrowed by filters of the API; several values of one are any of them."""
    return "dlq_app/deadletter/" + (f"?{urlencode(filters, doseq=True)}" if filters else "")


def group_page(fingerprint: str) -> str:
    return f"dlq_app/lettergroup/{quote(fingerprint, safe='')}/change/"


def batch_page(batch_id: str) -> str:
    return f"dlq_app/replaybatch/{quote(batch_id, safe='')}/change/"
