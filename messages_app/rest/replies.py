"""Replies of intake, ready to be sent: both entries use the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Final

from messages_app.domain.errors import IdempotencyConflict, MessagesError, RateLimited
from messages_app.domain.records import AcceptAnswer, AcceptStatus, RateLimit, RateState
from messages_app.rest.status import instant, message_path
from messages_app.store.throttles import count, rate_headers, retry_after_s
from wire.problem import CONTENT_TYPE as PROBLEM_TYPE
from wire.problem import encode, problem

_SUBMIT: Final = "submit"
_DUPLICATE: Final = '"duplicate":true,'
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Reply:
    """A status, a body and headers."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def accepted_reply(answer: AcceptAnswer, rate: RateState | None, *, hides_state: bool) -> Reply:
    headers = rate_headers(_SUBMIT, rate) if rate else {}
    if answer.status is AcceptStatus.THROTTLED and rate:
        return rate_limited_reply(rate)
    if answer.status is AcceptStatus.CONFLICT:
        return problem_reply(
            IdempotencyConflict(
                f"{answer.message_id} was already accepted with different content; use another messageId."
            ),
            rate,
        )
    duplicate = answer.status is AcceptStatus.DUPLICATE
    # Ids, types and states need no escaping in JSON.
    state = "" if hides_state else f'"status":"{answer.state}",'
    queued_at = "" if hides_state else f'"queuedAt":"{instant(answer.queued_at_ms)}",'
    body = (
        f'{{"data":{{"messageId":"{answer.message_id}",{state}"type":"{answer.type}",'
        f"{queued_at}{_DUPLICATE if duplicate else ''}"
        f'"links":{{"self":"{message_path(answer.message_id)}"}}}}}}'
    )
    return Reply(200 if duplicate else 202, body.encode(), headers=headers)


def batch_reply(results: Sequence[dict[str, Any]], rate: RateState | None) -> Reply:
    counts = dict.fromkeys(("accepted", "duplicate", "rejected"), 0)
    for result in results:
        counts[result["status"]] += 1
    body = _encode({"data": {"results": results, "counts": counts}}).encode()
    return Reply(202, body, headers=rate_headers(_SUBMIT, rate) if rate else {})


def rejected_reply(error: MessagesError, limit: RateLimit | None) -> Reply:
    """The reply to a rejected request, which counts against the limit like any other."""
    counted = count(limit) if limit else None
    if counted is None:
        return problem_reply(error)
    passed, rate = counted
    return problem_reply(error, rate) if passed else rate_limited_reply(rate)


def rate_limited_reply(rate: RateState) -> Reply:
    wait_s = retry_after_s(rate)
    error = RateLimited(f"The limit is {rate.limit} requests per 60 s; try again in {wait_s} s.", retry_after=wait_s)
    return problem_reply(error, rate)


def problem_reply(error: MessagesError, rate: RateState | None = None) -> Reply:
    headers = rate_headers(_SUBMIT, rate) if rate else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    body = encode(problem(error.status, error.code, error.title, error.detail, error.errors or None))
    return Reply(error.status, body, PROBLEM_TYPE, headers)
