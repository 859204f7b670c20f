"""The difference between an edited version and the message that it was made of, with secrets hidden."""

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
#: Differences kept: a page that refreshes asks for the same ones every few seconds. Each has at most 64 KiB.
_KEPT = 64
_made: OrderedDict[tuple[bytes, bytes, MaskingPolicy], str] = OrderedDict()
_lock = threading.Lock()


def masked_diff(letter: DeadLetter, version: Mapping[str, Any], masking: MaskingPolicy) -> str:
    """Unified diff of the two payloads as they are shown.

    Made anew from the payloads. The stored difference shows the values of both, and lines of it cannot be masked: the
    key that makes a value secret may stand on another line.
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
    """The message that the version was made of: a later one with the same id may have taken its place."""
    at = version.get("at")
    for former in letter.former_messages:  # oldest first
        until = former.get("until")
        if isinstance(at, datetime) and isinstance(until, datetime) and until > at:
            raw = former.get("originalMessage")
            return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else str(raw or "")
    return letter.text


def only_hidden(before: str, after: str, masking: MaskingPolicy) -> str:
    """``ONLY_HIDDEN`` when the payloads differ and read the same."""
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
