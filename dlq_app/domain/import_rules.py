"""What an import accepts as a letter: one line of JSON, checked strictly, as the fields of a document. Pure.

Every field is known by name, type and size; nothing is repaired. Errors name the field and do not repeat its value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

from dlq_app.domain import facets, group_rules
from dlq_app.domain.import_readers import (
    INT64,
    LineRefused,
    nullable,
    read_field,
    refuse_unknown,
)
from dlq_app.domain.letter_fields import FIELDS, STORED
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.search_terms import error_words
from dlq_app.domain.states import Status
from wire.fields import Reader, boolean, integer, text

#: Lists whose entries name who did something.
_SIGNED = ("replayAttempts", "versions", "notes", "history")
_ENDS = ("succeeded", "failed_same", "failed_new")
#: Fields of a line that describe the file, not the letter.
_OF_THE_LINE: dict[str, Reader[Any]] = {"masked": nullable(boolean), "originalMessageBase64": nullable(text(0))}
_READERS = {**{field.name: field.read for field in FIELDS if field.read}, **_OF_THE_LINE}
_REQUIRED = [field.name for field in FIELDS if field.required]


def parse(line: bytes) -> dict[str, Any]:
    """The object in a line; raises ``LineRefused`` if it is not JSON or repeats a name."""
    try:
        found = json.loads(line, object_pairs_hook=_object, parse_constant=_no_constant)
    except LineRefused:
        raise
    except (ValueError, RecursionError) as error:
        where = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise LineRefused(f"is not JSON in UTF-8{where}") from error
    if not isinstance(found, dict):
        raise LineRefused("must be a JSON object")
    return found


def imported_letter(given: Mapping[str, Any], now: datetime, masking: MaskingPolicy, *, by: str) -> dict[str, Any]:
    """The document of the letter in a parsed line. Its payload is not checked here.

    Sets ``imported`` to ``by`` and ``now``, and marks each entry that names somebody: a file can claim any name. What
    the file itself holds of an earlier import is dropped.

    ``fence`` and ``closedEpoch`` are None when the line does not have both. A letter that was being replayed gets the
    status to which a release would have returned it: the replay belongs to the other system. Raises ``LineRefused``.
    """
    refuse_unknown(given, _READERS)
    if given.get("masked"):
        raise LineRefused("has hidden values; export it with its secrets")
    if given.get("originalMessageBase64"):
        raise LineRefused("originalMessageBase64: the payload is not text, so intake would reject it")
    missing = [name for name in _REQUIRED if given.get(name) is None]
    if missing:
        raise LineRefused(f"required fields are missing: {', '.join(missing)}")
    found = {name: read_field(name, _READERS[name], value) for name, value in given.items()}
    for name in _OF_THE_LINE:
        found.pop(name, None)
    for field in STORED:
        if found.get(field.name) is None:
            found[field.name] = field.default(found, now) if field.default else field.kind.empty()
    found["imported"] = {"by": by, "at": now}
    for name in _SIGNED:
        found[name] = [{**entry, "imported": True} for entry in found[name]]
    _set_status(found, now)
    if found["fence"] and found["closedEpoch"]:
        if found["closedEpoch"] > found["fence"]:
            raise LineRefused("closedEpoch: must not be greater than fence")
    else:
        found["fence"] = found["closedEpoch"] = None
    return {**found, **_derived(found, masking)}


def _derived(found: Mapping[str, Any], masking: MaskingPolicy) -> dict[str, Any]:
    """The fields that searches and groups use, as they are written when a message dies and when its replay ends."""
    payloads = [found["originalMessage"], *(version.get("payload", "") for version in found["versions"])]
    derived: dict[str, Any] = {
        "searchWords": error_words(found["errorType"], found["errorReason"], masking),
        "facets": facets.in_force().of_all((str(one).encode() for one in payloads), found["type"]),
        "groupRule": "",
    }
    source = found["metadata"].get("source") or ""
    if rule := group_rules.in_force().of(found["errorType"], found["errorReason"], found["type"], source):
        derived |= {"fingerprint": rule.fingerprint, "groupRule": rule.name}
    ended = [one for one in found["replayAttempts"] if one.get("endedAt") and one.get("outcome") in _ENDS]
    if ended:
        last = max(ended, key=lambda one: one.get("epoch", 0))
        derived["lastReplay"] = {"at": last["endedAt"], "outcome": last["outcome"]}
    return derived


def end_of(given: Mapping[str, Any]) -> tuple[int, bool]:
    """From the last line of an export: the number of letters in the export, and whether the export is complete."""
    end = given["end"]
    if len(given) > 1 or not isinstance(end, dict):
        raise LineRefused("end: must be the only field, and an object")
    return read_field("end.count", integer(*INT64), end.get("count")), end.get("complete") is True


def _set_status(found: dict[str, Any], now: datetime) -> None:
    replay = found.pop("replay", None)
    if found["status"] == Status.PROCESSING:
        found["status"] = (replay or {}).get("from") or Status.MANUAL.value
        found["replayAttempts"] = [
            entry
            for entry in found["replayAttempts"]
            if entry.get("outcome") is not None or entry.get("epoch") != found["fence"]
        ]
        came = {"at": now, "who": "system", "what": "import", "why": "its replay is not in progress here"}
        found["history"] = [*found["history"], came]
        if found["status"] != Status.RESOLVED:
            found["resolution"] = found["resolvedAt"] = None
    elif replay:
        raise LineRefused(f"replay: is allowed only with status {Status.PROCESSING}")
    if found["status"] == Status.RESOLVED:
        found["resolvedAt"] = found.get("resolvedAt") or found["updatedAt"]
        found["nextRetryAt"] = None
    elif found.get("resolution") or found.get("resolvedAt"):
        raise LineRefused(f"resolution, resolvedAt: are allowed only with status {Status.RESOLVED}")
    for name in ("resolution", "resolvedAt"):
        if found.get(name) is None:
            found.pop(name, None)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LineRefused("repeats a field in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise LineRefused(f"contains {name}, which is not JSON")
