"""Write deaths and ends of replays to letters, guarded by epoch: a repetition changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bson.errors import BSONError
from pymongo import InsertOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, WriteError

from dlq_app.domain.errors import NotStorable, StoreUnavailable
from dlq_app.domain.letter import Settled
from dlq_app.store.documents import minimal
from dlq_app.store.mongo import Document, by_key
from dlq_app.store.outcome_updates import (
    STATE_FIELDS,
    LetterState,
    PlacedDeath,
    fail_update,
    letter_state,
    settle_update,
)

_DUPLICATE_KEY = 11000
#: Temporary errors, which are retried: a new primary, a write conflict, a timeout, a full disk.
_PASSING = frozenset(
    {6, 7, 24, 46, 50, 89, 91, 112, 134, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031}
)  # fmt: skip
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
        fields = {**STATE_FIELDS, "originalMessage": 1} if with_body else STATE_FIELDS
        with by_key():
            found = list(self._letters.find({"messageId": wanted}, fields))
        return {document["messageId"]: letter_state(document) for document in found}

    def write(self, updates: Sequence[UpdateOne]) -> Written:
        """Apply updates of ``outcome_updates``, each on its own."""
        matched = [0]
        failures = self._bulk(list(updates), matched)
        refused = {position: why for position, _, why in failures}
        return Written(all_matched=matched[0] + len(refused) == len(updates), refused=refused)

    def settle_many(self, settles: Sequence[Settled], now: datetime) -> int | None:
        """Resolve letters whose replays succeeded, in one update that needs no read; return how many it resolved.

        At most one outcome for a message. Letters that are gone, have the outcome or a newer claim are left. None: one
        of them cannot be changed; write each alone to find out which. One update of many letters costs the server half
        as much as one update for each.
        """
        return self._update_together(*settle_update(settles, now))

    def fail_many(self, failed: Sequence[PlacedDeath], now: datetime) -> bool | None:
        """Record failed replays in one update; False: a letter has changed since it was read. None as above."""
        if not failed:
            return True
        matched = self._update_together(*fail_update(failed, now))
        return None if matched is None else matched == len(failed)

    def _update_together(self, where: Document, change: Sequence[Document]) -> int | None:
        try:
            with by_key():
                return self._many.update_many(where, change).matched_count
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
