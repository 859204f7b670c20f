"""Fill in facets, and groups by rule, of letters from before a change of a policy, and the progress of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection

from dlq_app.domain.facets import FacetPolicy
from dlq_app.domain.fingerprint import fingerprint
from dlq_app.domain.group_rules import GroupPolicy
from dlq_app.domain.letter_values import load_body, load_text
from dlq_app.store.mongo import FACETS, LETTERS, Document, database, patiently, translated

#: Letters of one step. They come one by one, so memory holds the bodies of few.
_CHUNK = 500
_FIELDS = {
    "messageId": 1, "type": 1, "originalMessage": 1, "versions.payload": 1, "facets": 1, "fence": 1, "closedEpoch": 1,
    "errorType": 1, "errorReason": 1, "errorStack": 1, "metadata.source": 1, "fingerprint": 1, "groupRule": 1,
}  # fmt: skip
#: Attempts for letters that others change meanwhile.
_ROUNDS = 10
#: Seconds of one step: its letters can have many megabytes.
_STEP_S = 60.0
_ID = "filled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """How far the letters are filled in for one policy."""

    #: ``FacetPolicy.digest``.
    policy: str
    #: The last message id that is done.
    after: str = ""
    read: int = 0
    changed: int = 0
    is_complete: bool = False
    at: datetime | None = None


class FacetFilling:
    """Fills in facets, a few hundred letters per step."""

    def __init__(self, letters: Collection[Document], progress: Collection[Document]) -> None:
        self._letters = letters
        self._progress = progress

    def progress(self) -> Filling | None:
        """The stored progress; None before the first run."""
        with translated():
            found = self._progress.find_one({"_id": _ID})
        if found is None:
            return None
        return Filling(
            policy=load_text(found.get("policy")),
            after=load_text(found.get("after")),
            read=int(found.get("read") or 0),
            changed=int(found.get("changed") or 0),
            is_complete=found.get("isComplete") is True,
            at=found.get("at"),
        )

    def has_letters(self) -> bool:
        with translated():
            return self._letters.find_one({}, {"_id": 1}) is not None

    def keep(self, filling: Filling) -> None:
        """Store the progress."""
        values = {
            "policy": filling.policy,
            "after": filling.after,
            "read": filling.read,
            "changed": filling.changed,
            "isComplete": filling.is_complete,
        }
        with translated():
            self._progress.update_one({"_id": _ID}, {"$set": values, "$currentDate": {"at": True}}, upsert=True)

    def forget(self) -> None:
        """No letter counts as filled in any more."""
        with translated():
            self._progress.delete_one({"_id": _ID})

    def step(self, after: str, policy: FacetPolicy, rules: GroupPolicy) -> tuple[int, int, str]:
        """Fill in the next letters after message id ``after``: numbers read and changed, the last id or ``""``.

        Can be repeated and interrupted at any point. A letter that changes meanwhile is read again.
        """
        with patiently(_STEP_S):
            read, last, waiting = self._look({"messageId": {"$gt": after}}, policy, rules)
            changed = self._write(waiting)
            for _ in range(_ROUNDS):
                if changed == len(waiting):
                    break
                # Some changed after they were read, and may have another payload now.
                _, _, left = self._look({"_id": {"$in": list(waiting)}}, policy, rules)
                changed = len(waiting.keys() - left.keys()) + self._write(left)
        return read, changed, last if read == _CHUNK else ""

    def _look(self, where: Document, policy: FacetPolicy, rules: GroupPolicy) -> tuple[int, str, dict[Any, UpdateOne]]:
        """The numbers of letters read, the last message id, and by ``_id`` the updates of letters to change."""
        read, last = 0, ""
        updates: dict[Any, UpdateOne] = {}
        for letter in self._letters.find(where, _FIELDS, batch_size=50).sort("messageId", 1).limit(_CHUNK):
            read, last = read + 1, letter["messageId"]
            wanted = {"facets": policy.of_all(_bodies(letter), load_text(letter.get("type"))), **_group(letter, rules)}
            changed = {name: value for name, value in wanted.items() if value != letter.get(name)}
            if changed:
                # A new payload or error comes with a new epoch or a new claim.
                as_read = {name: letter.get(name) for name in ("_id", "fence", "closedEpoch")}
                updates[letter["_id"]] = UpdateOne(as_read, {"$set": changed})
        return read, last, updates

    def _write(self, updates: Mapping[Any, UpdateOne]) -> int:
        return self._letters.bulk_write(list(updates.values()), ordered=False).matched_count if updates else 0


def filling() -> FacetFilling:
    """The facets of the configured database."""
    return FacetFilling(database()[LETTERS], database()[FACETS])


def _group(letter: Document, rules: GroupPolicy) -> Document:
    """The group by rule. A letter that a rule no longer matches gets the group of its error again."""
    error_type, reason, before = (load_text(letter.get(name)) for name in ("errorType", "errorReason", "groupRule"))
    metadata = letter.get("metadata")
    source = load_text(metadata.get("source")) if isinstance(metadata, dict) else ""
    rule = rules.of(error_type, reason, load_text(letter.get("type")), source)
    if rule:
        return {"fingerprint": rule.fingerprint, "groupRule": rule.name}
    if before:
        own = fingerprint(error_type, reason, load_text(letter.get("errorStack"))).value
        return {"fingerprint": own, "groupRule": ""}
    return {}


def _bodies(letter: Document) -> list[bytes]:
    versions: Any = letter.get("versions")
    edited = [version.get("payload") for version in versions or () if isinstance(version, dict)]
    return [load_body(body) for body in (letter.get("originalMessage"), *edited)]
