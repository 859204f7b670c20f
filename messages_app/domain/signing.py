"""Signatures of Standard Webhooks: HMAC-SHA256 over id, time and body, one for each secret. Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

PREFIX: Final = "whsec_"
#: Minimum and maximum bytes of a secret, by the standard.
MIN_SECRET: Final = 24
MAX_SECRET: Final = 64
#: Maximum difference of a receiver's clock, in seconds.
TOLERANCE_S: Final = 300


class SecretRefused(ValueError):
    """The secret is malformed. The text never contains any part of it."""


def key_of(secret: str) -> bytes:
    """The key of ``whsec_`` and base64; the prefix may be missing. Raises ``SecretRefused``."""
    try:
        key = base64.b64decode(secret.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise SecretRefused(f"must be {PREFIX} followed by base64") from None
    if not MIN_SECRET <= len(key) <= MAX_SECRET:
        raise SecretRefused(f"must hold {MIN_SECRET} to {MAX_SECRET} bytes, not {len(key)}")
    return key


def webhook_id(idempotency_key: str) -> str:
    """The signed id: the same for every attempt, without dots, which separate the signed parts."""
    return idempotency_key.replace(".", ":")


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, ``v1,`` and base64."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, content, 'sha256')).decode()}"


def headers(keys: Sequence[bytes], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The signature headers; without keys only id and timestamp. ``timestamp``: whole seconds since the epoch."""
    made = {"webhook-id": message_id, "webhook-timestamp": str(timestamp)}
    if keys:
        made["webhook-signature"] = " ".join(sign(key, message_id, timestamp, body) for key in keys)
    return made


def is_signed(key: bytes, given: Mapping[str, str], body: bytes, *, now: float) -> bool:
    """Whether a request has a valid signature by this key; header names in lower case."""
    timestamp = given.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(now - int(timestamp)) > TOLERANCE_S:
        return False
    expected = sign(key, given.get("webhook-id", ""), int(timestamp), body).encode()
    return any(hmac.compare_digest(expected, one.encode()) for one in given.get("webhook-signature", "").split())
