"""The diff between an edited version and its original message, with secrets hidden."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from dlq_app.domain.difference import diff
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.masking import MaskingPolicy, mask_json, masked
from dlq_app.domain.payload import NotJson, parse, written

ONLY_HIDDEN: Final = "(only hidden values differ)"
#: Cached diffs, of at most 64 KiB each: a page that refreshes needs the same ones every few seconds.
_KEPT = 64
_made: OrderedDict[tuple[bytes, bytes, MaskingPolicy], str] = OrderedDict()
_lock = threading.Lock()


def masked_diff(letter: DeadLetter, version: Mapping[str, Any], masking: MaskingPolicy) -> str:
    """Unified diff of the two payloads with secrets hidden.

    Computed from the payloads. The stored diff contains secrets, and its lines cannot be masked: the key that makes a
    value secret may be on another line.
    """
    before, after = _original(letter, version), str(version.get("payload") or "")
    key = (_digest(before), _digest(after), masking)
    with _lock:
        known = _made.get(key)
        if known is not None:
            _made.move_to_end(key)
            return known
    found = diff(_shown(before, masking), _shown(after, masking)) or only_hidden(before, after, masking)
    with _lock:
        _made[key] = found
        while len(_made) > _KEPT:
            _made.popitem(last=False)
    return found


def _original(letter: DeadLetter, version: Mapping[str, Any]) -> str:
    """The message that was edited: a later one with the same id may have replaced it."""
    at = version.get("at")
    for former in letter.former_messages:  # oldest first
        until = former.get("until")
        if isinstance(at, datetime) and isinstance(until, datetime) and until > at:
            raw = former.get("originalMessage")
            return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw or "")
    return letter.text


def only_hidden(before: str, after: str, masking: MaskingPolicy) -> str:
    """Return ``ONLY_HIDDEN`` if the payloads differ only in masked values, else an empty text."""
    try:
        one, other = parse(before), parse(after)
    except NotJson:
        return ""
    return ONLY_HIDDEN if one != other and masked(one, masking) == masked(other, masking) else ""


def _shown(text: str, masking: MaskingPolicy) -> str:
    try:
        return written(masked(parse(text), masking), indent=2)
    except NotJson:
        return mask_json(text, masking)


def _digest(text: str) -> bytes:
    return sha256(text.encode("utf-8", "backslashreplace")).digest()
