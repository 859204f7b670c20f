"""Rebuild the search words of letters from earlier versions and policies."""

from __future__ import annotations

from dataclasses import dataclass

from pymongo import UpdateOne
from pymongo.collection import Collection

from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.search_terms import error_words
from dlq_app.store.mongo import Document, translated

_CHUNK = 1000
_FIELDS = {"messageId": 1, "errorType": 1, "errorReason": 1, "searchWords": 1}


@dataclass(frozen=True, slots=True)
class Refreshed:
    """One step: how many letters it read and changed, and the last message id; empty when there are no more."""

    read: int
    changed: int
    last: str


class SearchWords:
    """Brings the words of stored letters up to date, a thousand letters a step."""

    _letters: Collection[Document]

    def refresh_words(self, after: str, masking: MaskingPolicy) -> Refreshed:
        """Rebuild the search words of the next letters after message id ``after``.

        May be repeated and interrupted anywhere. A letter whose error changes meanwhile keeps the words that came with
        the change. Raises ``StoreUnavailable``.
        """
        with translated():
            found = list(self._letters.find({"messageId": {"$gt": after}}, _FIELDS).sort("messageId", 1).limit(_CHUNK))
            updates = []
            for letter in found:
                error_type, reason = letter.get("errorType"), letter.get("errorReason")
                if not isinstance(error_type, str) or not isinstance(reason, str):
                    continue  # a document that is no letter
                words = error_words(error_type, reason, masking)
                if words != letter.get("searchWords"):
                    as_read = {"_id": letter["_id"], "errorType": error_type, "errorReason": reason}
                    updates.append(UpdateOne(as_read, {"$set": {"searchWords": words}}))
            changed = self._letters.bulk_write(updates, ordered=False).modified_count if updates else 0
        return Refreshed(len(found), changed, found[-1]["messageId"] if len(found) == _CHUNK else "")
