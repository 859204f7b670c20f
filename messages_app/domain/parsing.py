"""Strict JSON parsing: the payload's text as received, and the faults that intake rejects.

The standard library's C scanner does the scanning. Python code walks a payload only when its text looks suspicious,
with an explicit stack: no input makes it recurse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]  # the C scanner of the standard library
from math import isfinite
from typing import Any, Final, NamedTuple

from messages_app.domain.errors import InvalidJson, MessageInvalid

#: Maximum nesting of a payload: a plain value has depth 0, ``{}`` has 1.
MAX_DEPTH: Final = 32
#: Signed 64-bit integers. The stores would change larger ones.
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1

_BOM = b"\xef\xbb\xbf"
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # likewise
_space = re.compile(r"[ \t\n\r]*").match
#: Numbers that may be too large: 19 digits, or an exponent of three. May match valid ones.
_LONG_NUMBER = re.compile(r"[0-9](?:[0-9]{18}|[eE]\+?[0-9]{3})")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
_NUMBER = re.compile(r"[-+0-9.eE]+")


class Fault(NamedTuple):
    """One fault: a stable code, the field, and what is allowed."""

    code: str
    field: str
    message: str


#: Maximum faults of one message in an answer, which must not be many times as long as the request.
MAX_FAULTS: Final = 20
_WORST_FIRST = {
    code: rank
    for rank, code in enumerate(
        (
            "duplicate_field",
            "unknown_field",
            "payload_too_deep",
            "payload_contains_nul",
            "payload_contains_surrogate",
            "payload_integer_too_large",
            "payload_not_finite",
            "unknown_type",
            "invalid_message",
        )
    )
}


def worst_first(faults: list[Fault]) -> list[Fault]:
    """The faults by weight, the first ``MAX_FAULTS`` of them and the number of the others."""
    ordered = sorted(faults, key=lambda fault: _WORST_FIRST[fault.code])
    more = len(ordered) - MAX_FAULTS
    if more <= 0:
        return ordered
    # "At least": not every field is checked when a message has very many.
    rest = Fault(ordered[0].code, "", f"and at least {more} more faults")
    return [*ordered[:MAX_FAULTS], rest]


_TOO_DEEP = f"is nested too deeply; at most {MAX_DEPTH} levels are allowed"
_HUGE = f"contains an integer outside 64 bits; allowed: {MIN_INTEGER} to {MAX_INTEGER} (send larger ones as strings)"
_MESSAGES: Final = {
    "payload_too_deep": _TOO_DEEP,
    "payload_contains_nul": "contains the character U+0000, which cannot be stored; remove it",
    "payload_contains_surrogate": "contains half of a surrogate pair (a lone \\ud800 to \\udfff); remove it",
    "payload_integer_too_large": _HUGE,
    "payload_not_finite": "contains NaN, Infinity or a number that is too large; JSON allows only finite numbers",
}


class _Absent:
    """Marks a field that was not sent; ``None`` is a valid payload."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(slots=True)
class Envelope:
    """A scanned JSON object: the payload as value and as received text, and the other members."""

    fields: dict[str, Any]
    #: Its floats are their canonical text if ``body`` is set; ``value`` has numbers.
    payload: Any
    payload_text: str = ""
    #: Index of the first character after the object.
    end: int = 0
    faults: list[Fault] = field(default_factory=list)
    #: The payload as received, instead of ``payload_text``: set by ``rest/quick_parsing.py``.
    body: bytes | None = None

    @property
    def value(self) -> Any:
        """The payload as Python's own parser reads it."""
        return self.payload if self.body is None else json.loads(self.body.decode())


def decode(body: bytes) -> str:
    """Decode the body, without a byte order mark. Raises ``InvalidJson`` when it is not UTF-8."""
    try:
        return (body[3:] if body.startswith(_BOM) else body).decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise InvalidJson(f"The body {what}.", errors=[{"field": "", "message": what}]) from error


def parse_envelope(text: str) -> Envelope:
    """Parse the one object in ``text``. Raises ``InvalidJson``; faults of its members are in ``faults``."""
    start = skip_space(text, 0)
    if text[start : start + 1] != "{":
        _, end, _ = scan_value(text, start)
        expect_end(text, end)
        raise MessageInvalid([Fault("invalid_message", "", "The body must be a JSON object.")])
    envelope = scan_envelope(text, start)
    expect_end(text, envelope.end)
    return envelope


def parse_payload(payload: bytes) -> Any:
    """Parse a payload on its own, by the same rules as inside a message.

    Raises ``InvalidJson`` or ``MessageInvalid``.
    """
    text = decode(payload)
    value, end, fault = scan_value(text, skip_space(text, 0))
    expect_end(text, end)
    faults = [Fault(fault, "payload", _MESSAGES[fault])] if fault else payload_faults(value, text)
    if faults:
        raise MessageInvalid(faults)
    return value


#: Maximum number of fields and faults that are checked: far more than a message has.
_MAX_FIELDS = 100


def scan_envelope(text: str, start: int) -> Envelope:
    """Scan the object whose ``{`` is at ``start``.

    Raises ``InvalidJson``. A value that cannot be built (nested a thousand levels, an integer of thousands of digits)
    is skipped and recorded as a fault, so that the next message of a batch can still be read.
    """
    envelope = Envelope({}, ABSENT)
    fields = envelope.fields
    at = skip_space(text, start + 1)
    if text[at : at + 1] == "}":
        envelope.end = at + 1
        return envelope
    while True:
        if text[at : at + 1] != '"':
            raise invalid(text, at, "expected a field name in double quotes")
        try:
            name, at = scanstring(text, at + 1)
        except json.JSONDecodeError as error:
            raise invalid(text, error.pos, error.msg) from error
        at = skip_space(text, at)
        if text[at : at + 1] != ":":
            raise invalid(text, at, "expected ':'")
        at = skip_space(text, at + 1)
        value, end, fault = scan_value(text, at)
        if fault:
            envelope.faults.append(Fault(fault, name, _MESSAGES[fault]))
        if name in fields or (name == "payload" and envelope.payload is not ABSENT):
            envelope.faults.append(Fault("duplicate_field", name, "is given more than once"))
        elif name == "payload":
            envelope.payload, envelope.payload_text = value, text[at:end]
            if not fault:
                envelope.faults.extend(payload_faults(value, envelope.payload_text))
        else:
            fields[name] = value
        if len(fields) + len(envelope.faults) > _MAX_FIELDS:
            # Rejected in any case: most of these fields are unknown. Only its end is needed, which C code finds faster.
            _, envelope.end, _ = scan_value(text, start)
            return envelope
        at = skip_space(text, end)
        following = text[at : at + 1]
        if following == "}":
            envelope.end = at + 1
            return envelope
        if following != ",":
            raise invalid(text, at, "expected ',' or '}'")
        at = skip_space(text, at + 1)


def scan_value(text: str, at: int) -> tuple[Any, int, str | None]:
    """The value at ``at``, its end, and a fault's code when it could not be built (the value is None then)."""
    try:
        value, end = _scan(text, at)
    except StopIteration as error:
        raise invalid(text, error.value, "expected a value") from error
    except RecursionError:
        return None, _skip_value(text, at), "payload_too_deep"
    except json.JSONDecodeError as error:
        raise invalid(text, error.pos, error.msg) from error
    except ValueError:
        # An integer with more digits than Python converts.
        return None, _skip_value(text, at), "payload_integer_too_large"
    return value, end, None


def payload_faults(value: Any, text: str) -> list[Fault]:
    """Faults of a payload, given its value and its text; empty for a valid one.

    The text is checked first, in C: without many brackets, escapes, long numbers or the words below nothing can be
    wrong, and the value need not be walked.
    """
    if (
        "\\u" not in text
        and text.count("{") + text.count("[") <= MAX_DEPTH
        and _LONG_NUMBER.search(text) is None
        and "NaN" not in text
        and "Infinity" not in text
    ):
        return []
    return [Fault(code, "payload", _MESSAGES[code]) for code in sorted(payload_codes(value))]


def payload_codes(payload: Any) -> set[str]:
    """Codes of the faults of a payload, found by visiting every value."""
    found: set[str] = set()
    stack: list[tuple[Any, int]] = [(payload, 0)]
    while stack:
        value, depth = stack.pop()
        if isinstance(value, str):
            if "\x00" in value:
                found.add("payload_contains_nul")
            if not value.isascii() and _SURROGATE.search(value):
                found.add("payload_contains_surrogate")
        elif isinstance(value, int):
            if not MIN_INTEGER <= value <= MAX_INTEGER:
                found.add("payload_integer_too_large")
        elif isinstance(value, float):
            if not isfinite(value):
                found.add("payload_not_finite")
        elif isinstance(value, dict | list):
            if depth == MAX_DEPTH:
                found.add("payload_too_deep")
                continue
            parts: Iterable[Any] = value
            if isinstance(value, dict):
                stack.extend((key, depth) for key in value)
                parts = value.values()
            stack.extend((part, depth + 1) for part in parts)
    return found


def _skip_value(text: str, at: int) -> int:
    """The end of the value at ``at``, found by counting brackets outside strings."""
    if text[at] not in "[{":
        number = _NUMBER.match(text, at)
        return number.end() if number else at
    depth = 0
    for token in _STRUCTURE.finditer(text, at):
        sign = token[0]
        if sign in ("[", "{"):
            depth += 1
        elif sign in ("]", "}"):
            depth -= 1
            if depth == 0:
                return token.end()
        elif sign == '"':
            raise invalid(text, token.start(), "Unterminated string")
    raise invalid(text, len(text), "expected ',' or a closing bracket")


def skip_space(text: str, at: int) -> int:
    """The index of the next character that is not white space."""
    if text[at : at + 1] not in (" ", "\n", "\r", "\t"):
        return at
    found = _space(text, at)
    return found.end() if found else at


def expect_end(text: str, at: int) -> None:
    """Raise ``InvalidJson`` unless only white space follows."""
    at = skip_space(text, at)
    if at != len(text):
        raise invalid(text, at, "unexpected text after the value")


def invalid(text: str, at: int, what: str) -> InvalidJson:
    """The error at a place: line and column count from 1, the character offset from 0."""
    at = min(at, len(text))
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    place = f"line {line}, column {column} (character {at})"
    return InvalidJson(
        f"The body is not valid JSON at {place}: {what.rstrip('.')}.",
        errors=[{"field": "", "message": f"{what.rstrip('.')} at {place}"}],
    )
