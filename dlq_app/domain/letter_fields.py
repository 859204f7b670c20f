"""The fields of a letter: one table for documents, JSON, exports and imports. Pure.

A new field is an attribute of ``DeadLetter`` and an entry here. An update that sets it is its own place, as is an
index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from dlq_app.domain import import_readers as readers
from dlq_app.domain.filters import KINDS
from dlq_app.domain.fingerprint import fingerprint
from dlq_app.domain.import_readers import nullable
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.letter_values import (
    BODY,
    CLAIM,
    ENTRIES,
    FACETS,
    ID,
    IMPORTED,
    INSTANT,
    MAPPING,
    NUMBER,
    PART,
    PARTS,
    PRIORITY,
    TEXT,
    TRACE_ID,
    TRACEPARENT,
    Kind,
    choice,
    text_of,
)
from dlq_app.domain.states import Resolution, Status
from dlq_app.domain.strategies import Strategy
from wire.fields import Reader, matching, one_of, text


class Shown(IntEnum):
    """Where REST shows a field."""

    NOWHERE = 0
    LETTER = 1
    #: Also in lists of letters.
    LIST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterField:
    """One field. ``name`` is its name on the wire, in files and in MongoDB."""

    name: str
    kind: Kind
    #: Of ``DeadLetter``; empty for a part of ``metadata``.
    attribute: str = ""
    #: For the OpenAPI document.
    doc: str = ""
    #: REST shows null for no value.
    nullable: bool = False
    shown: Shown = Shown.LIST
    #: It can hold text from clients, errors or people: mask it.
    secret: bool = False
    #: In files of JSON lines.
    exported: bool = True
    #: A column of the table.
    column: bool = False
    #: Not read for lists.
    heavy: bool = False
    #: False: not a field of documents; a property of ``DeadLetter`` computes it.
    stored: bool = True
    #: How an import reads it; None: a file must not have it.
    read: Reader[Any] | None = None
    #: An import must have it.
    required: bool = False
    #: What an import gets that has none: from its other fields, in the order of the table, and the present.
    default: Callable[[Mapping[str, Any], datetime], Any] | None = None

    def value(self, letter: DeadLetter) -> Any:
        """The value as JSON, nothing hidden."""
        if self.attribute:
            return self.kind.dump(getattr(letter, self.attribute))
        return self.kind.dump(letter.metadata.get(self.name))


def _fingerprint(found: Mapping[str, Any], now: datetime) -> str:
    return fingerprint(found["errorType"], found["errorReason"], found["errorStack"]).value


def _metadata(found: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {"source": "", "priority": "normal", "tags": [], "client": "", "systemState": {}}


def _field(name: str, kind: Kind, attribute: str, **options: Any) -> LetterField:
    return LetterField(name=name, kind=kind, attribute=attribute, **options)


def _part(name: str, kind: Kind = PART, **options: Any) -> LetterField:
    return LetterField(name=name, kind=kind, exported=False, column=True, **options)


def _text(name: str, attribute: str, **options: Any) -> LetterField:
    return _field(name, TEXT, attribute, **options)


def _number(name: str, attribute: str, **options: Any) -> LetterField:
    return _field(name, NUMBER, attribute, **{"read": nullable(readers.count), **options})


def _instant(name: str, attribute: str, **options: Any) -> LetterField:
    return _field(name, INSTANT, attribute, **{"column": True, "read": nullable(readers.instant), **options})


def _entries(name: str, attribute: str, read: Reader[Any], doc: str = "") -> LetterField:
    return _field(name, ENTRIES, attribute, doc=doc, **_HEAVY, read=nullable(read))


_LETTER = {"shown": Shown.LETTER}
_HEAVY = {**_LETTER, "heavy": True, "secret": True}
_IMPORTED = "Entries with `imported: true` came with an import; the names in them are those of the file."
_REQUIRED_COLUMN = {"column": True, "required": True}

FIELDS = (
    _field("_id", ID, "id", column=True, read=matching(r"[0-9a-f]{24}", "24 hexadecimal digits")),
    _text(
        "messageId",
        "message_id",
        **_REQUIRED_COLUMN,
        read=matching(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, _ or -"),
    ),
    _text(
        "type",
        "type",
        **_REQUIRED_COLUMN,
        read=matching(r"[a-z][a-z0-9_.-]{0,63}", "a message type, such as order.created"),
    ),
    _field("status", choice(Status), "status", **_REQUIRED_COLUMN, read=one_of(list(Status))),
    _field(
        "resolution",
        choice(Resolution),
        "resolution",
        nullable=True,
        column=True,
        read=nullable(one_of(list(Resolution))),
    ),
    _field(
        "strategy",
        choice(Strategy),
        "strategy",
        column=True,
        read=nullable(one_of(list(Strategy))),
        default=lambda found, now: Strategy.MANUAL.value,
    ),
    _text("errorType", "error_type", **_REQUIRED_COLUMN, read=readers.error_type),
    _field("errorKind", text_of(KINDS), "error_kind", **_REQUIRED_COLUMN, read=one_of(KINDS)),
    _text(
        "errorReason",
        "error_reason",
        doc="Lists show the first 300 characters.",
        column=True,
        secret=True,
        read=nullable(text(8 * 1024)),
    ),
    _text("errorStack", "error_stack", **_HEAVY, read=nullable(text(32 * 1024))),
    _text(
        "fingerprint",
        "fingerprint",
        doc="The group: the same for failures of the same kind.",
        column=True,
        read=nullable(matching(r"[0-9a-f]{16}", "16 hexadecimal digits")),
        default=_fingerprint,
    ),
    _number("retryCount", "retry_count", column=True),
    _number("dlqRetryCount", "dlq_retry_count", doc="Failed automatic replays.", column=True),
    _number("priorRuns", "prior_runs", shown=Shown.NOWHERE),
    _instant("nextRetryAt", "next_retry_at", nullable=True),
    _part("source", nullable=True, secret=True),
    _part("priority", PRIORITY),
    _part("tags", PARTS, secret=True),
    _part("client", shown=Shown.NOWHERE),
    _instant("createdAt", "created_at", default=lambda found, now: found["lastFailedAt"]),
    _instant("firstFailedAt", "first_failed_at", default=lambda found, now: found["createdAt"]),
    _instant("lastFailedAt", "last_failed_at", read=readers.instant, required=True),
    _instant("updatedAt", "updated_at", default=lambda found, now: now),
    _instant("resolvedAt", "resolved_at", nullable=True),
    _field(
        "originalMessage",
        BODY,
        "body",
        doc="As received, byte for byte unless `masked`.",
        **_HEAVY,
        **_REQUIRED_COLUMN,
        read=text(readers.MAX_PAYLOAD, empty=False),
    ),
    _field("metadata", MAPPING, "metadata", **_LETTER, secret=True, read=nullable(readers.metadata), default=_metadata),
    _entries("attempts", "attempts", readers.attempts),
    _entries("replayAttempts", "replay_attempts", readers.replay_attempts, _IMPORTED),
    _entries("versions", "versions", readers.versions, _IMPORTED),
    _entries("formerMessages", "former_messages", readers.former_messages),
    _entries("notes", "notes", readers.notes, _IMPORTED),
    _entries("history", "history", readers.history, _IMPORTED),
    # An import makes its own, of the payload.
    _field(
        "facets",
        FACETS,
        "facets",
        doc="Values inside the payload, by the names of `facets.toml`. Hidden ones are `#` and a hash.",
        read=nullable(readers.facets),
    ),
    _instant("queuedAt", "queued_at", nullable=True, **_LETTER),
    _field(
        "imported",
        IMPORTED,
        "imported",
        doc="Who imported the letter, and when; null if it was not imported.",
        nullable=True,
        **_LETTER,
        read=nullable(readers.mark),
    ),
    # Without both, an import draws its own numbers.
    _number("fence", "fence", **_LETTER, read=nullable(readers.epoch), default=lambda found, now: None),
    _number("closedEpoch", "closed_epoch", **_LETTER, read=nullable(readers.epoch), default=lambda found, now: None),
    _field(
        "replay", CLAIM, "claim", doc="The replay in progress.", nullable=True, **_LETTER, read=nullable(readers.claim)
    ),
    # An imported message counts where it was accepted; if it is replayed here, it counts as accepted here.
    _text("acctDay", "acct_day", shown=Shown.NOWHERE, exported=False),
    _field("traceparent", TRACEPARENT, "traceparent", shown=Shown.NOWHERE, read=nullable(readers.traceparent)),
    _field(
        "traceId",
        TRACE_ID,
        "trace_id",
        doc="The trace of the message, 32 hexadecimal digits.",
        nullable=True,
        exported=False,
        column=True,
        stored=False,
    ),
)
#: Fields of documents, without parts of other fields.
STORED = tuple(field for field in FIELDS if field.attribute and field.stored)
