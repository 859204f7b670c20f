"""Write deaths and successful replays to letters, guarded by epoch: a repetition changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from bson import Int64
from bson.errors import BSONError
from pymongo import InsertOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, WriteError

from dlq_app import conf
from dlq_app.domain.errors import NotStorable, StoreUnavailable
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
    minimal,
    stored_body,
)
from dlq_app.store.many import changed_by, longer, of_this_letter
from dlq_app.store.mongo import Document, by_key

_DUPLICATE_KEY = 11000
#: Temporary errors, which are retried: a new primary, a write conflict, a timeout, a full disk.
_PASSING = frozenset(
    {6, 7, 24, 46, 50, 89, 91, 112, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031}
)  # fmt: skip
#: The update of one letter by one outcome.
Update = UpdateOne
#: The server rejects a whole command because of one document that is too large, too deep or malformed.
_MALFORMED = frozenset({15, 22, 10334, 17419, 17420})
#: Errors that the driver raises before sending: the document can never be stored in this form.
_UNSTORABLE = (DocumentTooLarge, BSONError, OverflowError, UnicodeEncodeError, RecursionError)


@dataclass(frozen=True, slots=True)
class Inserted:
    """The result of inserting letters, by position."""

    #: The message already has a letter.
    existing: frozenset[int]
    #: Position → why MongoDB can never store it.
    refused: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a bulk of updates."""

    #: Whether every update found its letter as it was read. If not, read the letters again.
    all_matched: bool
    #: Position → why MongoDB can never store it.
    refused: Mapping[int, str]


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


_STATE = {
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


class Outcomes:
    """Writes outcomes. A repetition with the same epoch changes nothing."""

    _letters: Collection[Document]
    _many: Collection[Document]

    def dead_letter_new(self, letters: Sequence[Document]) -> Inserted:
        """Insert letters of messages that have none. A document that cannot be stored does not stop the others."""
        requests = [InsertOne(letter) for letter in letters]
        failures = self._bulk(requests)
        existing = {i for i, code, _ in failures if code == _DUPLICATE_KEY}
        refused: dict[int, str] = {}
        for position, code, why in failures:
            if code != _DUPLICATE_KEY:
                again = self._bulk([InsertOne(minimal(letters[position]))])
                if again and again[0][1] == _DUPLICATE_KEY:
                    existing.add(position)
                elif again:
                    refused[position] = why
        return Inserted(frozenset(existing), refused)

    def letter_states(self, message_ids: Iterable[str], *, with_body: bool) -> dict[str, LetterState]:
        """The states of the letters of these messages; messages without a letter are absent."""
        wanted = {"$in": sorted(set(message_ids))}
        fields = {**_STATE, "originalMessage": 1} if with_body else _STATE
        with by_key():
            found = list(self._letters.find({"messageId": wanted}, fields))
        return {document["messageId"]: _letter_state(document) for document in found}

    def write(self, updates: Sequence[UpdateOne]) -> Written:
        """Apply the updates that ``death_update`` and ``settle_update`` built, each on its own."""
        matched = [0]
        failures = self._bulk(list(updates), matched)
        refused = {position: why for position, _, why in failures}
        return Written(all_matched=matched[0] + len(refused) == len(updates), refused=refused)

    def settle_many(self, settles: Sequence[tuple[Settled, LetterState]], now: datetime) -> bool | None:
        """Resolve letters whose replays succeeded, in one update; whether all were found as read.

        One update of many letters costs the server half as much as one update for each. False: a letter has changed
        since it was read, so read them again. None: one of them cannot be changed; write each alone to find out which.
        """
        if not settles:
            return True
        where, change = settle_update(settles, now)
        try:
            with by_key():
                return self._many.update_many(where, change, hint="_id_").matched_count == len(settles)
        except NotStorable:
            return None
        except StoreUnavailable as unavailable:
            cause = unavailable.__cause__
            if isinstance(cause, WriteError) and cause.code not in _PASSING:
                return None
            if isinstance(cause, OperationFailure) and cause.code in _MALFORMED:
                return None
            raise

    def _bulk(
        self, requests: Sequence[InsertOne[Document] | UpdateOne], matched: list[int] | None = None
    ) -> list[tuple[int, int, str]]:
        """Run requests unordered; returns (position, code, reason) of those that can never be stored."""
        if not requests:
            return []
        try:
            with by_key():
                try:
                    result = self._many.bulk_write(requests, ordered=False)
                except (*_UNSTORABLE, OperationFailure) as error:
                    if isinstance(error, OperationFailure) and error.code not in _MALFORMED:
                        raise
                    if len(requests) == 1:
                        return [(0, 0, f"{type(error).__name__}: {error}"[:300])]
                    # The whole bulk was rejected because of one document: run each alone to find out which.
                    return self._one_by_one(requests, matched)
            if matched is not None:
                matched[0] += result.matched_count
        except StoreUnavailable as unavailable:
            cause = unavailable.__cause__
            if not isinstance(cause, BulkWriteError) or cause.details.get("writeConcernErrors"):
                raise
            if matched is not None:
                matched[0] += cause.details["nMatched"]
            failures = cause.details["writeErrors"]
            if any(failure["code"] in _PASSING for failure in failures):
                raise
            return [(failure["index"], failure["code"], failure["errmsg"][:300]) for failure in failures]
        return []

    def _one_by_one(
        self, requests: Sequence[InsertOne[Document] | UpdateOne], matched: list[int] | None
    ) -> list[tuple[int, int, str]]:
        failures = []
        for position, request in enumerate(requests):
            failures += [(position, code, why) for _, code, why in self._bulk([request], matched)]
        return failures


def death_update(death: Death, state: LetterState, placement: Placement, now: datetime) -> tuple[UpdateOne, str]:
    """The update for a death of a message that has a letter: of a replay, or of a new message with the same id.

    Also returns the outcome of the replay: ``failed_same`` or ``failed_new``.

    The filter requires the letter's ``closedEpoch`` as read and a fence not newer than the death, so this moves a
    letter once per epoch and never overwrites a newer claim. Open attempts of older epochs end as ``superseded``.
    """
    is_replay = death.replay_id is not None
    errors = error_fields(death, conf.masking_policy())
    outcome = "failed_same" if errors["fingerprint"] == state.fingerprint else "failed_new"
    automatic = is_replay and state.kind_of(death.epoch) == "auto"
    verb = _verb(state.status, placement.status, is_replay)
    changed: Document = {
        **errors,
        "dlqRetryCount": state.dlq_retry_count + automatic if is_replay else 0,
        "status": placement.status.value,
        "strategy": placement.strategy.value,
        "nextRetryAt": placement.next_retry_at,
        "updatedAt": now,
        "closedEpoch": death.epoch,
        "fence": max(state.fence, death.epoch),
        "priorRuns": documents.prior_runs(death),
        "replayAttempts.$[mine].outcome": outcome,
        "replayAttempts.$[mine].endedAt": death.died_at,
        "replayAttempts.$[mine].errorType": errors["errorType"],
        "replayAttempts.$[mine].errorReason": errors["errorReason"][:1000],
        "replayAttempts.$[old].outcome": "superseded",
        "replayAttempts.$[old].endedAt": death.died_at,
    }
    pushed: Document = {
        "attempts": {"$each": attempt_entries(death.attempts, death.epoch), "$slice": -KEPT_ATTEMPTS},
        "history": _history(now, verb, death.error_type),
    }
    if is_replay:
        changed["metadata.systemState"] = documents.storable(death.system_state)
        changed["lastReplay"] = {"at": death.died_at, "outcome": outcome}
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
    update = UpdateOne(
        _guard(state, death.epoch),
        {
            "$set": changed,
            "$push": pushed,
            "$unset": {"replay": "", "resolution": "", "resolvedAt": ""},
        },
        array_filters=_attempts_of(death.epoch),
    )
    return update, outcome


def settle_update(settles: Sequence[tuple[Settled, LetterState]], now: datetime) -> tuple[Document, Sequence[Document]]:
    """Filter and change that resolve letters whose replays succeeded, unless a letter has a newer outcome or claim."""
    for _, state in settles:
        require(Verb.RESOLVE, state.status or Status.PROCESSING, Status.RESOLVED)
    ids = [state.raw["_id"] for _, state in settles]
    given = of_this_letter(
        ids,
        [
            {
                "closedEpoch": state.raw.get("closedEpoch"),
                "fence": state.raw.get("fence"),
                "epoch": Int64(settled.epoch),
                "at": settled.finished_at,
                "attempts": attempt_entries(settled.attempts, settled.epoch),
            }
            for settled, state in settles
        ],
    )
    # As ``_guard``. A missing field reads as null.
    guard = [
        {"$eq": [{"$ifNull": ["$closedEpoch", None]}, "$$given.closedEpoch"]},
        {
            "$cond": [
                {"$isNumber": "$fence"},
                {"$lte": ["$fence", "$$given.epoch"]},
                {"$eq": [{"$ifNull": ["$fence", None]}, "$$given.fence"]},
            ]
        },
    ]
    where: Document = {
        "_id": {"$in": ids},
        "$expr": {"$let": {"vars": {"given": given}, "in": {"$and": guard}}},
    }
    is_open = {"$eq": [{"$ifNull": ["$$one.outcome", None]}, None]}

    def ended(outcome: str, comparison: str) -> Document:
        has_epoch = {"$and": [is_open, {"$isNumber": "$$one.epoch"}, {comparison: ["$$one.epoch", "$$given.epoch"]}]}
        return {"case": has_epoch, "then": {"$mergeObjects": ["$$one", {"outcome": outcome, "endedAt": "$$given.at"}]}}

    ends = {"$switch": {"branches": [ended("succeeded", "$eq"), ended("superseded", "$lt")], "default": "$$one"}}
    changed = {
        "status": Status.RESOLVED.value,
        "resolution": Resolution.REPLAYED.value,
        # The server's clock: retention counts from here.
        "resolvedAt": "$$NOW",
        "nextRetryAt": None,
        "updatedAt": now,
        "closedEpoch": "$$given.epoch",
        "fence": "$$given.epoch",
        "lastReplay": {"at": "$$given.at", "outcome": "succeeded"},
        "replayAttempts": {
            "$map": {"input": {"$ifNull": ["$replayAttempts", []]}, "as": "one", "in": ends},
        },
        "attempts": longer("attempts", "$$given.attempts", KEPT_ATTEMPTS),
        "history": longer(
            "history",
            {"$literal": [history_entry(now, "system", Verb.RESOLVE, "the replay succeeded")]},
            KEPT_HISTORY,
        ),
    }
    return where, [changed_by(given, changed), {"$unset": "replay"}]


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


def _letter_state(document: Document) -> LetterState:
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
