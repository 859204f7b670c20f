"""The one core of intake: bytes and a client in, a reply out. Both doors, the view and the front, only carry them.

Every answer of ``POST /api/messages`` and ``POST /api/messages/batch`` is made here, errors included, so that the doors
cannot differ. A single message costs one round trip to Redis, its rate limit included.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from math import ceil
from os import urandom
from typing import Any, Final

from breaker_app.conf import breaker_for
from breaker_app.policy import WhenOpen
from dlq_app.domain.labels import LABEL, MAX_LABEL
from messages_app import registry
from messages_app.conf import retry_policy
from messages_app.domain.clients import Client
from messages_app.domain.errors import (
    CircuitOpen,
    IdempotencyConflict,
    LengthRequired,
    MessageInvalid,
    MessagesError,
    PayloadTooLarge,
    RateLimited,
    StoreUnavailable,
    UnsupportedMediaType,
)
from messages_app.domain.parsing import (
    ABSENT,
    Envelope,
    Fault,
    decode,
    expect_end,
    invalid,
    parse_envelope,
    scan_envelope,
    scan_value,
    skip_space,
)
from messages_app.domain.records import Acceptance, AcceptAnswer, AcceptStatus, RateLimit, RateState
from messages_app.envelope import DEFAULT_TYPE, Priority
from messages_app.rest.contract import MAX_BATCH, MAX_TAGS, MESSAGE_IN
from messages_app.rest.status import instant, message_path
from messages_app.store.ledger import ledger
from messages_app.store.throttles import count, rate_headers, retry_after_s, submit_limit
from messages_app.work.protection import open_for_ms
from wire.cached import Cached
from wire.problem import CONTENT_TYPE as PROBLEM_TYPE
from wire.problem import encode, problem

MAX_BODY: Final = 256 * 1024
MAX_BATCH_BODY: Final = 8 * 1024 * 1024
#: Of a body that is too long, up to this many bytes are read off, so that the client comes to read the answer.
MAX_SKIPPED: Final = 2 * MAX_BATCH_BODY
#: Faults of one message that an answer names: it shall not be many times as long as the request.
MAX_FAULTS: Final = 20
MAX_AHEAD: Final = timedelta(days=30)

MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KNOWN: Final = frozenset(MESSAGE_IN.names)
_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_PRIORITIES = frozenset(Priority)
#: What two submissions have to agree in to be the same message: sorted, without white space.
_canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
#: A breaker's state is asked for at most this often in each process.
_PEEK_S = 0.25
#: Who is past the limit shall not make this process parse: only a body up to this size is parsed before the request is
#: counted, in the same round trip to Redis that accepts it.
_CHEAP_BODY = 8 * 1024
_SUBMIT = "submit"
_PIECE = 64 * 1024

_GRAVEST_FIRST = {
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


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a client, ready to be sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submission:
    """A message that is as it must be, before anybody asked whether it may be taken."""

    message_id: str
    type: str
    payload: bytes
    #: The circuit breaker of what will handle it, if any.
    breaker: str | None
    digest: str
    priority: str
    #: What the client said, None when it said nothing.
    source: str | None
    tags: str
    not_before_ms: int | None

    def acceptance(self, client: Client) -> Acceptance:
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
        )


# -- the two entries


def submit(head: Mapping[str, Any], read: Callable[[int], bytes], client: Client) -> Reply:
    """Take one message.

    ``head`` holds the request's headers under their CGI names; ``read`` gives its body and is called only if it may be.
    """
    limit = submit_limit(client)
    rate = None
    try:
        body = _read(head, read, MAX_BODY)
    except MessagesError as error:
        return _refused(error, limit)
    # Without an answer of the store the limit is left for the acceptance, which needs the store itself.
    if limit and len(body) > _CHEAP_BODY and (counted := count(limit)):
        passed, rate = counted
        if not passed:
            return _rate_limited_reply(rate)
        limit = None
    try:
        submission = check(parse_envelope(decode(body)), head.get("HTTP_IDEMPOTENCY_KEY"))
        breaker_must_let_pass(submission)
    except MessagesError as error:
        return _problem_reply(error, rate) if rate else _refused(error, limit)
    try:
        answer = ledger().accept(submission.acceptance(client), limit)
        hides = _of_others([answer], client)
    except StoreUnavailable as error:
        return _problem_reply(error, rate)
    return _accepted_reply(answer, rate or answer.rate, hides_state=bool(hides))


def submit_batch(head: Mapping[str, Any], read: Callable[[int], bytes], client: Client) -> Reply:
    """Take up to a thousand messages; one that cannot be taken spoils none of the others. Counts as one request."""
    limit = submit_limit(client)
    try:
        body = _read(head, read, MAX_BATCH_BODY)
    except MessagesError as error:
        return _refused(error, limit)
    rate = None
    if limit and (counted := count(limit)):
        passed, rate = counted
        if not passed:
            return _rate_limited_reply(rate)
    try:
        text = decode(body)
        items = list(_scan_batch(text))
    except MessagesError as error:
        return _problem_reply(error, rate)
    try:
        results = _take_all(text, items, client)
    except StoreUnavailable as error:
        return _problem_reply(error, rate)
    counts = dict.fromkeys(("accepted", "duplicate", "rejected"), 0)
    for result in results:
        counts[result["status"]] += 1
    told = _encode({"data": {"results": results, "counts": counts}}).encode()
    return Reply(202, told, headers=rate_headers(_SUBMIT, rate) if rate else {})


# -- what is asked of a request and of a message


def _read(head: Mapping[str, Any], read: Callable[[int], bytes], most: int) -> bytes:
    """The body. Whatever its headers alone can rule out is ruled out before any of it is kept."""
    content_type = head.get("CONTENT_TYPE") or ""
    if content_type != "application/json":
        media_type, _, parameters = content_type.partition(";")
        charset = parameters.strip().lower().replace('"', "")
        if media_type.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
            raise UnsupportedMediaType("Send the header `Content-Type: application/json` (UTF-8).")
    if (head.get("HTTP_CONTENT_ENCODING") or "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("Send the body uncompressed, without Content-Encoding.")
    announced = head.get("CONTENT_LENGTH") or ""
    if not announced and head.get("HTTP_TRANSFER_ENCODING"):
        raise LengthRequired("Send a Content-Length instead of a chunked body.")
    try:
        length = int(announced or 0)
    except ValueError:
        raise LengthRequired("Content-Length must be a number.") from None
    if length > most:
        if length <= MAX_SKIPPED:
            _skip(read, length)
        raise PayloadTooLarge(f"The body has {length} bytes; at most {most} are allowed.")
    return read(length) if length > 0 else b""


def _skip(read: Callable[[int], bytes], length: int) -> None:
    """Read the body off, keeping nothing.

    A connection that is closed upon bytes nobody read is reset, and the client, still sending, never sees why.
    """
    while length > 0:
        piece = len(read(min(length, _PIECE)))
        if piece == 0:
            return  # the client gave up
        length -= piece


def check(envelope: Envelope, idempotency_key: str | None = None) -> Submission:
    """The message that ``envelope`` holds. Raises ``MessageInvalid`` with everything that is wrong, gravest first."""
    faults = envelope.faults
    fields = envelope.fields
    if not fields.keys() <= _KNOWN:
        allowed = ", ".join(MESSAGE_IN.names)
        faults.extend(
            Fault("unknown_field", name, f"is no field of a message; allowed are {allowed}")
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
        faults.append(Fault("invalid_message", "source", f"must be a text of 1 to {MAX_LABEL} printable characters"))
    tags = get("tags", ())
    if tags != () and not (isinstance(tags, list) and len(tags) <= MAX_TAGS and all(map(_is_label, tags))):
        faults.append(
            Fault(
                "invalid_message",
                "tags",
                f"must be a list of at most {MAX_TAGS} texts of 1 to {MAX_LABEL} printable characters each",
            )
        )
    not_before_ms = None if "notBefore" not in fields else _not_before(fields["notBefore"], faults)
    if faults:
        raise MessageInvalid(_gravest_first(faults))
    given_source = None if source is ABSENT else source
    spec = registry.get(message_type)
    content = _canonical([message_type, envelope.payload, priority, given_source, tags, not_before_ms])
    return Submission(
        message_id=message_id,
        type=message_type,
        payload=envelope.payload_text.encode(),
        breaker=None if spec is None else spec.breaker_of(envelope.payload),
        digest=sha256(content.encode()).hexdigest(),
        priority=priority,
        source=given_source,
        tags=_encode(tags) if tags else "[]",
        not_before_ms=not_before_ms,
    )


def _gravest_first(faults: list[Fault]) -> list[Fault]:
    ordered = sorted(faults, key=lambda fault: _GRAVEST_FIRST[fault.code])
    more = len(ordered) - MAX_FAULTS
    if more <= 0:
        return ordered
    # "At least": of a message with very many fields not all are looked at.
    rest = Fault(ordered[0].code, "", f"and at least {more} more faults")
    return [*ordered[:MAX_FAULTS], rest]


def _type(value: Any, faults: list[Fault]) -> str:
    if not isinstance(value, str) or not registry.TYPE_PATTERN.fullmatch(value):
        faults.append(
            Fault("invalid_message", "type", f"must be a text that matches ^{registry.TYPE_PATTERN.pattern}$")
        )
        return DEFAULT_TYPE
    if registry.get(value) is None:
        known = ", ".join(registry.types())
        faults.append(Fault("unknown_type", "type", f"{value} has no handler; known types are {known}"))
    return value


def _message_id(value: Any, idempotency_key: str | None, faults: list[Fault]) -> str:
    if value is ABSENT and idempotency_key is None:
        return uuid7()
    shape = f"must be a text that matches ^{MESSAGE_ID.pattern}$"
    if idempotency_key is not None:
        # The draft of the header wants it in double quotes; most clients send it bare.
        key = idempotency_key.strip()
        if len(key) >= 2 and key[0] == key[-1] == '"':
            key = key[1:-1]
        if not MESSAGE_ID.fullmatch(key):
            faults.append(Fault("invalid_message", "Idempotency-Key", shape))
        if value is ABSENT:
            return key
        if value != key:
            faults.append(
                Fault("invalid_message", "messageId", "differs from the header Idempotency-Key; send one, or the same")
            )
    if not isinstance(value, str) or not MESSAGE_ID.fullmatch(value):
        faults.append(Fault("invalid_message", "messageId", shape))
    return str(value)


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and LABEL.fullmatch(value) is not None


def _not_before(value: Any, faults: list[Fault]) -> int | None:
    wanted = "must be an ISO 8601 instant with an offset, like 2026-01-31T08:30:00.000Z"
    if not isinstance(value, str) or not _INSTANT.fullmatch(value):
        faults.append(Fault("invalid_message", "notBefore", wanted))
        return None
    try:
        since_epoch = datetime.fromisoformat(value.upper().replace(",", ".")) - _EPOCH
    except ValueError:
        faults.append(Fault("invalid_message", "notBefore", f"{wanted}; this one does not exist"))
        return None
    if since_epoch > datetime.now(UTC) - _EPOCH + MAX_AHEAD:
        faults.append(Fault("invalid_message", "notBefore", f"must be at most {MAX_AHEAD.days} days ahead"))
    # Upwards, so that it never runs early; nothing before the epoch, which is as much in the past as anything.
    return max(0, -(-since_epoch // _MILLISECOND))


def uuid7() -> str:
    """A new UUID of version 7: 48 bits of time in ms, 74 random ones; in text order of time to the millisecond."""
    digits = f"{time.time_ns() // 1_000_000:012x}{urandom(10).hex()}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


# -- the circuit breaker


@partial(Cached, keep_s=_PEEK_S, max_answers=10_000)
def _wait_ms(name: str) -> int | None:
    return open_for_ms(name) if breaker_for(name).policy.when_open is WhenOpen.REJECT else None


def breaker_must_let_pass(submission: Submission) -> None:
    """Raise ``CircuitOpen`` while the breaker of this message is open and its policy is to reject.

    Only looked at, never asked for a permit, and at most every quarter of a second in each process: whoever runs the
    message asks again. Without an answer of the store the message is taken; the worker waits if it has to.
    """
    name = submission.breaker
    if name is None:
        return
    wait_ms = _wait_ms(name)
    if wait_ms is not None:
        seconds = max(1, ceil(wait_ms / 1000))
        raise CircuitOpen(
            # Not "is failing": a person may have forced it open.
            f"The circuit breaker {name} lets no {submission.type} through at the moment; try again in {seconds} s. "
            f"GET /api/breakers/{name} says why.",
            retry_after=seconds,
        )


# -- batches


#: One item: where its text begins and ends, and the message in it or what is wrong with it.
_Item = tuple[int, int, Envelope | MessagesError]


def _scan_batch(text: str) -> list[_Item]:
    """Every item of ``{"messages": [...]}``. Raises for invalid JSON and what is wrong with the batch as a whole."""
    at = skip_space(text, 0)
    if text[at : at + 1] != "{":
        _, end, _ = scan_value(text, at)
        expect_end(text, end)
        raise MessageInvalid([Fault("invalid_message", "", 'The body must be an object: {"messages": [...]}.')])
    items: list[_Item] | None = None
    faults: list[Fault] = []
    at = skip_space(text, at + 1)
    while text[at : at + 1] != "}":
        if text[at : at + 1] != '"':
            raise invalid(text, at, "a field name in double quotes is expected")
        name, at, _ = scan_value(text, at)
        at = skip_space(text, at)
        if text[at : at + 1] != ":":
            raise invalid(text, at, "':' is expected")
        at = skip_space(text, at + 1)
        if name == "messages" and items is None and text[at : at + 1] == "[":
            items, at = _scan_items(text, at)
        else:
            _, at, _ = scan_value(text, at)
            if name != "messages":
                faults.append(Fault("unknown_field", name, "is no field of a batch; allowed is messages"))
            elif items is not None:
                faults.append(Fault("duplicate_field", name, "is given more than once"))
            else:
                faults.append(Fault("invalid_message", name, "must be a list of messages"))
        at = skip_space(text, at)
        if text[at : at + 1] == ",":
            at = skip_space(text, at + 1)
            if text[at : at + 1] == "}":
                raise invalid(text, at, "a field name in double quotes is expected")
        elif text[at : at + 1] != "}":
            raise invalid(text, at, "',' or '}' is expected")
    expect_end(text, at + 1)
    if items is None and not faults:
        faults.append(Fault("invalid_message", "messages", f"is required: 1 to {MAX_BATCH} messages"))
    elif items is not None and not items:
        faults.append(Fault("invalid_message", "messages", f"must hold 1 to {MAX_BATCH} messages"))
    if faults or items is None:
        raise MessageInvalid(_gravest_first(faults))
    return items


def _scan_items(text: str, at: int) -> tuple[list[_Item], int]:
    items: list[_Item] = []
    at = skip_space(text, at + 1)
    if text[at : at + 1] == "]":
        return items, at + 1
    while True:
        if len(items) == MAX_BATCH:
            message = f"must hold 1 to {MAX_BATCH} messages; split it"
            raise MessageInvalid([Fault("invalid_message", "messages", message)])
        found: Envelope | MessagesError
        if text[at : at + 1] == "{":
            found = scan_envelope(text, at)
            end = found.end
        else:
            _, end, _ = scan_value(text, at)
            found = MessageInvalid([Fault("invalid_message", "", "must be a JSON object")])
        items.append((at, end, found))
        at = skip_space(text, end)
        if text[at : at + 1] == "]":
            return items, at + 1
        if text[at : at + 1] != ",":
            raise invalid(text, at, "',' or ']' is expected")
        at = skip_space(text, at + 1)


def _take_all(text: str, items: Sequence[_Item], client: Client) -> list[dict[str, Any]]:
    """One result per item, in order."""
    results: list[dict[str, Any]] = []
    acceptances: list[tuple[int, Acceptance]] = []
    for index, (start, end, found) in enumerate(items):
        try:
            if isinstance(found, MessagesError):
                raise found
            # Four bytes a character at most, so only what could be too long is measured.
            if (end - start) * 4 > MAX_BODY and len(text[start:end].encode()) > MAX_BODY:
                raise PayloadTooLarge(f"A message has at most {MAX_BODY} bytes.")
            submission = check(found)
            breaker_must_let_pass(submission)
        except MessagesError as error:
            given_id = found.fields.get("messageId") if isinstance(found, Envelope) else None
            usable = isinstance(given_id, str) and MESSAGE_ID.fullmatch(given_id)
            results.append(_rejected(index, given_id if usable else None, error))
        else:
            results.append({})
            acceptances.append((index, submission.acceptance(client)))
    answers = ledger().accept_many([acceptance for _, acceptance in acceptances])
    others = _of_others(answers, client)
    for (index, _), answer in zip(acceptances, answers, strict=True):
        if answer.status is AcceptStatus.CONFLICT:
            results[index] = _rejected(index, answer.message_id, IdempotencyConflict())
        else:
            results[index] = {
                "index": index,
                "status": answer.status.value,
                "messageId": answer.message_id,
            }
            if answer.message_id not in others:
                results[index]["state"] = str(answer.state)
    return results


def _rejected(index: int, message_id: str | None, error: MessagesError) -> dict[str, Any]:
    return {
        "index": index,
        "status": "rejected",
        "messageId": message_id,
        "problem": problem(error.status, error.code, error.title, error.detail, error.errors or None),
    }


def _of_others(answers: Sequence[AcceptAnswer], client: Client) -> frozenset[str]:
    """Ids of duplicates that another client submitted, if this one may not read: that they exist is all it learns."""
    ids = [answer.message_id for answer in answers if answer.status is AcceptStatus.DUPLICATE]
    if client.may_read or not ids:
        return frozenset()
    found = zip(ids, ledger().get_many(ids), strict=True)
    return frozenset(message_id for message_id, record in found if record is None or record.client != client.label)


# -- replies


def _accepted_reply(answer: AcceptAnswer, rate: RateState | None, *, hides_state: bool) -> Reply:
    headers = rate_headers(_SUBMIT, rate) if rate else {}
    if answer.status is AcceptStatus.THROTTLED and rate:
        return _rate_limited_reply(rate)
    if answer.status is AcceptStatus.CONFLICT:
        return _problem_reply(
            IdempotencyConflict(f"{answer.message_id} was accepted with other content; use another messageId."),
            rate,
        )
    duplicate = answer.status is AcceptStatus.DUPLICATE
    # Ids, types and states hold nothing that JSON would have to escape.
    state = "" if hides_state else f'"status":"{answer.state}",'
    queued_at = "" if hides_state else f'"queuedAt":"{instant(answer.queued_at_ms)}",'
    body = (
        f'{{"data":{{"messageId":"{answer.message_id}",{state}"type":"{answer.type}",'
        f"{queued_at}{_DUPLICATE if duplicate else ''}"
        f'"links":{{"self":"{message_path(answer.message_id)}"}}}}}}'
    )
    return Reply(200 if duplicate else 202, body.encode(), headers=headers)


_DUPLICATE = '"duplicate":true,'


def _refused(error: MessagesError, limit: RateLimit | None) -> Reply:
    """The reply to what is not taken; it is a request like any other and counts against the limit."""
    counted = count(limit) if limit else None
    if counted is None:
        return _problem_reply(error)
    passed, rate = counted
    return _problem_reply(error, rate) if passed else _rate_limited_reply(rate)


def _rate_limited_reply(rate: RateState) -> Reply:
    wait_s = retry_after_s(rate)
    error = RateLimited(f"{rate.limit} requests per 60 s are allowed; try again in {wait_s} s.", retry_after=wait_s)
    return _problem_reply(error, rate)


def _problem_reply(error: MessagesError, rate: RateState | None = None) -> Reply:
    headers = rate_headers(_SUBMIT, rate) if rate else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    body = encode(problem(error.status, error.code, error.title, error.detail, error.errors or None))
    return Reply(error.status, body, PROBLEM_TYPE, headers)
