"""Updates that write deaths and ends of replays to letters, each guarded by epoch. ``outcomes`` sends them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bson import Int64
from pymongo import UpdateOne

from dlq_app import conf
from dlq_app.domain.letter import KEPT_ATTEMPTS, Death, Settled
from dlq_app.domain.letter_values import load_body, load_number
from dlq_app.domain.replay_policy import Placement
from dlq_app.domain.states import Resolution, Status, Verb, require
from dlq_app.domain.strategies import Strategy
from dlq_app.store import documents
from dlq_app.store.documents import (
    KEPT_FORMER,
    KEPT_HISTORY,
    attempt_entries,
    error_fields,
    history_entry,
    message_fields,
    stored_body,
)
from dlq_app.store.many import changed_by, longer, of_this_letter
from dlq_app.store.mongo import Document

#: The update of one letter by one outcome.
Update = UpdateOne


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterState:
    """The fields of a letter that decide about an outcome. Numbers of another type read as 0."""

    message_id: str
    closed_epoch: int
    fence: int
    status: Status | None
    strategy: str
    fingerprint: str
    dlq_retry_count: int
    came_from: str
    kinds: Mapping[int, str]
    body: bytes
    last_failed_at: Any
    raw: Document = field(repr=False)

    def has(self, epoch: int) -> bool:
        """Whether the letter has this epoch's outcome or a newer one, or belongs to a newer claim."""
        return self.closed_epoch >= epoch or self.fence > epoch

    def kind_of(self, epoch: int) -> str:
        """``operator``, ``auto`` or ``batch``: the kind of the replay with this epoch; empty if unknown."""
        return self.kinds.get(epoch, "")

    @property
    def was_set_aside(self) -> bool:
        """Whether the claimed letter was set aside although its error allows automatic replays."""
        return self.came_from == Status.MANUAL and self.strategy != Strategy.MANUAL


#: What ``letter_state`` needs of a letter.
STATE_FIELDS = {
    "messageId": 1,
    "closedEpoch": 1,
    "fence": 1,
    "status": 1,
    "strategy": 1,
    "fingerprint": 1,
    "dlqRetryCount": 1,
    "replay": 1,
    "replayAttempts.epoch": 1,
    "replayAttempts.kind": 1,
    "lastFailedAt": 1,
}


@dataclass(frozen=True, slots=True)
class PlacedDeath:
    """A death of a message that has a letter: the letter as it was read, and what the death changes in it."""

    death: Death
    state: LetterState
    #: The fields that every death sets.
    changed: Document
    verb: Verb
    #: ``failed_same`` or ``failed_new``: how the replay ended, if it was one.
    outcome: str

    @property
    def end(self) -> Document:
        """What it changes in the replay that it ended."""
        return {
            "outcome": self.outcome,
            "endedAt": self.death.died_at,
            "errorType": self.changed["errorType"],
            "errorReason": self.changed["errorReason"][:1000],
        }


def place_death(death: Death, state: LetterState, placement: Placement, now: datetime) -> PlacedDeath:
    is_replay = death.replay_id is not None
    errors = error_fields(death, conf.masking_policy())
    automatic = is_replay and state.kind_of(death.epoch) == "auto"
    changed = {
        **errors,
        "dlqRetryCount": state.dlq_retry_count + automatic if is_replay else 0,
        "status": placement.status.value,
        "strategy": placement.strategy.value,
        "nextRetryAt": placement.next_retry_at,
        "updatedAt": now,
        "closedEpoch": death.epoch,
        "fence": max(state.fence, death.epoch),
        "priorRuns": documents.prior_runs(death),
    }
    verb = _verb(state.status, placement.status, is_replay)
    outcome = "failed_same" if errors["fingerprint"] == state.fingerprint else "failed_new"
    return PlacedDeath(death, state, changed, verb, outcome)


def death_update(placed: PlacedDeath, now: datetime) -> UpdateOne:
    """The update for one death, of a replay or of a new message with the same id.

    The filter requires the letter's ``closedEpoch`` as read and a fence not newer than the death, so this moves a
    letter once per epoch and never overwrites a newer claim. Open attempts of older epochs end as ``superseded``.
    """
    death, state = placed.death, placed.state
    changed: Document = {
        **placed.changed,
        **{f"replayAttempts.$[mine].{name}": value for name, value in placed.end.items()},
        "replayAttempts.$[old].outcome": "superseded",
        "replayAttempts.$[old].endedAt": death.died_at,
    }
    pushed: Document = {
        "attempts": {"$each": attempt_entries(death.attempts, death.epoch), "$slice": -KEPT_ATTEMPTS},
        "history": _history(now, placed.verb, death.error_type),
    }
    if death.replay_id is not None:
        changed["metadata.systemState"] = documents.storable(death.system_state)
        changed["lastReplay"] = {"at": death.died_at, "outcome": placed.outcome}
    else:
        # A replay does not change these: the retries that the message itself used are kept.
        changed |= message_fields(death)
        if state.body != death.body:
            former = {
                "originalMessage": stored_body(state.body),
                "lastFailedAt": state.last_failed_at,
                "until": now,
            }
            pushed["formerMessages"] = {"$each": [former], "$slice": -KEPT_FORMER}
    return UpdateOne(
        _guard(state, death.epoch),
        {
            "$set": changed,
            "$push": pushed,
            "$unset": {"replay": "", "resolution": "", "resolvedAt": ""},
        },
        array_filters=_attempts_of(death.epoch),
    )


def fail_update(failed: Sequence[PlacedDeath], now: datetime) -> tuple[Document, Sequence[Document]]:
    """Filter and change of many failed replays together; for each letter the same as ``death_update``."""
    names = [one.death.message_id for one in failed]
    as_read = of_this_letter(names, [_as_read(one) for one in failed], by="$messageId")
    # As ``_guard``. A missing field reads as null.
    guard = [
        {"$eq": [{"$ifNull": ["$closedEpoch", None]}, "$$given.closedEpoch"]},
        {
            "$cond": [
                {"$isNumber": "$$given.fence"},
                {"$and": [{"$isNumber": "$fence"}, {"$lte": ["$fence", "$$given.epoch"]}]},
                {"$eq": [{"$ifNull": ["$fence", None]}, "$$given.fence"]},
            ]
        },
    ]
    where = {"messageId": {"$in": names}, "$expr": {"$let": {"vars": {"given": as_read}, "in": {"$and": guard}}}}
    given = of_this_letter(names, [_of_failed(one, now) for one in failed], by="$messageId")
    changed = {
        "metadata": {"$mergeObjects": ["$metadata", {"systemState": "$$given.systemState"}]},
        "replayAttempts": _ended_attempts(),
        "attempts": longer("attempts", "$$given.attempts", KEPT_ATTEMPTS),
        "history": longer("history", "$$given.history", KEPT_HISTORY),
    }
    return where, [
        changed_by(given, changed, "$$given.changed"),
        {"$unset": ["replay", "resolution", "resolvedAt"]},
    ]


def _as_read(placed: PlacedDeath) -> Document:
    raw = placed.state.raw
    return {"closedEpoch": raw.get("closedEpoch"), "fence": raw.get("fence"), "epoch": Int64(placed.death.epoch)}


def _of_failed(placed: PlacedDeath, now: datetime) -> Document:
    """The values of a failed replay that differ from letter to letter."""
    death = placed.death
    return {
        "epoch": Int64(death.epoch),
        "end": placed.end,
        "changed": {**placed.changed, "lastReplay": {"at": death.died_at, "outcome": placed.outcome}},
        "systemState": documents.storable(death.system_state),
        "attempts": attempt_entries(death.attempts, death.epoch),
        "history": [history_entry(now, "system", placed.verb, death.error_type)],
    }


def settle_update(settles: Sequence[Settled], now: datetime) -> tuple[Document, Sequence[Document]]:
    """Filter and change that resolve letters whose replays succeeded, unless a letter has a newer outcome or claim.

    Needs nothing of the letters: the move is allowed from every status, and the filter is ``not LetterState.has``.
    """
    names = [settled.message_id for settled in settles]
    epochs = of_this_letter(names, [{"epoch": Int64(settled.epoch)} for settled in settles], by="$messageId")
    guard = [
        {"$lt": [_number("$closedEpoch"), "$$given.epoch"]},
        {"$lte": [_number("$fence"), "$$given.epoch"]},
    ]
    where = {"messageId": {"$in": names}, "$expr": {"$let": {"vars": {"given": epochs}, "in": {"$and": guard}}}}
    given = of_this_letter(
        names,
        [
            {
                "epoch": Int64(settled.epoch),
                "end": {"outcome": "succeeded", "endedAt": settled.finished_at},
                "attempts": attempt_entries(settled.attempts, settled.epoch),
            }
            for settled in settles
        ],
        by="$messageId",
    )
    changed = {
        "status": Status.RESOLVED.value,
        "resolution": Resolution.REPLAYED.value,
        # The server's clock: retention counts from here.
        "resolvedAt": "$$NOW",
        "nextRetryAt": None,
        "updatedAt": now,
        "closedEpoch": "$$given.epoch",
        "fence": "$$given.epoch",
        "lastReplay": {"at": "$$given.end.endedAt", "outcome": "succeeded"},
        "replayAttempts": _ended_attempts(),
        "attempts": longer("attempts", "$$given.attempts", KEPT_ATTEMPTS),
        "history": longer(
            "history",
            {"$literal": [history_entry(now, "system", Verb.RESOLVE, "the replay succeeded")]},
            KEPT_HISTORY,
        ),
    }
    return where, [changed_by(given, changed), {"$unset": "replay"}]


def _number(path: str) -> Document:
    """An expression: the number at ``path`` as ``load_number`` reads it."""
    is_number = {"$in": [{"$type": path}, ["int", "long", "double"]]}
    in_range = {"$and": [{"$gt": [path, -(2.0**63)]}, {"$lt": [path, 2.0**63]}]}
    return {"$cond": [{"$and": [is_number, in_range]}, {"$trunc": path}, 0]}


def _ended_attempts() -> Document:
    """An expression: the replays, with ``$$given.end`` in the open one of ``$$given.epoch``; older ones superseded."""
    is_open = {"$eq": [{"$ifNull": ["$$one.outcome", None]}, None]}

    def ended(comparison: str, end: Any) -> Document:
        of_epoch = {"$and": [is_open, {"$isNumber": "$$one.epoch"}, {comparison: ["$$one.epoch", "$$given.epoch"]}]}
        return {"case": of_epoch, "then": {"$mergeObjects": ["$$one", end]}}

    superseded = {"outcome": "superseded", "endedAt": "$$given.end.endedAt"}
    ends = {"$switch": {"branches": [ended("$eq", "$$given.end"), ended("$lt", superseded)], "default": "$$one"}}
    return {"$map": {"input": {"$ifNull": ["$replayAttempts", []]}, "as": "one", "in": ends}}


def _verb(before: Status | None, after: Status, is_replay: bool) -> Verb:
    verb = Verb.DEAD_LETTER
    if is_replay and before is Status.PROCESSING:
        verb = {Status.PENDING: Verb.PUT_BACK, Status.FAILED: Verb.FAIL, Status.MANUAL: Verb.HAND_OVER}[after]
    require(verb, before, after)
    return verb


def _guard(state: LetterState, epoch: int) -> Document:
    """Filter: the ``closedEpoch`` as read, and no claim newer than ``epoch``."""
    fence = state.raw.get("fence")
    return {
        "messageId": state.message_id,
        "closedEpoch": state.raw.get("closedEpoch"),
        "fence": {"$lte": epoch} if isinstance(fence, int | float) else fence,
    }


def _attempts_of(epoch: int) -> list[Mapping[str, Any]]:
    return [
        {"mine.epoch": epoch, "mine.outcome": None},
        {"old.epoch": {"$lt": epoch}, "old.outcome": None},
    ]


def _history(now: datetime, verb: Verb, why: str) -> Document:
    return {"$each": [history_entry(now, "system", verb, why)], "$slice": -KEPT_HISTORY}


def letter_state(document: Document) -> LetterState:
    status = document.get("status")
    replay = document.get("replay")
    replay = replay if isinstance(replay, dict) else {}
    entries = document.get("replayAttempts")
    kinds = {
        entry["epoch"]: str(entry.get("kind", ""))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("epoch"), int)
    }
    if isinstance(replay.get("epoch"), int):
        kinds.setdefault(replay["epoch"], str(replay.get("kind", "")))
    return LetterState(
        message_id=document["messageId"],
        closed_epoch=load_number(document.get("closedEpoch")),
        fence=load_number(document.get("fence")),
        status=Status(status) if status in list(Status) else None,
        strategy=str(document.get("strategy", "")),
        fingerprint=str(document.get("fingerprint", "")),
        dlq_retry_count=load_number(document.get("dlqRetryCount")),
        came_from=str(replay.get("from", "")),
        kinds=kinds,
        body=load_body(document.get("originalMessage")),
        last_failed_at=document.get("lastFailedAt"),
        raw=document,
    )
