"""What may come in as a letter: one line of JSON, judged strictly, as the fields of a document. Pure.

Every field is known by name, type and size; nothing is repaired. What is wrong is said without repeating the line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Any, NoReturn

from dlq_app.domain.criteria import KINDS, PRIORITIES
from dlq_app.domain.fingerprint import fingerprint
from dlq_app.domain.labels import ERROR_TYPE, LABEL, MAX_ERROR_TYPE, MAX_LABEL, WHAT
from dlq_app.domain.masking import MaskingPolicy
from dlq_app.domain.search_terms import error_words
from dlq_app.domain.states import Resolution, Status
from dlq_app.domain.strategies import Strategy
from wire.instants import parse_instant

MAX_PAYLOAD = 256 * 1024
#: What intake's scripts take for an epoch.
_EPOCHS = (0, 10**14 - 1)
_COUNTS = (0, 1_000_000)
_INT64 = (-(2**63), 2**63 - 1)
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_MAX_FREE, _MAX_FREE_DEPTH = 16 * 1024, 20
#: Lists whose entries name who did something.
_SIGNED = ("replayAttempts", "versions", "notes", "history")

_ENDS = ("succeeded", "failed_same", "failed_new")

Reader = Callable[[Any], Any]


class LineRefused(ValueError):
    """This line is no letter that may come in."""


def parse(line: bytes) -> dict[str, Any]:
    """The object in a line; raises ``LineRefused`` for what is no JSON, or has a name twice."""
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


def letter_fields(given: Mapping[str, Any], now: datetime, masking: MaskingPolicy, *, by: str) -> dict[str, Any]:
    """The fields of the letter in a parsed line, as stored, its payload not looked into.

    ``imported`` says that ``by`` imported it, and marks each entry that names somebody: a file may claim any name. What
    the file itself says of an import is not taken over.

    ``fence`` and ``closedEpoch`` are None when the line does not have both. A letter that was being replayed comes as
    waiting, where a release would have put it: the replay belongs to where it came from. Raises ``LineRefused``.
    """
    _known(given, _FIELDS)
    if given.get("masked"):
        raise LineRefused("something in it is hidden; export it with its secrets")
    if given.get("originalMessageBase64"):
        raise LineRefused("originalMessageBase64: is no text, so intake would not run it")
    missing = [name for name in _REQUIRED if given.get(name) is None]
    if missing:
        raise LineRefused(f"lacks {', '.join(missing)}")
    found = {name: _read(name, _FIELDS[name], value) for name, value in given.items()}
    for name in ("masked", "originalMessageBase64"):
        found.pop(name, None)
    for name, default in _defaults(found, now).items():
        if found.get(name) is None:
            found[name] = default
    found["imported"] = {"by": by, "at": now}
    for name in _SIGNED:
        found[name] = [{**entry, "imported": True} for entry in found[name]]
    _place(found, now)
    if found["fence"] and found["closedEpoch"]:
        if found["closedEpoch"] > found["fence"]:
            raise LineRefused("closedEpoch: is above fence")
    else:
        found["fence"] = found["closedEpoch"] = None
    return {**found, **_derived(found, masking)}


def _derived(found: Mapping[str, Any], masking: MaskingPolicy) -> dict[str, Any]:
    """What a letter is found and grouped by: as it is written when a letter dies and when a replay of it ends."""
    derived: dict[str, Any] = {"searchWords": error_words(found["errorType"], found["errorReason"], masking)}
    ended = [one for one in found["replayAttempts"] if one.get("endedAt") and one.get("outcome") in _ENDS]
    if ended:
        last = max(ended, key=lambda one: one.get("epoch", 0))
        derived["lastReplay"] = {"at": last["endedAt"], "outcome": last["outcome"]}
    return derived


def end_of(given: Mapping[str, Any]) -> tuple[int, bool]:
    """How many letters the last line of an export names, and whether it says that these are all."""
    end = given["end"]
    if len(given) > 1 or not isinstance(end, dict):
        raise LineRefused("end: must be the only field, and an object")
    return _read("end.count", _whole(*_INT64), end.get("count")), end.get("complete") is True


def _defaults(found: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    failed_at = found["lastFailedAt"]
    created_at = found.get("createdAt") or failed_at
    reason, stack = found.get("errorReason") or "", found.get("errorStack") or ""
    return {
        "strategy": Strategy.MANUAL.value,
        "errorReason": reason,
        "errorStack": stack,
        "fingerprint": fingerprint(found["errorType"], reason, stack).value,
        "retryCount": 0,
        "dlqRetryCount": 0,
        "priorRuns": 0,
        "nextRetryAt": None,
        "queuedAt": None,
        "createdAt": created_at,
        "firstFailedAt": created_at,
        "updatedAt": now,
        "metadata": {"source": "", "priority": "normal", "tags": [], "client": "", "systemState": {}},
        "fence": None,
        "closedEpoch": None,
        **{name: [] for name in ("attempts", "replayAttempts", "versions", "formerMessages", "notes", "history")},
    }


def _place(found: dict[str, Any], now: datetime) -> None:
    """Where the letter stands once it is in."""
    replay = found.pop("replay", None)
    if found["status"] == Status.PROCESSING:
        found["status"] = (replay or {}).get("from") or Status.MANUAL.value
        found["replayAttempts"] = [
            entry
            for entry in found["replayAttempts"]
            if entry.get("outcome") is not None or entry.get("epoch") != found["fence"]
        ]
        came = {"at": now, "who": "system", "what": "import", "why": "its replay is not under way here"}
        found["history"] = [*found["history"], came]
        if found["status"] != Status.RESOLVED:
            found["resolution"] = found["resolvedAt"] = None
    elif replay:
        raise LineRefused(f"replay: only a letter in {Status.PROCESSING} has one")
    if found["status"] == Status.RESOLVED:
        found["resolvedAt"] = found.get("resolvedAt") or found["updatedAt"]
        found["nextRetryAt"] = None
    elif found.get("resolution") or found.get("resolvedAt"):
        raise LineRefused(f"resolution, resolvedAt: only a letter in {Status.RESOLVED} has them")
    for name in ("resolution", "resolvedAt"):
        if found.get(name) is None:
            found.pop(name, None)


# --- readers: a value as stored, or a ValueError that says what is allowed ---


def _read(name: str, reader: Reader, value: Any) -> Any:
    try:
        return reader(value)
    except LineRefused as error:
        raise LineRefused(f"{name}.{error}") from error
    except ValueError as error:
        raise LineRefused(f"{name}: {error}") from error


def _known(given: Mapping[str, Any], known: Mapping[str, Reader]) -> None:
    strange = [str(name)[:40].encode("ascii", "backslashreplace").decode() for name in given if name not in known]
    if strange:
        raise LineRefused(f"{', '.join(strange[:5])}: unknown field")


def _text(limit: int, *, empty: bool = True) -> Reader:
    def read(value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit or not (value or empty):
            raise ValueError(f"must be a text of at most {limit} characters" + ("" if empty else ", not empty"))
        return _storable(value)

    return read


def _storable(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not hold U+0000")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("must not hold half of a surrogate pair") from None
    return value


def _matching(pattern: str | re.Pattern[str], what: str) -> Reader:
    compiled = re.compile(pattern)

    def read(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"must be {what}")
        return value

    return read


def _one_of(allowed: Sequence[str]) -> Reader:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return value

    return read


def _whole(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return read


def _instant(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("must be an ISO 8601 instant")
    moment = parse_instant(value)
    if not _EARLIEST <= moment < _LATEST:
        # Intake counts milliseconds since 1970, and pages show times in zones that would leave the calendar.
        raise ValueError("must lie from 1970 to 2199")
    # Stored to the millisecond: what is finer would not come out again.
    return moment.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _maybe(reader: Reader) -> Reader:
    return lambda value: None if value is None else reader(value)


def _entry(known: Mapping[str, Reader]) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        _known(value, known)
        return {name: _read(name, known[name], inner) for name, inner in value.items()}

    return read


def _list(reader: Reader, most: int) -> Reader:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"must be a list of at most {most}")
        return [_read(str(position), reader, inner) for position, inner in enumerate(value)]

    return read


def _free(value: Any) -> dict[str, Any]:
    """An object of any names and plain values: no operator, nothing deep, nothing large."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    _plain(value, _MAX_FREE_DEPTH)
    if len(json.dumps(value)) > _MAX_FREE:
        raise ValueError(f"must be at most {_MAX_FREE} characters of JSON")
    return value


def _plain(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError("is nested too deep")
    if isinstance(value, str):
        _storable(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not key or key.startswith("$") or "." in key:
                raise ValueError("must not have names that are empty, begin with $ or hold a dot")
            _storable(key)
            _plain(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, depth - 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        _whole(*_INT64)(value)
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("must hold finite numbers only")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise LineRefused("has a field twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise LineRefused(f"holds {name}, which is not JSON")


_epoch, _count = _whole(*_EPOCHS), _whole(*_COUNTS)
_name, _why = _text(200), _text(2000)
#: What an export says of an import is read and not taken over.
_MARK: dict[str, Reader] = {"imported": _maybe(_bool)}
_error_type = _matching(ERROR_TYPE, f"a text of 1 to {MAX_ERROR_TYPE} characters {WHAT}")
_label = _matching(LABEL, f"a text of 1 to {MAX_LABEL} characters {WHAT}")
_waiting = [status.value for status in Status if status is not Status.PROCESSING]

_ATTEMPT: dict[str, Reader] = {
    "number": _count,
    "startedAt": _maybe(_instant),
    "endedAt": _maybe(_instant),
    "outcome": _one_of(("succeeded", "failed", "lost", "deferred")),
    "errorType": _maybe(_error_type),
    "errorReason": _maybe(_text(8192)),
    "retryDelayMs": _maybe(_whole(*_INT64)),
    "worker": _maybe(_text(300)),
    "epoch": _epoch,
    "durationMs": _whole(*_INT64),
}
_REPLAY_ATTEMPT: dict[str, Reader] = {
    "replayId": _name,
    "epoch": _epoch,
    "kind": _one_of(("operator", "auto", "batch")),
    "by": _name,
    "why": _why,
    "batchId": _name,
    "version": _count,
    "at": _instant,
    "outcome": _maybe(_one_of(("succeeded", "failed_same", "failed_new", "superseded"))),
    "endedAt": _maybe(_instant),
    "errorType": _maybe(_error_type),
    "errorReason": _maybe(_text(1000)),
    **_MARK,
}
_VERSION: dict[str, Reader] = {
    "version": _count,
    "epoch": _epoch,
    "payload": _text(MAX_PAYLOAD),
    "diff": _text(64 * 1024),
    "by": _name,
    "at": _instant,
    "why": _why,
    **_MARK,
}
_FORMER: dict[str, Reader] = {
    "originalMessage": _text(4 * MAX_PAYLOAD),
    "lastFailedAt": _maybe(_instant),
    "until": _instant,
}
_NOTE: dict[str, Reader] = {"at": _instant, "by": _name, "text": _text(4000), **_MARK}
_HISTORY: dict[str, Reader] = {"at": _instant, "who": _name, "what": _text(40), "why": _why, "batchId": _name, **_MARK}
_METADATA: dict[str, Reader] = {
    "source": lambda value: value and _label(value),
    "priority": _one_of(PRIORITIES),
    "tags": _list(_label, 20),
    "client": _text(300),
    "systemState": _free,
}
_FIELDS: dict[str, Reader] = {
    "_id": _matching(r"[0-9a-f]{24}", "24 hexadecimal digits"),
    "messageId": _matching(r"[A-Za-z0-9_-]{1,64}", "1 to 64 letters, digits, _ or -"),
    "type": _matching(r"[a-z][a-z0-9_.-]{0,63}", "a message type, such as order.created"),
    "status": _one_of([status.value for status in Status]),
    "resolution": _maybe(_one_of([resolution.value for resolution in Resolution])),
    "strategy": _maybe(_one_of([strategy.value for strategy in Strategy])),
    "errorType": _error_type,
    "errorKind": _one_of(KINDS),
    "errorReason": _maybe(_text(8 * 1024)),
    "errorStack": _maybe(_text(32 * 1024)),
    "fingerprint": _maybe(_matching(r"[0-9a-f]{16}", "16 hexadecimal digits")),
    "retryCount": _maybe(_count),
    "dlqRetryCount": _maybe(_count),
    "priorRuns": _maybe(_count),
    "nextRetryAt": _maybe(_instant),
    "queuedAt": _maybe(_instant),
    "createdAt": _maybe(_instant),
    "firstFailedAt": _maybe(_instant),
    "lastFailedAt": _instant,
    "updatedAt": _maybe(_instant),
    "resolvedAt": _maybe(_instant),
    "metadata": _maybe(_entry(_METADATA)),
    "originalMessage": _text(MAX_PAYLOAD, empty=False),
    "originalMessageBase64": _maybe(_text(0)),
    "attempts": _maybe(_list(_entry(_ATTEMPT), 100)),
    "replayAttempts": _maybe(_list(_entry(_REPLAY_ATTEMPT), 50)),
    "versions": _maybe(_list(_entry(_VERSION), 20)),
    "formerMessages": _maybe(_list(_entry(_FORMER), 10)),
    "notes": _maybe(_list(_entry(_NOTE), 200)),
    "history": _maybe(_list(_entry(_HISTORY), 200)),
    "fence": _maybe(_epoch),
    "closedEpoch": _maybe(_epoch),
    "replay": _maybe(_entry({"id": _name, "epoch": _epoch, "from": _one_of(_waiting)})),
    "masked": _maybe(_bool),
    "imported": _maybe(_entry({"by": _name, "at": _instant})),
}
_REQUIRED = ("messageId", "type", "status", "errorType", "errorKind", "lastFailedAt", "originalMessage")
