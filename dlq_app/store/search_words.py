"""Update the search words of letters from earlier versions and masking policies."""

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
    """One step: the numbers of letters read and changed, and the last message id; empty after the last letter."""

    read: int
    changed: int
    last: str


class SearchWords:
    """Updates the search words of stored letters, a thousand letters per step."""

    _letters: Collection[Document]

    def refresh_words(self, after: str, masking: MaskingPolicy) -> Refreshed:
        """Update the words of the next letters after message id ``after``.

        Can be repeated and interrupted at any point. A letter whose error changes meanwhile keeps the words of the
        change. Raises ``StoreUnavailable``.
        """
        with translated():
            found = list(self._letters.find({"messageId": {"$gt": after}}, _FIELDS).sort("messageId", 1).limit(_CHUNK))
            updates = []
            for letter in found:
                error_type, reason = letter.get("errorType"), letter.get("errorReason")
                if not isinstance(error_type, str) or not isinstance(reason, str):
                    continue  # not a letter
                words = error_words(error_type, reason, masking)
                if words != letter.get("searchWords"):
                    as_read = {"_id": letter["_id"], "errorType": error_type, "errorReason": reason}
                    updates.append(UpdateOne(as_read, {"$set": {"searchWords": words}}))
            changed = self._letters.bulk_write(updates, ordered=False).modified_count if updates else 0
        return Refreshed(len(found), changed, found[-1]["messageId"] if len(found) == _CHUNK else "")
