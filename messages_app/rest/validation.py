"""Validation of a submitted message."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from os import urandom
from typing import Any, Final

from dlq_app.domain.labels import LABEL, MAX_LABEL
from messages_app import registry
from messages_app.conf import retry_policy
from messages_app.domain.clients import Client
from messages_app.domain.errors import MessageInvalid
from messages_app.domain.parsing import ABSENT, Envelope, Fault, worst_first
from messages_app.domain.records import Acceptance
from messages_app.envelope import DEFAULT_TYPE, Priority
from messages_app.rest.contract import MAX_TAGS, MESSAGE_IN
from messages_app.rest.quick_parsing import canonical

MAX_AHEAD: Final = timedelta(days=30)

MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KNOWN: Final = frozenset(MESSAGE_IN.names)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_PRIORITIES = frozenset(Priority)
#: Canonical JSON: two submissions are the same message when this text is equal. ``quick_parsing.canonical`` writes the
#: same.
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


@dataclass(slots=True)
class Submission:
    """A valid message, not accepted yet. Do not change it; it is not frozen, which would be three times slower."""

    message_id: str
    type: str
    payload: bytes
    #: The circuit breaker of its handler, if any.
    breaker: str | None
    digest: str
    priority: str
    #: None when the client sent none.
    source: str | None
    tags: str
    not_before_ms: int | None

    def acceptance(self, client: Client, traceparent: str = "") -> Acceptance:
        return Acceptance(
            message_id=self.message_id,
            type=self.type,
            body=self.payload,
            sha256=self.digest,
            priority=self.priority,
            source=client.source if self.source is None else self.source,
            client=client.label,
            tags=self.tags,
            not_before_ms=self.not_before_ms,
            max_retries=retry_policy(self.type).max_retries,
            accept_token=urandom(12).hex(),
            traceparent=traceparent,
        )


def check(envelope: Envelope, idempotency_key: str | None = None) -> Submission:
    """Validate the message in ``envelope``. Raises ``MessageInvalid`` with all faults, worst first."""
    faults = envelope.faults
    fields = envelope.fields
    if not fields.keys() <= _KNOWN:
        allowed = ", ".join(MESSAGE_IN.names)
        faults.extend(
            Fault("unknown_field", name, f"is not a field of a message; allowed fields: {allowed}")
            for name in fields
            if name not in _KNOWN
        )
    if envelope.payload is ABSENT:
        faults.append(Fault("invalid_message", "payload", "is required: any JSON value"))
    get = fields.get
    message_type = _type(get("type", DEFAULT_TYPE), faults)
    message_id = _message_id(get("messageId", ABSENT), idempotency_key, faults)
    priority = get("priority", "normal")
    if not isinstance(priority, str) or priority not in _PRIORITIES:
        faults.append(Fault("invalid_message", "priority", "must be one of high, normal, low"))
    source = get("source", ABSENT)
    if source is not ABSENT and not _is_label(source):
        faults.append(Fault("invalid_message", "source", f"must be a string of 1 to {MAX_LABEL} printable characters"))
    tags = get("tags", ())
    if tags != () and not (isinstance(tags, list) and len(tags) <= MAX_TAGS and all(map(_is_label, tags))):
        faults.append(
            Fault(
                "invalid_message",
                "tags",
                f"must be a list of at most {MAX_TAGS} strings of 1 to {MAX_LABEL} printable characters each",
            )
        )
    not_before_ms = None if "notBefore" not in fields else _not_before(fields["notBefore"], faults)
    if faults:
        raise MessageInvalid(worst_first(faults))
    given_source = None if source is ABSENT else source
    spec = registry.get(message_type)
    content = [message_type, envelope.payload, priority, given_source, tags, not_before_ms]
    if envelope.body is None:
        payload, text = envelope.payload_text.encode(), _canonical(content).encode()
    else:
        payload, text = envelope.body, canonical(content)
    return Submission(
        message_id=message_id,
        type=message_type,
        payload=payload,
        breaker=None if spec is None else _breaker(spec, envelope),
        digest=sha256(text).hexdigest(),
        priority=priority,
        source=given_source,
        tags=canonical(tags).decode() if tags else "[]",
        not_before_ms=not_before_ms,
    )


def _breaker(spec: registry.HandlerSpec, envelope: Envelope) -> str | None:
    return spec.breaker_of(envelope.value) if callable(spec.breaker) else spec.breaker


def _type(value: Any, faults: list[Fault]) -> str:
    if not isinstance(value, str) or not registry.TYPE_PATTERN.fullmatch(value):
        faults.append(
            Fault("invalid_message", "type", f"must be a string that matches ^{registry.TYPE_PATTERN.pattern}$")
        )
        return DEFAULT_TYPE
    if registry.get(value) is None:
        known = ", ".join(registry.types())
        faults.append(Fault("unknown_type", "type", f"{value} has no handler; known types: {known}"))
    return value


def _message_id(value: Any, idempotency_key: str | None, faults: list[Fault]) -> str:
    if value is ABSENT and idempotency_key is None:
        return uuid7()
    shape = f"must be a string that matches ^{MESSAGE_ID.pattern}$"
    if idempotency_key is not None:
        # The draft standard of the header requires double quotes; most clients omit them.
        key = idempotency_key.strip()
        if len(key) >= 2 and key[0] == key[-1] == '"':
            key = key[1:-1]
        if not MESSAGE_ID.fullmatch(key):
            faults.append(Fault("invalid_message", "Idempotency-Key", shape))
        if value is ABSENT:
            return key
        if value != key:
            faults.append(
                Fault(
                    "invalid_message",
                    "messageId",
                    "differs from the header Idempotency-Key; send only one of them, or equal values",
                )
            )
    if not isinstance(value, str) or not MESSAGE_ID.fullmatch(value):
        faults.append(Fault("invalid_message", "messageId", shape))
    return str(value)


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and LABEL.fullmatch(value) is not None


def _not_before(value: Any, faults: list[Fault]) -> int | None:
    allowed = "must be an ISO 8601 time with an offset, like 2026-01-31T08:30:00.000Z"
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        faults.append(Fault("invalid_message", "notBefore", allowed))
        return None
    try:
        since_epoch = datetime.fromisoformat(value.upper().replace(",", ".")) - _EPOCH
    except ValueError:
        faults.append(Fault("invalid_message", "notBefore", f"{allowed}; this date or time does not exist"))
        return None
    if since_epoch > datetime.now(UTC) - _EPOCH + MAX_AHEAD:
        faults.append(Fault("invalid_message", "notBefore", f"must be at most {MAX_AHEAD.days} days ahead"))
    # Rounded up, so that it never runs early. Times before the epoch count as the epoch.
    return max(0, -(-since_epoch // _MILLISECOND))


def uuid7() -> str:
    """A new UUID of version 7: 48 bits of time in ms, then 74 random bits. Sorts by time as text."""
    digits = f"{time.time_ns() // 1_000_000:012x}{urandom(10).hex()}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"
