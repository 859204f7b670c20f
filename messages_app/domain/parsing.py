"""Strict bytes → JSON: the payload's text as it was received, and everything about it that intake refuses.

The scanning is done by the standard library's C scanner. Python code only walks a payload whose text shows a sign of
trouble, with a stack of its own: no input makes it recurse.
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

#: Containers within containers that a payload may have; a plain value has depth 0, ``{}`` has 1.
MAX_DEPTH: Final = 32
#: What 64 bits hold with a sign. Anything larger would change its value in one store or another.
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1

_BOM = b"\xef\xbb\xbf"
_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]  # likewise
_space = re.compile(r"[ \t\n\r]*").match
#: Numbers that may not fit (19 digits, or an exponent of three). Necessary signs, not sufficient ones.
_LONG_NUMBER = re.compile(r"[0-9](?:[0-9]{18}|[eE]\+?[0-9]{3})")
_SURROGATE = re.compile("[\ud800-\udfff]")
_STRUCTURE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{}]', re.DOTALL)
_NUMBER = re.compile(r"[-+0-9.eE]+")


class Fault(NamedTuple):
    """One thing that is wrong: a stable code, the field, and what is allowed."""

    code: str
    field: str
    message: str


_TOO_DEEP = f"is nested too deeply; at most {MAX_DEPTH} levels are allowed"
_HUGE = f"holds an integer outside 64 bits; allowed are {MIN_INTEGER} to {MAX_INTEGER} (send larger ones as text)"
_MESSAGES: Final = {
    "payload_too_deep": _TOO_DEEP,
    "payload_contains_nul": "holds the character U+0000, which cannot be stored; remove it",
    "payload_contains_surrogate": "holds half of a surrogate pair (\\ud800 to \\udfff alone), which is no character",
    "payload_integer_too_large": _HUGE,
    "payload_not_finite": "holds NaN, Infinity or a number too large for one; only finite numbers are JSON",
}


class _Absent:
    """Stands for a field that was not sent; ``None`` is a payload like any other."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


@dataclass(slots=True)
class Envelope:
    """One scanned JSON object: the payload apart, as value and as received, and every other member as sent."""

    fields: dict[str, Any]
    payload: Any
    payload_text: str
    #: Index of the first character after the object.
    end: int
    faults: list[Fault] = field(default_factory=list)


def decode(body: bytes) -> str:
    """The body's text without a byte order mark. Raises ``InvalidJson`` when it is not UTF-8."""
    try:
        return (body[3:] if body.startswith(_BOM) else body).decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
        raise InvalidJson(f"The body {what}.", errors=[{"field": "", "message": what}]) from error


def parse_envelope(text: str) -> Envelope:
    """The one object that ``text`` holds. Raises ``InvalidJson``; what is wrong inside is in ``faults``."""
    start = skip_space(text, 0)
    if text[start : start + 1] != "{":
        _, end, _ = scan_value(text, start)
        expect_end(text, end)
        raise MessageInvalid([Fault("invalid_message", "", "The body must be a JSON object.")])
    envelope = scan_envelope(text, start)
    expect_end(text, envelope.end)
    return envelope


def parse_payload(payload: bytes) -> Any:
    """The value of a payload's text alone, under the same rules as inside a message.

    Raises ``InvalidJson`` or ``MessageInvalid``.
    """
    text = decode(payload)
    value, end, fault = scan_value(text, skip_space(text, 0))
    expect_end(text, end)
    faults = [Fault(fault, "payload", _MESSAGES[fault])] if fault else payload_faults(value, text)
    if faults:
        raise MessageInvalid(faults)
    return value


#: So many fields, or faults, are looked at one by one: far more than a message has.
_MOST_FIELDS = 100


def scan_envelope(text: str, start: int) -> Envelope:
    """Scan the object whose ``{`` is at ``start``.

    Raises ``InvalidJson`` for what is no JSON. A value that cannot be built at all (nested a thousand levels, an
    integer of thousands of digits) is skipped and noted as a fault, so that in a batch the next one can still be read.
    """
    envelope = Envelope({}, ABSENT, "", 0)
    fields = envelope.fields
    at = skip_space(text, start + 1)
    if text[at : at + 1] == "}":
        envelope.end = at + 1
        return envelope
    while True:
        if text[at : at + 1] != '"':
            raise invalid(text, at, "a field name in double quotes is expected")
        try:
            name, at = scanstring(text, at + 1)
        except json.JSONDecodeError as error:
            raise invalid(text, error.pos, error.msg) from error
        at = skip_space(text, at)
        if text[at : at + 1] != ":":
            raise invalid(text, at, "':' is expected")
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
        if len(fields) + len(envelope.faults) > _MOST_FIELDS:
            # Refused whatever follows: most of them are unknown. Only its end is wanted, which C code finds sooner.
            _, envelope.end, _ = scan_value(text, start)
            return envelope
        at = skip_space(text, end)
        following = text[at : at + 1]
        if following == "}":
            envelope.end = at + 1
            return envelope
        if following != ",":
            raise invalid(text, at, "',' or '}' is expected")
        at = skip_space(text, at + 1)


def scan_value(text: str, at: int) -> tuple[Any, int, str | None]:
    """The value at ``at``, where it ends, and the code of the fault for which it could not be built (then None)."""
    try:
        value, end = _scan(text, at)
    except StopIteration as error:
        raise invalid(text, error.value, "a value is expected") from error
    except RecursionError:
        return None, _skip_value(text, at), "payload_too_deep"
    except json.JSONDecodeError as error:
        raise invalid(text, error.pos, error.msg) from error
    except ValueError:
        # The scanner gives a ValueError of its own for an integer of more digits than Python is willing to convert.
        return None, _skip_value(text, at), "payload_integer_too_large"
    return value, end, None


def payload_faults(value: Any, text: str) -> list[Fault]:
    """What intake refuses in a payload, given its value and its text; empty when it can be taken.

    The text is looked at first, in C: without many brackets, escapes, long numbers or the three words, nothing can be
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
    return [Fault(code, "payload", _MESSAGES[code]) for code in sorted(_walk(value))]


def _walk(payload: Any) -> set[str]:
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
    """Where the value at ``at`` ends, found by counting brackets outside strings; what is inside is not looked at."""
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
    raise invalid(text, len(text), "',' or a closing bracket is expected")


def skip_space(text: str, at: int) -> int:
    """The index of the next character that is no white space."""
    if text[at : at + 1] not in (" ", "\n", "\r", "\t"):
        return at
    found = _space(text, at)
    return found.end() if found else at


def expect_end(text: str, at: int) -> None:
    """Raise ``InvalidJson`` when anything but white space follows."""
    at = skip_space(text, at)
    if at != len(text):
        raise invalid(text, at, "the text goes on after the value")


def invalid(text: str, at: int, what: str) -> InvalidJson:
    """What is wrong and where, counted from 1 for people and from 0 in characters for programs."""
    at = min(at, len(text))
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    place = f"line {line}, column {column} (character {at})"
    return InvalidJson(
        f"The body is not valid JSON at {place}: {what.rstrip('.')}.",
        errors=[{"field": "", "message": f"{what.rstrip('.')} at {place}"}],
    )
