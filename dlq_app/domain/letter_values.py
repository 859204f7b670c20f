"""Values of a letter's fields: from what MongoDB holds, and to JSON. Pure.

A stored value of another type than its field's reads as empty: a letter with a gap is better than no letter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from dlq_app.domain.facets import by_name
from dlq_app.domain.filters import PRIORITIES
from dlq_app.domain.letter import Claimed, Imported
from dlq_app.domain.states import Status
from wire import contract
from wire.instants import iso
from wire.traceparent import traceparent_of

#: Fields of the entries of lists that are numbers, and those that are instants (text, if none could be read).
_ENTRY_NUMBERS = frozenset({"epoch", "number", "version", "durationMs", "retryDelayMs"})
_ENTRY_INSTANTS = frozenset({"at", "startedAt", "endedAt", "until", "lastFailedAt"})
_UNCHANGED = frozenset({str, int, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of values."""

    #: From the stored value.
    load: Callable[[Any], Any]
    #: To JSON.
    dump: Callable[[Any], Any]
    #: The value of a new letter. None: the document has no such field.
    empty: Callable[[], Any]
    #: Its schema in the OpenAPI document.
    schema: contract.Type | contract.Shape = contract.OBJECT


def plain(value: Any) -> Any:
    """A stored value as JSON: instants as text, numbers that JSON does not have as null, bytes as escaped text."""
    if type(value) in _UNCHANGED:  # most values, at the least cost
        return value
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(inner) for inner in value]
    return value if isinstance(value, int | float | None) else str(value)


def iso_or_none(moment: datetime | None) -> str | None:
    return iso(moment) if moment else None


def safe_text(value: str, limit: int | None = None) -> str:
    """``value`` with NUL and lone surrogates escaped, cut to ``limit`` characters."""
    safe = value
    if not value.isascii():
        safe = value.encode("utf-8", "backslashreplace").decode()
    if "\0" in safe:
        safe = safe.replace("\0", "\\x00")
    return safe if limit is None or len(safe) <= limit else safe[:limit]


def load_text(value: Any) -> str:
    # Code of JavaScript is a str, too, and cannot be hashed.
    return value if type(value) is str else ""


def load_number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value == value and abs(value) < 2**63 else 0


def load_instant(value: Any) -> datetime | None:
    if not isinstance(value, datetime):
        return None
    # The driver's own zone for UTC, which a conversion asks three times.
    is_utc = value.tzinfo is not None and not value.tzinfo.utcoffset(value)
    return value.replace(tzinfo=UTC) if is_utc else value.astimezone(UTC)


def load_body(value: Any) -> bytes:
    """The payload exactly as received, from its stored text or bytes."""
    if isinstance(value, str):
        return value.encode("utf-8")
    return bytes(value) if isinstance(value, bytes) else b""


def _load_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _load_entries(value: Any) -> list[dict[str, Any]]:
    return [_entry(entry) for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _entry(stored: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a list, without fields whose values have another type than readers expect."""
    found: dict[str, Any] = {}
    for name, value in stored.items():
        if name in _ENTRY_NUMBERS:
            if isinstance(value, int) and not isinstance(value, bool):
                found[name] = value
        elif name in _ENTRY_INSTANTS:
            if isinstance(value, datetime | None) or type(value) is str:
                found[name] = value
        elif type(value) is str or isinstance(value, bytes | bool | int | float | datetime | None):
            found[name] = value
        else:
            found[name] = safe_text(str(value), 1000)
    return found


def _load_claim(value: Any) -> Claimed:
    replay = _load_mapping(value)
    came_from, epoch = replay.get("from"), load_number(replay.get("epoch"))
    return Claimed(
        replay_id=load_text(replay.get("id")),
        epoch=epoch,
        kind=load_text(replay.get("kind")),
        by=load_text(replay.get("by")),
        why=load_text(replay.get("why")),
        batch_id=load_text(replay.get("batchId")),
        version=load_number(replay.get("version")),
        locked_by=load_text(replay.get("lockedBy")),
        locked_at=load_instant(replay.get("lockedAt")),
        came_from=Status(came_from) if came_from in list(Status) else Status.MANUAL,
        # Letters that were claimed together have one epoch, above the fences of all of them.
        fence_before=None if replay.get("together") else epoch - 1,
    )


def _load_imported(value: Any) -> Imported | None:
    mark = _load_mapping(value)
    at = load_instant(mark.get("at"))
    return Imported(load_text(mark.get("by")), at) if at else None


def choice(options: type[StrEnum]) -> Kind:
    """One of ``options``; None for any other value."""
    members = list(options)
    return Kind(
        lambda value: options(value) if value in members else None,
        lambda value: value.value if value else None,
        _nothing,
        contract.choice(options),
    )


def text_of(allowed: Iterable[str]) -> Kind:
    """A text that should be one of ``allowed``; an imported letter may have any."""
    return Kind(load_text, _same, str, contract.choice(allowed))


def _same(value: Any) -> Any:
    return value


def _nothing() -> None:
    return None


ID = Kind(str, _same, _nothing, contract.TEXT)
TEXT = Kind(load_text, _same, str, contract.TEXT)
NUMBER = Kind(load_number, _same, int, contract.COUNT)
INSTANT = Kind(load_instant, iso_or_none, _nothing, contract.INSTANT)
#: A value of another shape reads as none: tracing relies on the shape.
TRACEPARENT = Kind(lambda value: traceparent_of(load_text(value)), _same, str, contract.TEXT)
TRACE_ID = Kind(load_text, lambda value: value or None, _nothing, contract.TEXT)
FACETS = Kind(
    lambda value: tuple(one for one in value if type(one) is str) if isinstance(value, list) else (),
    by_name,
    list,
    contract.mapping(contract.many(contract.TEXT)),
)
MAPPING = Kind(_load_mapping, plain, dict)
ENTRIES = Kind(_load_entries, plain, list, contract.many(contract.OBJECT))
BODY = Kind(load_body, plain, str, contract.TEXT)
CLAIM = Kind(
    _load_claim,
    lambda claim: claim and {"id": claim.replay_id, "epoch": claim.epoch, "from": claim.came_from.value},
    _nothing,
)
IMPORTED = Kind(
    _load_imported,
    lambda mark: mark and {"by": mark.by, "at": iso(mark.at)},
    _nothing,
    contract.Shape("LetterImported", contract.Field("by", contract.TEXT), contract.Field("at", contract.INSTANT)),
)
#: Part of another field: only shown, not stored by itself.
PART = Kind(_same, plain, _nothing, contract.TEXT)
PARTS = Kind(_same, lambda value: plain(value or []), _nothing, contract.many(contract.TEXT))
PRIORITY = Kind(_same, plain, _nothing, contract.choice(PRIORITIES))
