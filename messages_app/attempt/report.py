"""The result of an attempt as JSON text: its line in the list of attempts and, after a failure, the full error.

Most messages succeed, so their line is formatted without an encoder.
"""

from __future__ import annotations

import json
from typing import Any

from messages_app.domain.attempt_lines import instant
from messages_app.failures import AttemptTimeout, Failure, clip

#: Maximum length of a reason in the list of attempts. The last error has the whole text.
_REASON_LIMIT = 500
_RESULT_LIMIT = 4 * 1024
#: Replaces a result that cannot be encoded.
NOT_JSON = '{"note":"The result is not JSON and was not kept."}'

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def failed(
    number: int, started_ms: int, ended_ms: int, worker: str, failure: Failure, delay_ms: int | None
) -> str:  # fmt: skip
    """``delay_ms`` is None when no attempt follows."""
    return (
        f'{{"number":{number},"startedAt":"{instant(started_ms)}","endedAt":"{instant(ended_ms)}","outcome":"failed",'
        f'"errorType":"{failure.error_type}","errorReason":{_encode(clip(failure.reason, _REASON_LIMIT))},'
        f'"retryDelayMs":{"null" if delay_ms is None else delay_ms},"worker":"{worker}"}}'
    )


def deferred(number: int, started_ms: int, ended_ms: int, worker: str, why: str) -> str:
    """A run that was started and requeued without using a retry."""
    return (
        f'{{"number":{number},"startedAt":"{instant(started_ms)}","endedAt":"{instant(ended_ms)}","outcome":"deferred",'
        f'"errorType":null,"errorReason":{_encode(why)},"retryDelayMs":null,"worker":"{worker}"}}'
    )


def last_error(failure: Failure, at_ms: int, worker: str, system_state: str) -> str:
    """The error for the record and the dead letter. ``system_state`` is JSON text."""
    return (
        f'{{"errorType":"{failure.error_type}","errorKind":"{failure.kind}","errorReason":{_encode(failure.reason)},'
        f'"errorStack":{_encode(failure.stack)},"at":"{instant(at_ms)}","systemState":{system_state},"worker":"{worker}"}}'
    )


def result(value: Any) -> str:
    """A handler's result as JSON text; empty for None. A long one, or one that is not JSON, becomes a note."""
    if value is None:
        return ""
    if value is True:
        return "true"  # the most frequent result; an encoder is built for each value
    try:
        text = _encode(value)
    except AttemptTimeout:
        raise
    except BaseException:
        # Foreign objects may fail in any way, and the message was processed anyway.
        return NOT_JSON
    if len(text) > _RESULT_LIMIT:
        return f'{{"note":"The result has {len(text)} characters and was not kept."}}'
    return text
