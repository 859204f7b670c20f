"""Parse the messages of a request in C, if nothing about them is unusual.

``domain/parsing.py`` and ``batch_parsing.py`` decide what is valid and which faults are reported. This module answers
None unless it is sure that they would find no fault of parsing and the same values. The number of quotes shows what
msgspec does not report, such as a field that is given twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from messages_app.domain.parsing import MAX_DEPTH, Envelope, payload_codes
from messages_app.rest.contract import MAX_BATCH


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False, rename="camel"):
    payload: Raw
    type: str | UnsetType = UNSET
    message_id: str | UnsetType = UNSET
    priority: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    not_before: str | UnsetType = UNSET


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


def _float(text: str) -> Raw:
    """A number as Python writes it, which is how digests know it. Raises ``ValueError`` if it is too large."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(text)
    return Raw(repr(number))


_read_message: Final = msgspec.json.Decoder(_Message).decode
_read_batch: Final = msgspec.json.Decoder(_Batch).decode
_read_payload: Final = msgspec.json.Decoder(float_hook=_float).decode
_ERRORS: Final = (msgspec.MsgspecError, ValueError, RecursionError)
#: All digits as zero, so that 19 of them in a row are found without a pattern.
_AS_ZERO: Final = bytes(ord("0") if chr(byte).isascii() and chr(byte).isdigit() else byte for byte in range(256))
_LONG: Final = b"0" * 19
_AS_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")

#: Canonical JSON as ``validation.py`` defines it, of content whose floats are ``Raw``.
canonical: Final = msgspec.json.Encoder(order="sorted").encode


def quick_envelope(body: bytes) -> Envelope | None:
    """The message in a body; None if only the strict parser can decide."""
    try:
        message = _read_message(body)
        found = _envelopes(body, [message], quotes=0)
    except _ERRORS:
        return None
    return None if found is None else found[0]


def quick_batch(body: bytes, max_bytes: int) -> Sequence[Envelope] | None:
    """The messages of a batch, none longer than ``max_bytes``; None if only the strict parser can decide."""
    if body.count(b'"payload"') > 2 * MAX_BATCH:
        return None  # far too many messages would be built before they are counted
    try:
        messages = _read_batch(body).messages
        found = _envelopes(body, messages, quotes=2)
    except _ERRORS:
        return None
    if found is None:
        return None
    sizes = [len(envelope.body or b"") for envelope in found]
    longest = len(body) - sum(sizes) + max(sizes)
    return found if longest <= max_bytes else None


def _envelopes(body: bytes, messages: Sequence[_Message], quotes: int) -> list[Envelope] | None:
    """The messages, unless ``body`` has more fields than they have. ``quotes``: those around the messages."""
    found = []
    for message in messages:
        payload = bytes(message.payload)
        fields: dict[str, Any] = {}
        texts = 0
        if (value := message.type) is not UNSET:
            fields["type"], texts = value, 1
        if (value := message.message_id) is not UNSET:
            fields["messageId"], texts = value, texts + 1
        if (value := message.priority) is not UNSET:
            fields["priority"], texts = value, texts + 1
        if (value := message.source) is not UNSET:
            fields["source"], texts = value, texts + 1
        if (tags := message.tags) is not UNSET:
            fields["tags"], texts = tags, texts + len(tags)
        if (value := message.not_before) is not UNSET:
            fields["notBefore"], texts = value, texts + 1
        quotes += 2 * (1 + len(fields) + texts) + payload.count(b'"')
        content = _read_payload(payload)
        if not _is_plain(payload) and payload_codes(content):
            return None
        found.append(Envelope(fields, content, body=payload))
    return found if _is_all(body, quotes) else None


def _is_all(body: bytes, quotes: int) -> bool:
    """Whether ``body`` has no other texts than those that were counted.

    A field that is given twice has a name in quotes that was not counted. An escaped quote is not counted either, so a
    message with one outside its payload is left to the strict parser.
    """
    return body.count(b'"') == quotes


def _is_plain(payload: bytes) -> bool:
    """Whether no value in a payload can have a fault, by its text alone. msgspec has rejected lone surrogates."""
    return b"\\u0000" not in payload and _is_shallow(payload) and _LONG not in payload.translate(_AS_ZERO)


def _is_shallow(payload: bytes) -> bool:
    """Whether a payload has at most ``MAX_DEPTH`` levels."""
    if payload.count(b"{") + payload.count(b"[") <= MAX_DEPTH:
        return True
    if b"\\" in payload:
        payload = payload.replace(b"\\\\", b"").replace(b'\\"', b"")  # now every quote begins or ends a text
    brackets = b"".join(payload.split(b'"')[::2]).translate(_AS_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):  # each round removes the innermost level
        brackets = brackets.replace(b"[]", b"")
    return not brackets
