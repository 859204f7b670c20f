"""The answer of ``GET /api/messages/{messageId}``: secrets hidden, the rest byte for byte as received."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from dlq_app.domain.masking import MaskingPolicy, mask_json, mask_text
from messages_app.domain.records import Record, State
from wire.traceparent import trace_id_of

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WAITING = frozenset({State.SCHEDULED, State.RETRY_WAIT})


def instant(ms: int) -> str:
    """Epoch milliseconds as ISO 8601 in UTC with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    # isoformat costs a third of strftime, and every acceptance shows an instant.
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{rest:03d}Z"


def message_path(message_id: str) -> str:
    return f"/api/messages/{message_id}"


def status_body(record: Record, masking: MaskingPolicy | None) -> bytes:
    """The body of the answer. Without a masking policy nothing is hidden: only for users who may see secrets.

    Stored JSON text (payload, tags, attempts, result) is copied unchanged unless a part of it is hidden: encoding it
    again could change it. ``deadLetterId`` is the message id, which ``/api/dlq/{id}`` also accepts, so MongoDB is not
    queried.
    """
    has_letter = record.state is State.DEAD or bool(record.replay_id)
    dead_letter_id = record.message_id if has_letter else None
    waits_until = record.due_at_ms if record.state in _WAITING else None
    head = _encode(
        {
            "messageId": record.message_id,
            "type": record.type,
            "status": record.state.value,
            "source": record.source if masking is None else mask_text(record.source, masking),
            "priority": record.priority,
        }
    )
    middle = _encode(
        {
            "queuedAt": instant(record.queued_at_ms),
            "notBefore": _optional(record.not_before_ms),
            "finishedAt": _optional(record.finished_at_ms),
            "retryCount": record.attempt,
            "nextAttemptAt": _optional(waits_until),
        }
    )
    tail = _encode(
        {
            "deadLetterId": dead_letter_id,
            "traceId": trace_id_of(record.traceparent) or None,
            "links": {
                "self": message_path(record.message_id),
                # Not /api/dlq/{id}: a message may be called `stats`, which is an address there.
                "deadLetter": f"/api/dlq/by-message/{dead_letter_id}" if dead_letter_id else None,
            },
        }
    )
    return b"".join(
        (
            b'{"data":',
            head[:-1].encode(),
            b',"tags":',
            _json((record.tags or "[]").encode(), masking),
            b",",
            middle[1:-1].encode(),
            b',"attempts":',
            _json(f"[{record.attempts}]".encode(), masking),
            b',"result":',
            _json((record.result or "null").encode(), masking),
            b',"payload":',
            b"null" if record.body is None else _json(record.body, masking),
            b",",
            tail[1:].encode(),
            b"}",
        )
    )


def _json(stored: bytes, masking: MaskingPolicy | None) -> bytes:
    if masking is None:
        return stored
    text = stored.decode("utf-8", "backslashreplace")
    shown = mask_json(text, masking)
    return stored if shown == text else shown.encode("utf-8", "backslashreplace")


def _optional(ms: int | None) -> str | None:
    return instant(ms) if ms else None
