"""Letters as MongoDB documents, and back. Everything from outside is made storable here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.binary import Binary

from dlq_app.domain.fingerprint import fingerprint
from dlq_app.domain.letter import KEPT_ATTEMPTS, Claimed, DeadLetter, Death, Imported
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.policy import Placement
from dlq_app.domain.search_terms import error_words
from dlq_app.domain.states import Resolution, Status, Verb
from dlq_app.domain.strategies import Strategy
from dlq_app.store.mongo import Document
from wire.instants import parse_instant

log = logging.getLogger(__name__)

#: What a document may grow to; the newest entries are kept.
MAX_REASON = 8 * 1024
MAX_STACK = 32 * 1024
KEPT_VERSIONS = 20
KEPT_FORMER = 10
KEPT_HISTORY = 200
KEPT_NOTES = 200

#: Left out of lists.
HEAVY = (
    "originalMessage",
    "errorStack",
    "attempts",
    "replayAttempts",
    "versions",
    "formerMessages",
    "notes",
    "history",
    "searchWords",
)

_INT64 = range(-(2**63), 2**63)
_PLAIN = (bool, float, datetime)
#: Fields of the entries of lists that are whole numbers, and those that are instants (text, if none could be read).
_NUMBERS = frozenset({"epoch", "number", "version", "durationMs", "retryDelayMs"})
_INSTANTS = frozenset({"at", "startedAt", "endedAt", "until", "lastFailedAt"})
_MAX_DEPTH = 40


class Unreadable(ValueError):
    """A document that is not a letter: somebody wrote it by hand, or something is broken. ``id`` is its ``_id``."""

    def __init__(self, document: Mapping[str, Any], why: str) -> None:
        super().__init__(text(why, 200))
        self.id = text(str(document.get("_id")), 100)


# --- out of the house: to documents ---


def text(value: str, limit: int | None = None) -> str:
    """``value`` with NUL and lone surrogates escaped and its tail cut off."""
    safe = value
    if not value.isascii():
        safe = value.encode("utf-8", "backslashreplace").decode()
    if "\0" in safe:
        safe = safe.replace("\0", "\\x00")
    return safe if limit is None or len(safe) <= limit else safe[:limit]


def storable(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """A JSON-like value in a form that BSON takes: texts escaped, huge numbers and odd types as text, depth bounded."""
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else str(value)
    if depth == 0:
        return text(repr(value), 1000)
    if isinstance(value, Mapping):
        return {text(str(key)): storable(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, Sequence):
        return [storable(inner, depth - 1) for inner in value]
    return text(repr(value), 1000)


def stored_body(body: bytes) -> str | Binary:
    """The payload exactly as received: as text where it is text, which can be read in any tool, else as bytes."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return Binary(body)


def body_of(value: Any) -> bytes:
    """The bytes that ``stored_body`` was given."""
    return value.encode("utf-8") if isinstance(value, str) else bytes(value or b"")


def attempt_entries(attempts: Sequence[Mapping[str, Any]], epoch: int) -> list[Document]:
    """Attempts as stored: with their epoch, instants as instants, and how long each took."""
    entries = []
    for attempt in attempts[-KEPT_ATTEMPTS:]:
        entry: Document = {**storable(attempt), "epoch": epoch}
        for name in ("startedAt", "endedAt"):
            if isinstance(entry.get(name), str):
                entry[name] = _instant_or_text(entry[name])
        begun, ended = entry.get("startedAt"), entry.get("endedAt")
        if isinstance(begun, datetime) and isinstance(ended, datetime):
            entry["durationMs"] = round((ended - begun).total_seconds() * 1000)
        entries.append(entry)
    return entries


def history_entry(at: datetime, who: str, what: Verb | str, why: str = "") -> Document:
    return {"at": at, "who": text(who, 200), "what": str(what), "why": text(why, 2000)}


def metadata_of(death: Death) -> Document:
    return {
        "source": text(death.source),
        "priority": text(death.priority),
        "tags": [text(tag) for tag in death.tags],
        "client": text(death.client),
        "systemState": storable(death.system_state),
    }


def error_fields(death: Death, masking: MaskingPolicy) -> Document:
    """The fields of a letter that describe its last failure. ``masking`` says which words it is not found by."""
    reason, stack = text(death.error_reason, MAX_REASON), text(death.error_stack, MAX_STACK)
    error_type = text(death.error_type, 100)
    return {
        "errorType": error_type,
        "errorKind": text(death.error_kind, 20),
        "errorReason": reason,
        "errorStack": stack,
        "fingerprint": fingerprint(error_type, reason, stack).value,
        "searchWords": error_words(error_type, reason, masking),
        "lastFailedAt": death.died_at,
    }


def new_letter(death: Death, placement: Placement, now: datetime, masking: MaskingPolicy) -> Document:
    """The document of a first death."""
    return {
        "messageId": death.message_id,
        "type": death.type,
        "originalMessage": stored_body(death.body),
        **error_fields(death, masking),
        "retryCount": death.retry_count,
        "dlqRetryCount": 0,
        "status": placement.status.value,
        "strategy": placement.strategy.value,
        "nextRetryAt": placement.next_retry_at,
        "metadata": metadata_of(death),
        "attempts": attempt_entries(death.attempts, death.epoch),
        "replayAttempts": [],
        "versions": [],
        "formerMessages": [],
        "notes": [],
        "history": [history_entry(now, "system", Verb.DEAD_LETTER, death.error_type)],
        "createdAt": now,
        "firstFailedAt": _first_failure(death),
        "updatedAt": now,
        "fence": death.epoch,
        "closedEpoch": death.epoch,
        "queuedAt": death.queued_at,
        "acctDay": death.acct_day,
        "priorRuns": prior_runs(death),
    }


def austere(document: Document) -> Document:
    """The same letter with nothing in it that could be refused but the payload, and that as bytes."""
    body = document["originalMessage"]
    return {
        **document,
        "originalMessage": Binary(body_of(body)),
        "attempts": [],
        "errorStack": document["errorStack"][:1000],
        "metadata": {**document["metadata"], "systemState": {}},
    }


def _first_failure(death: Death) -> datetime:
    ended = death.attempts[0].get("endedAt") if death.attempts else None
    if isinstance(ended, str):
        ended = _instant_or_text(text(ended))
    return ended if isinstance(ended, datetime) else death.died_at


def prior_runs(death: Death) -> int:
    """Attempts that ended in failure so far; at least those that the death itself lists."""
    return max(death.prior_runs, sum(1 for attempt in death.attempts if attempt.get("outcome") == "failed"))


def _instant_or_text(value: str) -> datetime | str:
    try:
        return parse_instant(value)
    except ValueError:
        return value


# --- into the house: from documents ---


def letter_from(document: Document) -> DeadLetter:
    """The letter in a document, also in one read for a list. ``Unreadable`` without what makes it a letter.

    What a letter can be without gets an empty value: a letter that an operator sees is better than a tidy absence.
    """
    message_id, last_failed_at = document.get("messageId"), _instant(document, "lastFailedAt")
    try:
        status = Status(document["status"])
    except (KeyError, ValueError, TypeError):
        raise Unreadable(document, "status has an unknown value") from None
    if type(message_id) is not str:  # code of JavaScript is a text for Python, too, and cannot be hashed
        raise Unreadable(document, "messageId is missing or no text")
    if last_failed_at is None:
        raise Unreadable(document, "lastFailedAt is missing or no date between the years 1 and 9999")
    if not ObjectId.is_valid(document["_id"]):
        raise Unreadable(document, "_id is no ObjectId")
    created_at = _instant(document, "createdAt") or last_failed_at
    resolution, strategy = document.get("resolution"), document.get("strategy")
    return DeadLetter(
        id=str(document["_id"]),
        message_id=message_id,
        type=_text(document, "type"),
        status=status,
        strategy=Strategy(strategy) if strategy in list(Strategy) else Strategy.MANUAL,
        error_type=_text(document, "errorType"),
        error_kind=_text(document, "errorKind"),
        error_reason=_text(document, "errorReason"),
        error_stack=_text(document, "errorStack"),
        fingerprint=_text(document, "fingerprint"),
        retry_count=_number(document, "retryCount"),
        dlq_retry_count=_number(document, "dlqRetryCount"),
        next_retry_at=_instant(document, "nextRetryAt"),
        created_at=created_at,
        first_failed_at=_instant(document, "firstFailedAt") or created_at,
        last_failed_at=last_failed_at,
        updated_at=_instant(document, "updatedAt") or last_failed_at,
        metadata=_mapping(document, "metadata"),
        resolution=Resolution(resolution) if resolution in list(Resolution) else None,
        resolved_at=_instant(document, "resolvedAt"),
        fence=_number(document, "fence"),
        closed_epoch=_number(document, "closedEpoch"),
        claim=_claim(document) if status is Status.PROCESSING else None,
        queued_at=_instant(document, "queuedAt"),
        acct_day=_text(document, "acctDay"),
        prior_runs=_number(document, "priorRuns"),
        imported=_imported(document),
        body=body_of(document.get("originalMessage")) if _is_body(document) else b"",
        attempts=_entries(document, "attempts"),
        replay_attempts=_entries(document, "replayAttempts"),
        versions=_entries(document, "versions"),
        former_messages=_entries(document, "formerMessages"),
        notes=_entries(document, "notes"),
        history=_entries(document, "history"),
    )


def letters_from(documents: Sequence[Document]) -> list[DeadLetter]:
    """The letters in ``documents``; one that is none is logged and left out, so that it cannot spoil the others."""
    letters = []
    for document in documents:
        try:
            letters.append(letter_from(document))
        except Unreadable as error:
            log.warning("letter_unreadable", extra={"id": error.id, "why": str(error)})
    return letters


def _claim(document: Document) -> Claimed:
    replay = _mapping(document, "replay")
    came_from = replay.get("from")
    return Claimed(
        replay_id=_text(replay, "id"),
        epoch=_number(replay, "epoch"),
        kind=_text(replay, "kind"),
        by=_text(replay, "by"),
        why=_text(replay, "why"),
        batch_id=_text(replay, "batchId"),
        version=_number(replay, "version"),
        locked_by=_text(replay, "lockedBy"),
        locked_at=_instant(replay, "lockedAt"),
        came_from=Status(came_from) if came_from in list(Status) else Status.MANUAL,
    )


def _imported(document: Document) -> Imported | None:
    mark = _mapping(document, "imported")
    at = _instant(mark, "at")
    return Imported(_text(mark, "by"), at) if at else None


def _is_body(document: Document) -> bool:
    return isinstance(document.get("originalMessage"), str | bytes)


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value if type(value) is str else ""


def _number(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    return int(value) if isinstance(value, int | float) and value == value and abs(value) < 2**63 else 0


def _instant(document: Mapping[str, Any], name: str) -> datetime | None:
    value = document.get(name)
    return value.astimezone(UTC) if isinstance(value, datetime) else None


def _mapping(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _entries(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    value = document.get(name)
    return [_entry(entry) for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _entry(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a list with each field of the kind that readers reckon with; a field of another kind is left out."""
    found: dict[str, Any] = {}
    for name, value in stored.items():
        if name in _NUMBERS:
            if isinstance(value, int) and not isinstance(value, bool):
                found[name] = value
        elif name in _INSTANTS:
            if isinstance(value, datetime | None) or type(value) is str:
                found[name] = value
        elif type(value) is str or isinstance(value, bytes | bool | int | float | datetime | None):
            found[name] = value
        else:
            found[name] = text(str(value), 1000)
    return found
