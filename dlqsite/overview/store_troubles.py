"""What the verdict says of stores, of the disk, and of who works on the lanes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from dlq_app.domain.store_problem import StoreProblem
from dlqsite.overview.trouble import Answer, Link, Trouble, answers, count_of, since

if TYPE_CHECKING:
    from dlqsite.overview.snapshot import Overview

#: Problems that another sentence tells better.
AWAY: Final = frozenset({"away"})
#: What follows when a part does not do its work: a sentence, how many are concerned, what happens by itself.
_CONSEQUENCES: Final = {
    "redis": (
        "Submissions are rejected with 503, and nothing is processed. Accepted messages are kept.",
        "All new messages", "Clients and processes retry",
    ),
    "mongodb": (
        "Messages are accepted, processed and retried as usual. "
        "New dead letters wait in Redis, and replays do not start.",
        "All dead letters", "They are recorded",
    ),
    "database": ("Keys and sessions cannot be checked: most requests are rejected.", "Most requests", "Nothing"),
    "workers": ("Messages are accepted and kept, but not processed.", "All messages", "They run again"),
    "disk": ("", "See health", "Nothing"),
}  # fmt: skip


def redis_away(o: Overview) -> Trouble:
    return Trouble(
        "bad", "db", "Redis does not answer. Nothing can be accepted or processed.",
        "Submissions are rejected with 503 until it is back. Accepted messages are in its append-only file.",
        answers=answers(
            o, since(o.ledger.away_since, o.as_of), "All new messages", "Clients and processes retry",
            "Start Redis", "manage.py doctor shows what is wrong",
            many_more="waiting ones are safe", by_itself_more="web and workers continue when it answers",
            worse=Answer("Getting worse?", "Callers see 503", "retries with the same id are safe"),
        ),
        links=(Link("Health", "#health"),),
    )  # fmt: skip


def lost(o: Overview, loss: Mapping[str, Any]) -> Trouble:
    """``loss``: as health reports it."""
    is_ledger, store = loss["store"] == "redis", {"redis": "Redis", "mongodb": "MongoDB"}[loss["store"]]
    begun = datetime.fromisoformat(loss["from"]) if loss["from"] else None
    until, number = datetime.fromisoformat(loss["to"]), loss["missing"]
    fell = f"{store} fell back to an earlier state" if begun else f"{store} was emptied or replaced"
    if not is_ledger:
        missing = "dead letters may be missing"
    elif number:
        missing = f"about {count_of(number, 'accepted message')} {'is' if number == 1 else 'are'} missing"
    else:
        missing = f"{count_of(loss['moves'], 'claim or outcome', 'claims and outcomes')} are missing"
    again = f" --since {begun:%Y-%m-%dT%H:%M:%SZ}" if begun else " --since 24h"
    return Trouble(
        "bad", "db", f"{fell}: {missing}.", loss["sentence"],
        answers=answers(
            o, f"{f'{begun:%H:%M:%S}' if begun else 'the beginning'} to {until:%H:%M:%S} UTC",
            f"about {count_of(number, 'message' if is_ledger else 'outcome')}",
            "Nothing", "Find out why, then acknowledge it" if is_ledger else "Record the outcomes again",
            "clients must resubmit the messages of that time, with the same ids" if is_ledger
            else f"manage.py bring_again{again}, then acknowledge",
            since_more=f"{until.day} {until:%b %Y}",
            many_more=f"{loss['open']:,} had not finished" if is_ledger else "manage.py doctor compares",
            by_itself_more="this stays until a user acknowledges it",
            worse=Answer("Getting worse?", "No", "newly accepted messages are kept"),
        ),
        links=(Link("Acknowledge", "messages_app/message/#losses"), Link("Health", "#health")),
    )  # fmt: skip


def lacking(o: Overview) -> Trouble:
    facts = o.facts("letters")
    outcomes = count_of(facts["lacking"], "outcome")
    begun = datetime.fromisoformat(facts["since"]) if facts.get("since") else None
    again = f"{begun:%Y-%m-%dT%H:%M:%SZ}" if begun else "24h"
    return Trouble(
        "bad", "db", f"At least {outcomes} missing from the dead letters.",
        "Redis has records of failures without a letter, or of successful replays whose letter is still open.",
        answers=answers(
            o, since(begun, o.as_of), f"at least {outcomes}", "Nothing", "Record them again",
            f"manage.py bring_again --since {again}", many_more="found by comparing samples, each minute",
            by_itself_more="Redis deletes them 24 hours after they were recorded (RECORD_TTL_S)",
            worse=Answer("Getting worse?", "Yes, with time", "deleted records cannot be restored"),
        ),
        links=(Link("Health", "#health"),),
    )  # fmt: skip


#: Problems that harm the data as long as they last, though all goes on.
_HARM = frozenset({"unique_index"})


def problem_trouble(o: Overview, problem: StoreProblem, begun: datetime) -> Trouble:
    do, _, do_more = problem.fix.partition(". ")
    lead, many, by_itself = _CONSEQUENCES[problem.part] if problem.stops else ("", "See health", "Nothing")
    icon = {"workers": "octx", "disk": "tri"}.get(problem.part, "db")
    is_bad = problem.stops or problem.code in _HARM
    return Trouble(
        "bad" if is_bad else "warn", icon if is_bad else "tri", problem.what, lead,
        answers=answers(
            o, since(begun, o.as_of), many, by_itself, do.rstrip("."), do_more,
            since_more="first seen by this process",
            by_itself_more="once the cause is gone" if problem.stops else "",
            worse=Answer("Getting worse?", "Callers see 503", "retries with the same id are safe")
            if problem.stops and problem.part == "redis" else None,
        ),
        links=(Link("Health", "#health"),),
    )  # fmt: skip


def unhealthy_checks(o: Overview) -> list[Trouble]:
    """Checks that are not healthy and that no other sentence is about: never is all said to be quiet."""
    return [
        Trouble("warn", "tri", f"Health is degraded: {name}.", detail, links=(Link("Health", "#health"),))
        for name, detail in o.unhealthy_checks.items()
    ]


def mongodb_away(o: Overview) -> Trouble:
    waiting = o.ledger.value.outbox if o.ledger.value else 0
    return Trouble(
        "bad", "db", "MongoDB does not answer. No letter is lost.",
        "Messages are accepted, processed and retried as usual. Dead letters can be neither listed nor replayed.",
        answers=answers(
            o, since(o.letters.away_since, o.as_of), f"{count_of(waiting, 'outcome')} in Redis",
            "They are recorded", "Start MongoDB", "manage.py doctor shows what is wrong",
            many_more="waiting to be recorded", by_itself_more="within 15 s of its return",
        ),
        links=(Link("Messages", "messages_app/message/"), Link("Health", "#health")),
    )  # fmt: skip
