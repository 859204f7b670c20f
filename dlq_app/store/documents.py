"""Convert letters to MongoDB documents and back. Values from outside are made storable here."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from bson import ObjectId
from bson.binary import Binary

from dlq_app.domain import group_rules
from dlq_app.domain.facets import in_force
from dlq_app.domain.fingerprint import fingerprint
from dlq_app.domain.letter import KEPT_ATTEMPTS, DeadLetter, Death
from dlq_app.domain.letter_fields import STORED
from dlq_app.domain.letter_values import load_body, safe_text
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.replay_policy import Placement
from dlq_app.domain.search_terms import error_words
from dlq_app.domain.states import Status, Verb
from dlq_app.domain.strategies import Strategy
from dlq_app.store.mongo import Document
from wire.instants import parse_instant

log = logging.getLogger(__name__)

#: Limits of a document's size; lists keep their newest entries.
MAX_REASON = 8 * 1024
MAX_STACK = 32 * 1024
KEPT_VERSIONS = 20
KEPT_FORMER = 10
KEPT_HISTORY = 200
KEPT_NOTES = 200

#: Not read for lists.
HEAVY = (*(field.name for field in STORED if field.heavy), "searchWords")

#: Loader and attribute of each field, and the values of a document without any of them.
_LOADED = {field.name: (field.attribute, field.kind.load) for field in STORED}
_LACKING = {field.attribute: field.kind.load(None) for field in STORED}

_INT64 = range(-(2**63), 2**63)
_PLAIN = (bool, float, datetime)
_MAX_DEPTH = 40
#: Maximum characters of an error whose fields are cached: long texts must not fill the memory.
_MAX_CACHED = 8 * 1024
#: The empty fields of a new letter. Shared by all of them: none is changed in this process.
_EMPTY: Document = {field.name: empty for field in STORED if (empty := field.kind.empty()) is not None}


class Unreadable(ValueError):
    """A document that is not a letter: written by hand, or damaged. ``id`` is its ``_id``."""

    def __init__(self, document: Mapping[str, Any], why: str) -> None:
        super().__init__(safe_text(why, 200))
        self.id = safe_text(str(document.get("_id")), 100)


# --- to documents ---


def storable(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """A JSON-like value in a form that BSON takes: texts escaped, huge numbers and odd types as text, depth bounded."""
    if isinstance(value, str):
        return value if _is_safe(value) else safe_text(value)
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, int):
        return value if value in _INT64 else str(value)
    if depth == 0:
        return safe_text(repr(value), 1000)
    if isinstance(value, dict | Mapping):
        return {
            key if type(key) is str and _is_safe(key) else safe_text(str(key)): inner
            # Most values, at the least cost.
            if inner is None or (type(inner) is str and _is_safe(inner))
            else storable(inner, depth - 1)
            for key, inner in value.items()
        }
    if isinstance(value, Sequence):
        return [storable(inner, depth - 1) for inner in value]
    return safe_text(repr(value), 1000)


def _is_safe(text: str) -> bool:
    return text.isascii() and "\0" not in text


def stored_body(body: bytes) -> str | Binary:
    """The payload exactly as received: as text if it is UTF-8, so that any tool can show it, else as bytes."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return Binary(body)


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
    return {"at": at, "who": safe_text(who, 200), "what": str(what), "why": safe_text(why, 2000)}


def message_fields(death: Death) -> Document:
    """The fields of a letter that come from its message."""
    return {
        "type": death.type,
        "originalMessage": stored_body(death.body),
        "retryCount": death.retry_count,
        "metadata": {
            "source": safe_text(death.source),
            "priority": safe_text(death.priority),
            "tags": [safe_text(tag) for tag in death.tags],
            "client": safe_text(death.client),
            "systemState": storable(death.system_state),
        },
        "queuedAt": death.queued_at,
        "acctDay": death.acct_day,
        "facets": in_force().of(death.body, death.type),
        "traceparent": death.traceparent,
    }


def error_fields(death: Death, masking: MaskingPolicy) -> Document:
    """The fields of a letter that describe its last failure. No search finds words that ``masking`` hides."""
    error_type, kind, reason, stack = death.error_type, death.error_kind, death.error_reason, death.error_stack
    is_short = len(error_type) + len(kind) + len(reason) + len(stack) <= _MAX_CACHED
    fields = (_known_fields if is_short else _fields)(error_type, kind, reason, stack, masking)
    rule = group_rules.in_force().of(error_type, reason, death.type, death.source)
    if rule:
        fields = {**fields, "fingerprint": rule.fingerprint}
    return {**fields, "groupRule": rule.name if rule else "", "lastFailedAt": death.died_at}


def _fields(error_type: str, kind: str, reason: str, stack: str, masking: MaskingPolicy) -> Document:
    reason, stack, error_type = safe_text(reason, MAX_REASON), safe_text(stack, MAX_STACK), safe_text(error_type, 100)
    return {
        "errorType": error_type,
        "errorKind": safe_text(kind, 20),
        "errorReason": reason,
        "errorStack": stack,
        "fingerprint": fingerprint(error_type, reason, stack).value,
        "searchWords": error_words(error_type, reason, masking),
    }


#: Many messages fail in the same way. By the texts themselves, so different errors never share an entry.
_known_fields = lru_cache(maxsize=128)(_fields)


def new_letter(death: Death, placement: Placement, now: datetime, masking: MaskingPolicy) -> Document:
    """The document of a message that becomes a dead letter for the first time."""
    return {
        **_EMPTY,
        "messageId": death.message_id,
        **message_fields(death),
        **error_fields(death, masking),
        "status": placement.status.value,
        "strategy": placement.strategy.value,
        "nextRetryAt": placement.next_retry_at,
        "attempts": attempt_entries(death.attempts, death.epoch),
        "history": [history_entry(now, "system", Verb.DEAD_LETTER, death.error_type)],
        "createdAt": now,
        "firstFailedAt": _first_failure(death),
        "updatedAt": now,
        "fence": death.epoch,
        "closedEpoch": death.epoch,
        "priorRuns": prior_runs(death),
    }


def minimal(document: Document) -> Document:
    """The same letter without everything that MongoDB could reject, and its payload as bytes."""
    body = document["originalMessage"]
    return {
        **document,
        "originalMessage": Binary(load_body(body)),
        "attempts": [],
        "errorStack": document["errorStack"][:1000],
        "metadata": {**document["metadata"], "systemState": {}},
    }


def _first_failure(death: Death) -> datetime:
    ended = death.attempts[0].get("endedAt") if death.attempts else None
    if isinstance(ended, str):
        ended = _instant_or_text(safe_text(ended))
    return ended if isinstance(ended, datetime) else death.died_at


def prior_runs(death: Death) -> int:
    """Failed attempts so far; at least those that the death itself lists."""
    return max(death.prior_runs, sum(1 for attempt in death.attempts if attempt.get("outcome") == "failed"))


def _instant_or_text(value: str) -> datetime | str:
    try:
        return parse_instant(value)
    except ValueError:
        return value


# --- from documents ---


def letter_from(document: Document) -> DeadLetter:
    """The letter in a document, also in one read for a list; ``Unreadable`` when a field is missing that it must have.

    Other fields may be missing: they get an empty value. It is better to see a letter with gaps than none.
    """
    values = dict(_LACKING)
    for name, value in document.items():
        if found := _LOADED.get(name):
            attribute, load = found
            values[attribute] = load(value)
    if values["status"] is None:
        raise Unreadable(document, "status has an unknown value")
    if type(document.get("messageId")) is not str:  # code of JavaScript is a str, too, and cannot be hashed
        raise Unreadable(document, "messageId is missing or not a string")
    last_failed_at = values["last_failed_at"]
    if last_failed_at is None:
        raise Unreadable(document, "lastFailedAt is missing or not a date in the years 1 to 9999")
    if not ObjectId.is_valid(document["_id"]):
        raise Unreadable(document, "_id is not an ObjectId")
    values["created_at"] = values["created_at"] or last_failed_at
    values["first_failed_at"] = values["first_failed_at"] or values["created_at"]
    values["updated_at"] = values["updated_at"] or last_failed_at
    values["strategy"] = values["strategy"] or Strategy.MANUAL
    if values["status"] is not Status.PROCESSING:
        values["claim"] = None
    return DeadLetter(**values)


def letters_from(documents: Sequence[Document]) -> list[DeadLetter]:
    """The letters in ``documents``. An unreadable one is logged and left out, so that it cannot spoil the others."""
    letters = []
    for document in documents:
        try:
            letters.append(letter_from(document))
        except Unreadable as error:
            log.warning("letter_unreadable", extra={"id": error.id, "why": str(error)})
    return letters
