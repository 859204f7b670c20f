"""Readers of an imported letter's fields: the value to store, or a ``ValueError`` that says what is allowed. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

from dlq_app.domain.filters import PRIORITIES
from dlq_app.domain.labels import ACCEPTED, ERROR_TYPE, LABEL, MAX_ERROR_TYPE, MAX_LABEL
from dlq_app.domain.states import Status
from wire import fields
from wire.fields import Reader, boolean, integer, matching, one_of, storable, text
from wire.traceparent import traceparent_of

MAX_PAYLOAD = 256 * 1024
#: Epochs that intake's scripts accept.
_EPOCHS = (0, 10**14 - 1)
_COUNTS = (0, 1_000_000)
INT64 = (-(2**63), 2**63 - 1)
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_MAX_FREE, _MAX_FREE_DEPTH = 16 * 1024, 20


class LineRefused(ValueError):
    """This line is not a letter that can be imported."""


def read_field(name: str, reader: Reader[Any], value: Any) -> Any:
    try:
        return reader(value)
    except LineRefused as error:
        raise LineRefused(f"{name}.{error}") from error
    except ValueError as error:
        raise LineRefused(f"{name}: {error}") from error


def refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Reader[Any]]) -> None:
    strange = [str(name)[:40].encode("ascii", "backslashreplace").decode() for name in given if name not in known]
    if strange:
        raise LineRefused(f"{', '.join(strange[:5])}: unknown field")


def instant(value: Any) -> datetime:
    moment = fields.instant(value)
    if not _EARLIEST <= moment < _LATEST:
        # Intake counts milliseconds since 1970, and pages show times in zones that would leave the calendar.
        raise ValueError("must be from 1970 to 2199")
    # Stored to the millisecond: what is finer would not come out again.
    return moment.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


def traceparent(value: Any) -> str:
    """A ``traceparent`` as exported."""
    found = traceparent_of(value) if isinstance(value, str) else ""
    if value and not found:
        raise ValueError("must be a traceparent of version 00: 00-<32 hex digits>-<16 hex digits>-<00 or 01>")
    return found


def nullable(reader: Reader[Any]) -> Reader[Any]:
    return lambda value: None if value is None else reader(value)


def entry(known: Mapping[str, Reader[Any]]) -> Reader[Any]:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError("must be an object")
        refuse_unknown(value, known)
        return {name: read_field(name, known[name], inner) for name, inner in value.items()}

    return read


def list_of(reader: Reader[Any], most: int) -> Reader[Any]:
    def read(value: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > most:
            raise ValueError(f"must be a list of at most {most}")
        return [read_field(str(position), reader, inner) for position, inner in enumerate(value)]

    return read


def free(value: Any) -> dict[str, Any]:
    """An object of any names and plain values: no operator, nothing deep, nothing large."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    _plain(value, _MAX_FREE_DEPTH)
    if len(json.dumps(value)) > _MAX_FREE:
        raise ValueError(f"must be at most {_MAX_FREE} characters of JSON")
    return value


def facets(value: Any) -> list[str]:
    """Facets as exported. The import makes its own: other policies and keys may apply here."""
    free(value)
    return []


def _plain(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError("is nested too deep")
    if isinstance(value, str):
        storable(value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not key or key.startswith("$") or "." in key:
                raise ValueError("must not have names that are empty, begin with $ or contain a dot")
            storable(key)
            _plain(inner, depth - 1)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, depth - 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        integer(*INT64)(value)
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("must contain only finite numbers")


# --- fields, and entries of lists ---

epoch, count = integer(*_EPOCHS), integer(*_COUNTS)
_name, _why = text(200), text(2000)
#: What an export says of an import is read and not taken over.
_MARK: dict[str, Reader[Any]] = {"imported": nullable(boolean)}
error_type = matching(ERROR_TYPE, f"a text of 1 to {MAX_ERROR_TYPE} characters {ACCEPTED}")
_label = matching(LABEL, f"a text of 1 to {MAX_LABEL} characters {ACCEPTED}")

attempts = list_of(
    entry(
        {
            "number": count,
            "startedAt": nullable(instant),
            "endedAt": nullable(instant),
            "outcome": one_of(("succeeded", "failed", "lost", "deferred")),
            "errorType": nullable(error_type),
            "errorReason": nullable(text(8192)),
            "retryDelayMs": nullable(integer(*INT64)),
            "worker": nullable(text(300)),
            "epoch": epoch,
            "durationMs": integer(*INT64),
        }
    ),
    100,
)
replay_attempts = list_of(
    entry(
        {
            "replayId": _name,
            "epoch": epoch,
            "kind": one_of(("operator", "auto", "batch")),
            "by": _name,
            "why": _why,
            "batchId": _name,
            "version": count,
            "at": instant,
            "outcome": nullable(one_of(("succeeded", "failed_same", "failed_new", "superseded"))),
            "endedAt": nullable(instant),
            "errorType": nullable(error_type),
            "errorReason": nullable(text(1000)),
            **_MARK,
        }
    ),
    50,
)
versions = list_of(
    entry(
        {
            "version": count,
            "epoch": epoch,
            "payload": text(MAX_PAYLOAD),
            "diff": text(64 * 1024),
            "by": _name,
            "at": instant,
            "why": _why,
            **_MARK,
        }
    ),
    20,
)
former_messages = list_of(
    entry(
        {
            "originalMessage": text(4 * MAX_PAYLOAD),
            "lastFailedAt": nullable(instant),
            "until": instant,
        }
    ),
    10,
)
notes = list_of(entry({"at": instant, "by": _name, "text": text(4000), **_MARK}), 200)
history = list_of(entry({"at": instant, "who": _name, "what": text(40), "why": _why, "batchId": _name, **_MARK}), 200)
metadata = entry(
    {
        "source": lambda value: value and _label(value),
        "priority": one_of(PRIORITIES),
        "tags": list_of(_label, 20),
        "client": text(300),
        "systemState": free,
    }
)
claim = entry(
    {
        "id": _name,
        "epoch": epoch,
        "from": one_of([status.value for status in Status if status is not Status.PROCESSING]),
    }
)
mark = entry({"by": _name, "at": instant})
