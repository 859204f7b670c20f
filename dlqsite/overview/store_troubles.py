"""What the verdict says of stores, of the disk, and of who works on the lanes. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from dlqsite.overview.situation import LossSight, ProblemSight, Sight
from dlqsite.overview.trouble import Answer, Link, Trouble, answers, count_of, since

#: Problems that another sentence tells better.
AWAY: Final = frozenset({"away"})
#: What follows when a part does not do its work: a sentence, how many are concerned, what happens by itself.
_CONSEQUENCES: Final = {
    "redis": (
        "Submissions are refused with 503, and nothing is processed. Accepted messages are kept.",
        "All new messages", "Everything tries again",
    ),
    "mongodb": (
        "Messages are accepted, processed and retried as always. Deaths wait in Redis, and replays do not start.",
        "All dead letters", "Deaths move over",
    ),
    "database": ("Keys and sessions cannot be checked: most requests are refused.", "Most requests", "Nothing"),
    "workers": ("Messages are accepted and kept, and nobody processes them.", "All messages", "They run again"),
    "disk": ("", "See health", "Nothing"),
}  # fmt: skip


def redis_away(sight: Sight, moment: datetime) -> Trouble:
    return Trouble(
        "bad", "db", "Redis does not answer. Nothing can be accepted or processed.",
        "Submissions are refused with 503 until it returns. What was accepted is in its append-only file.",
        answers=answers(
            sight, since(moment, sight.now), "All new messages", "Everything tries again",
            "Bring Redis back", "manage.py doctor tells what is wrong with it",
            many_more="waiting ones are safe", by_itself_more="web and workers go on when it answers",
            worse=Answer("Getting worse?", "Callers see 503", "their repetitions are safe: the id decides"),
        ),
        links=(Link("Health", "#health"),),
    )  # fmt: skip


def lost(sight: Sight, loss: LossSight) -> Trouble:
    is_ledger, store = loss.store == "redis", {"redis": "Redis", "mongodb": "MongoDB"}[loss.store]
    fell = f"{store} fell back to an earlier state" if loss.since else f"{store} was emptied or replaced"
    if not is_ledger:
        missing = "dead letters may be missing"
    elif loss.missing:
        missing = f"about {count_of(loss.missing, 'accepted message')} {'is' if loss.missing == 1 else 'are'} missing"
    else:
        missing = f"{count_of(loss.moves, 'claim or outcome', 'claims and outcomes')} are missing"
    began = f"{loss.since:%H:%M:%S}" if loss.since else "the beginning"
    again = f" --since {loss.since:%Y-%m-%dT%H:%M:%SZ}" if loss.since else " --since 24h"
    return Trouble(
        "bad", "db", f"{fell}: {missing}.", loss.sentence,
        answers=answers(
            sight, f"{began} to {loss.until:%H:%M:%S} UTC",
            f"about {count_of(loss.missing, 'message' if is_ledger else 'outcome')}",
            "Nothing", "Find out why, then acknowledge it" if is_ledger else "Bring the letters again",
            "clients submit again, with the same ids, what was accepted in that time" if is_ledger
            else f"manage.py bring_again{again}, then acknowledge",
            since_more=f"{loss.until.day} {loss.until:%b %Y}",
            many_more=f"{loss.open:,} had not ended" if is_ledger else "manage.py doctor compares",
            by_itself_more="this stays until a person acknowledges it",
            worse=Answer("Getting worse?", "No", "what is accepted now is kept"),
        ),
        links=(Link("Acknowledge", "messages_app/message/#losses"), Link("Health", "#health")),
    )  # fmt: skip


def lacking(sight: Sight) -> Trouble:
    outcomes = count_of(sight.lacking, "outcome")
    again = f"{sight.lacking_since:%Y-%m-%dT%H:%M:%SZ}" if sight.lacking_since else "24h"
    return Trouble(
        "bad", "db", f"The dead letters lack at least {outcomes}.",
        "Redis remembers deaths that have no letter, or replays that ended well and whose letter waits.",
        answers=answers(
            sight, since(sight.lacking_since, sight.now), f"at least {outcomes}", "Nothing", "Bring them again",
            f"manage.py bring_again --since {again}", many_more="found by comparing samples, each minute",
            by_itself_more="Redis forgets them 24 hours after they were recorded (RECORD_TTL_S)",
            worse=Answer("Getting worse?", "Yes, with time", "what Redis forgets cannot be brought again"),
        ),
        links=(Link("Health", "#health"),),
    )  # fmt: skip


#: Problems that harm the data as long as they last, though all goes on.
_HARM = frozenset({"unique_index"})


def problem_trouble(sight: Sight, problem: ProblemSight) -> Trouble:
    do, _, do_more = problem.fix.partition(". ")
    lead, many, by_itself = _CONSEQUENCES[problem.part] if problem.stops else ("", "See health", "Nothing")
    icon = {"workers": "octx", "disk": "tri"}.get(problem.part, "db")
    is_bad = problem.stops or problem.code in _HARM
    return Trouble(
        "bad" if is_bad else "warn", icon if is_bad else "tri", problem.what, lead,
        answers=answers(
            sight, since(problem.since, sight.now), many, by_itself, do.rstrip("."), do_more,
            since_more="as far as this process has seen",
            by_itself_more="once the cause is gone" if problem.stops else "",
            worse=Answer("Getting worse?", "Callers see 503", "their repetitions are safe: the id decides")
            if problem.stops and problem.part == "redis" else None,
        ),
        links=(Link("Health", "#health"),),
    )  # fmt: skip


def unwell(sight: Sight) -> list[Trouble]:
    """Checks that are not healthy and that no other sentence is about: never is all said to be quiet."""
    return [
        Trouble("warn", "tri", f"Health is degraded: {name}.", detail, links=(Link("Health", "#health"),))
        for name, detail in sight.unwell.items()
    ]


def mongodb_away(sight: Sight, moment: datetime) -> Trouble:
    return Trouble(
        "bad", "db", "MongoDB does not answer. No letter is lost.",
        "Messages are accepted, processed and retried as always. Dead letters can be neither listed nor replayed.",
        answers=answers(
            sight, since(moment, sight.now), f"{count_of(sight.outbox, 'outcome')} in Redis",
            "They move over", "Bring MongoDB back", "manage.py doctor tells what is wrong with it",
            many_more="waiting to be recorded", by_itself_more="within 15 s of its return",
        ),
        links=(Link("Messages", "messages_app/message/"), Link("Health", "#health")),
    )  # fmt: skip
