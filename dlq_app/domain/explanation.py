"""One sentence that explains why a letter is dead and what happens next. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from dlq_app.domain.letter import KEPT_ATTEMPTS, KEPT_REPLAYS, DeadLetter
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.domain.standing import person
from dlq_app.domain.states import Resolution, Status
from dlq_app.domain.strategies import Strategy

_NATURE = {
    "transient": "is transient",
    "permanent": "is permanent: a retry cannot help",
    "unknown": "is of unknown kind",
}


def explain(letter: DeadLetter, policy: ReplayPolicy, now: datetime) -> str:
    """The kind of error, the attempts, the replays, and what happens next, using only the letter's own data.

    "TIMEOUT_ERROR is transient; 4 of 4 attempts failed over 7.3 s; next automatic replay at 10:42 UTC (2 of 5)"
    """
    nature = f"{letter.error_type} {_NATURE.get(letter.error_kind, 'is of unknown kind')}"
    parts = [nature, _attempts(letter), _replays(letter), _next(letter, policy, now)]
    return "; ".join(part for part in parts if part)


def _first_run(letter: DeadLetter) -> int:
    """The last epoch in which the message itself ran, not a replay; 0 if unknown."""
    replayed = [entry["epoch"] for entry in letter.replay_attempts if isinstance(entry.get("epoch"), int)]
    epochs = [a["epoch"] for a in letter.attempts if isinstance(a.get("epoch"), int) and a["epoch"] not in replayed]
    if len(letter.replay_attempts) < KEPT_REPLAYS:
        return max(epochs, default=0)
    # Older replays are no longer listed, so runs before the oldest listed one can be theirs. The first run is not.
    newer = [epoch for epoch in epochs if epoch > min(replayed, default=0)]
    return max(newer) if newer else min(epochs, default=0)


def _attempts(letter: DeadLetter) -> str:
    epoch = _first_run(letter)
    own = [a for a in letter.attempts if a.get("epoch") == epoch and a.get("outcome") in ("failed", "lost")]
    if len(letter.attempts) >= KEPT_ATTEMPTS and len(own) != letter.retry_count + 1:
        # The message's own attempts are no longer all among the newest.
        return f"{letter.retry_count + 1} of {letter.retry_count + 1} attempts failed"
    lost = sum(a["outcome"] == "lost" for a in own)
    failed, tried = len(own) - lost, f"{len(own)} {_plural(len(own), 'attempt')}"
    if not own:
        return ""
    if len(own) == 1 and failed:
        text = "its only attempt failed"
    elif not lost:
        text = f"{failed} of {tried} failed"
    elif not failed:
        text = f"{lost} of {tried} {'was' if lost == 1 else 'were'} lost with the worker"
    else:
        text = f"{failed} of {tried} failed, {lost} {'was' if lost == 1 else 'were'} lost with the worker"
    span = _span(own)
    if not span:
        return text
    return f"{text} {'after' if len(own) == 1 else 'over'} {span}"


def _replays(letter: DeadLetter) -> str:
    epoch = _first_run(letter)
    ended = [
        entry
        for entry in letter.replay_attempts
        if entry.get("outcome") in ("failed_same", "failed_new") and entry.get("epoch", 0) > epoch
    ]
    if not ended:
        return ""
    of_last = f" of the last {KEPT_REPLAYS}" if len(letter.replay_attempts) >= KEPT_REPLAYS else ""
    new = sum(entry["outcome"] == "failed_new" for entry in ended)
    how = "the same way" if not new else "in another way" if new == len(ended) else f"too, {new} of them in another way"
    replays = f"{len(ended)}{of_last} replays" if of_last else f"{len(ended)} {_plural(len(ended), 'replay')}"
    return f"{replays} failed {how}"


def _next(letter: DeadLetter, policy: ReplayPolicy, now: datetime) -> str:
    match letter.status:
        case Status.PENDING:
            if letter.next_retry_at is None:
                return "no automatic replay is planned"
            nth = f"({letter.dlq_retry_count + 1} of {policy.max_automatic_replays})"
            return f"next automatic replay at {clock_of(letter.next_retry_at, now, policy.time_zone)} {nth}"
        case Status.PROCESSING:
            by = f" for {person(letter.claim.by)}" if letter.claim and letter.claim.by else ""
            return f"a replay is in progress{by}"
        case Status.FAILED:
            used = _plural(policy.max_automatic_replays, "replay")
            return f"all {policy.max_automatic_replays} automatic {used} are used: needs a decision"
        case Status.MANUAL:
            aside = letter.strategy is not Strategy.MANUAL
            return "set aside: needs a decision" if aside else "needs a decision"
        case Status.RESOLVED:
            return {
                Resolution.REPLAYED: "a replay succeeded",
                Resolution.DISCARDED: "it was discarded",
                Resolution.BY_HAND: "it was resolved by hand",
                None: "it is resolved",
            }[letter.resolution]


def _span(attempts: Sequence[Mapping[str, Any]]) -> str:
    begins = [a["startedAt"] for a in attempts if isinstance(a.get("startedAt"), datetime)]
    ends = [a["endedAt"] for a in attempts if isinstance(a.get("endedAt"), datetime)]
    if not begins or not ends:
        return ""
    seconds = (max(ends) - min(begins)).total_seconds()
    if seconds < 0:
        return ""  # the clocks of two hosts differ: no figure is better than a wrong one
    if seconds < 0.95:
        return f"{max(1000 * seconds, 1):.0f} ms" if len(attempts) == 1 else "less than 1 s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def clock_of(moment: datetime, now: datetime, zone: str) -> str:
    """The time of day in ``zone`` with the zone's short name, and the date unless it is today there."""
    try:
        local = moment.astimezone(ZoneInfo(zone))
    except OverflowError:
        local = moment  # the offset would leave the range of datetime
    suffix = "" if local.date() == now.astimezone(local.tzinfo).date() else f" on {local.date().isoformat()}"
    return f"{local:%H:%M} {local.tzname() or 'UTC'}{suffix}"


def _plural(count: int, word: str) -> str:
    return word if count == 1 else f"{word}s"
