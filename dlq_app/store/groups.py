"""Descriptions of groups, and what users decided and noted about them. One document for each fingerprint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.collection import Collection

from dlq_app.domain.fingerprint import culprit, fingerprint
from dlq_app.domain.group_states import GroupState, Said
from dlq_app.domain.letter_values import safe_text
from dlq_app.domain.owners import Owner
from dlq_app.store.mongo import LETTERS, Document, database, translated

GROUPS = "dlq_groups"
KEPT_HISTORY = 100
_SAMPLE = 500
#: Letters read at once to describe their groups: a stack may have 32 kB.
_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A user's note on a group."""

    text: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDescription:
    """The stored document of a group: its description, and what users decided and noted."""

    fingerprint: str
    error_type: str = ""
    error_kind: str = ""
    #: The error text with ``#`` for what varies.
    message: str = ""
    #: The error text of one letter.
    sample: str = ""
    #: ``payments/gateway.py:88 capture()``: application code in the stack of one letter.
    frame: str = ""
    #: When its first letter was created, even if that is deleted.
    first_seen: datetime | None = None
    said: Said | None = None
    note: Note | None = None
    #: Set by hand.
    owner: Owner | None = None
    #: ``{at, who, what, why}``, oldest first.
    history: Sequence[dict[str, Any]] = ()


class Groups:
    def __init__(self, letters: Collection[Document], groups: Collection[Document]) -> None:
        self._letters = letters
        self._groups = groups

    def described(self, fingerprints: Iterable[str]) -> dict[str, GroupDescription]:
        """The stored documents of these groups. Missing descriptions are made now from the last letter."""
        wanted = sorted(set(fingerprints))
        with translated():
            found = {document["_id"]: document for document in self._groups.find({"_id": {"$in": wanted}})}
        missing = [name for name in wanted if "message" not in found.get(name, {})]
        for begin in range(0, len(missing), _PAGE):
            found |= self._describe(missing[begin : begin + _PAGE])
        return {name: _described(document) for name, document in found.items()}

    def set_state(
        self,
        name: str,
        state: GroupState | None,
        *,
        by: str,
        reason: str,
        at: datetime,
        until: datetime | None = None,
        until_per_hour: int | None = None,
        until_count: int | None = None,
    ) -> GroupDescription:
        """Set the state ``resolved`` or ``ignored``, or with None remove it. The last call wins."""
        by, reason = safe_text(by, 200), safe_text(reason, 2000)
        change: Document = {"$unset": {"said": ""}}
        if state:
            said = {
                "state": state.value,
                "by": by,
                "reason": reason,
                "at": at,
                "until": until,
                "untilPerHour": until_per_hour,
                "untilCount": until_count,
            }
            change = {"$set": {"said": said}}
        return self._update(name, change, _entry(at, by, state.value if state else "reopened", reason))

    def set_note(self, name: str, *, by: str, note: str, at: datetime) -> GroupDescription:
        """Replace the note of a group; the old one stays in its history."""
        by, note = safe_text(by, 200), safe_text(note, 4000)
        change: Document = {"$set": {"note": {"text": note, "by": by, "at": at}}}
        return self._update(name, change, _entry(at, by, "note", note))

    def set_owner(self, name: str, owner: Owner, *, at: datetime) -> GroupDescription:
        """Replace the owner and the links that users set. Empty ones leave the rules of the policy."""
        stored = {"name": owner.name, "runbook": owner.runbook, "ticket": owner.ticket, "by": owner.by, "at": at}
        what = ", ".join(part for part in (owner.name, owner.runbook, owner.ticket) if part)
        change: Document = {"$set": {"owner": stored}} if owner else {"$unset": {"owner": ""}}
        return self._update(name, change, _entry(at, safe_text(owner.by, 200), "owner", what or "by rule"))

    def end_ignoring(self, name: str, said: Said, why: str, at: datetime) -> None:
        """Store why ignoring ended, unless a user has changed the state since."""
        where = {"_id": name, "said.state": GroupState.IGNORED.value, "said.at": said.at, "said.ended": None}
        entry = _entry(at, "system", "ignoring ended", why)
        with translated():
            self._groups.update_one(where, {"$set": {"said.ended": why}, "$push": _push(entry)})

    def ignored(self) -> dict[str, Said]:
        """The ignored groups."""
        with translated():
            found = list(self._groups.find({"said.state": GroupState.IGNORED.value, "said.ended": None}))
        return {document["_id"]: said for document in found if (said := _said(document.get("said")))}

    def delete_unused(self, kept: Sequence[str], maximum: int) -> int:
        """Delete groups that are not in ``kept`` and have no history, if there are more than ``maximum``."""
        with translated():
            if self._groups.estimated_document_count() <= maximum:
                return 0
            where = {"_id": {"$nin": list(kept)}, "history": {"$exists": False}}
            return self._groups.delete_many(where).deleted_count

    def _describe(self, names: Sequence[str]) -> dict[str, Document]:
        copied = ("errorType", "errorKind", "errorReason", "errorStack", "createdAt")
        pipeline: list[Document] = [
            {"$match": {"fingerprint": {"$in": list(names)}}},
            {"$sort": {"fingerprint": 1, "lastFailedAt": -1, "_id": -1}},
            {"$group": {"_id": "$fingerprint", **{field: {"$first": f"${field}"} for field in copied}}},
        ]
        with translated():
            descriptions = {row["_id"]: _description(row) for row in self._letters.aggregate(pipeline)}
            if descriptions:
                self._groups.bulk_write(
                    [UpdateOne({"_id": name}, {"$set": found}, upsert=True) for name, found in descriptions.items()],
                    ordered=False,
                )
            # Read again: a user may have changed the state of a group before it had a description.
            return {document["_id"]: document for document in self._groups.find({"_id": {"$in": list(descriptions)}})}

    def _update(self, name: str, change: Document, entry: Document) -> GroupDescription:
        with translated():
            document = self._groups.find_one_and_update(
                {"_id": name}, {**change, "$push": _push(entry)}, upsert=True, return_document=ReturnDocument.AFTER
            )
        return _described(document or {"_id": name})


def groups() -> Groups:
    """The groups of the configured database."""
    return Groups(database()[LETTERS], database()[GROUPS])


def _description(row: Document) -> Document:
    error_type, reason, stack = (_text(row.get(field)) for field in ("errorType", "errorReason", "errorStack"))
    found = culprit(stack)
    return {
        "errorType": error_type,
        "errorKind": _text(row.get("errorKind")),
        "message": fingerprint(error_type, reason, stack).message,
        "sample": reason[:_SAMPLE],
        "frame": f"{found.short_file}:{found.line} {found.function}()"[:_SAMPLE] if found else "",
        "firstSeen": row.get("createdAt"),
    }


def _described(document: Document) -> GroupDescription:
    note = document.get("note")
    history = document.get("history")
    return GroupDescription(
        fingerprint=document["_id"],
        error_type=_text(document.get("errorType")),
        error_kind=_text(document.get("errorKind")),
        message=_text(document.get("message")),
        sample=_text(document.get("sample")),
        frame=_text(document.get("frame")),
        first_seen=_instant(document.get("firstSeen")),
        said=_said(document.get("said")),
        note=Note(text=_text(note.get("text")), by=_text(note.get("by")), at=at)
        if isinstance(note, dict) and (at := _instant(note.get("at")))
        else None,
        owner=_owner(document.get("owner")),
        history=[entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else [],
    )


def _owner(value: object) -> Owner | None:
    if not isinstance(value, dict):
        return None
    texts = {name: _text(value.get(name)) for name in ("name", "runbook", "ticket", "by")}
    return Owner(**texts, at=_instant(value.get("at")))


def _said(value: object) -> Said | None:
    if not isinstance(value, dict) or value.get("state") not in (GroupState.RESOLVED, GroupState.IGNORED):
        return None
    at = _instant(value.get("at"))
    if at is None:
        return None
    return Said(
        state=GroupState(value["state"]),
        by=_text(value.get("by")),
        at=at,
        reason=_text(value.get("reason")),
        until=_instant(value.get("until")),
        until_per_hour=_number(value.get("untilPerHour")),
        until_count=_number(value.get("untilCount")),
        ended=_text(value.get("ended")),
    )


def _entry(at: datetime, who: str, what: str, why: str) -> Document:
    return {"at": at, "who": who, "what": what, "why": why}


def _push(entry: Document) -> Document:
    return {"history": {"$each": [entry], "$slice": -KEPT_HISTORY}}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _instant(value: object) -> datetime | None:
    return value.astimezone(UTC) if isinstance(value, datetime) else None
