"""Where a letter or a batch stands, in words: what happened to it, who did it and when. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.replay_batch import BY_BREAKER, ReplayBatch, Stage
from dlq_app.domain.states import Resolution, Status, Verb

#: What a user cannot do, by verb.
DONE: Mapping[Verb, str] = {
    Verb.RESOLVE_BY_HAND: "resolved",
    Verb.DISCARD: "discarded",
    Verb.SET_ASIDE: "set aside",
    Verb.RESUME: "returned to automatic replays",
    Verb.REOPEN: "reopened",
}
_RESOLVED: Mapping[Resolution | None, tuple[str, frozenset[str]]] = {
    Resolution.BY_HAND: ("was resolved", frozenset({Verb.RESOLVE_BY_HAND.value})),
    Resolution.DISCARDED: ("was discarded", frozenset({Verb.DISCARD.value})),
    Resolution.REPLAYED: ("was resolved by a replay that succeeded", frozenset()),
    None: ("is resolved", frozenset()),
}
_STAGES: Mapping[Stage, str] = {
    Stage.PLANNING: "is being planned",
    Stage.PLANNED: "has not started",
    Stage.CANARY: "is sending its canary",
    Stage.RUNNING: "is sending",
    Stage.PAUSED: "was paused",
    Stage.FINISHED: "has finished",
    Stage.CANCELLED: "was cancelled",
    Stage.STOPPED: "stopped automatically",
}


def person(name: str) -> str:
    """The actor of a history entry in words: ``user:olga`` is olga, ``key:shop`` the API key shop."""
    kind, _, rest = name.partition(":")
    if kind == "user" and rest:
        return rest
    if kind == "key" and rest:
        return f"the API key {rest}"
    if kind == "cli" and rest:
        return f"{rest} on the command line"
    return "the system" if name in ("", "system") else name


def standing(letter: DeadLetter) -> str:
    """A predicate for the letter: "was resolved by olga at 24 Nov 12:03:04 UTC"."""
    match letter.status:
        case Status.PROCESSING if letter.claim:
            began = f" since {_at(letter.claim.locked_at)}" if letter.claim.locked_at else ""
            return f"is being replayed for {person(letter.claim.by)}{began}"
        case Status.PROCESSING:
            return "is being replayed"
        case Status.PENDING:
            return "waits for an automatic replay"
        case Status.FAILED:
            return "has used all its automatic replays"
        case Status.RESOLVED:
            words, verbs = _RESOLVED[letter.resolution]
            return words + (_by(letter.history, verbs) or (_when(letter.resolved_at)))
    aside = letter.history[-1:] and letter.history[-1].get("what") == Verb.SET_ASIDE
    return f"was set aside{_by(letter.history, frozenset({Verb.SET_ASIDE.value}))}" if aside else "needs a decision"


def batch_standing(batch: ReplayBatch) -> str:
    """A predicate for the batch: "was cancelled by olga at 24 Nov 12:03:04 UTC"."""
    if batch.stage is Stage.PAUSED and batch.paused_by == BY_BREAKER:
        return "was paused by a circuit breaker"
    return _STAGES[batch.stage] + _by(batch.history, frozenset({batch.stage.value}))


def _by(history: Sequence[Mapping[str, Any]], verbs: frozenset[str]) -> str:
    """Who made the newest of these moves, and when; empty if it is not known."""
    entry = next((one for one in reversed(history) if one.get("what") in verbs), None)
    if entry is None:
        return ""
    name = str(entry.get("who") or "")
    return (f" by {person(name)}" if name not in ("", "system") else "") + _when(entry.get("at"))


def _when(at: object) -> str:
    return f" at {_at(at)}" if isinstance(at, datetime) else ""


def _at(at: datetime) -> str:
    return f"{at.astimezone(UTC):%-d %b %H:%M:%S} UTC"
