"""Intake: accept the body of a request from a client, and return the reply.

Both entries, the view and ``front.py``, use it for ``POST /api/messages`` and ``POST /api/messages/batch``, so that
their answers cannot differ. A single message costs one round trip to Redis, including its rate limit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from messages_app.domain.clients import Client
from messages_app.domain.errors import (
    IdempotencyConflict,
    LedgerRefused,
    LengthRequired,
    MessagesError,
    PayloadTooLarge,
    StoreUnavailable,
    UnsupportedMediaType,
)
from messages_app.domain.parsing import Envelope, decode, parse_envelope
from messages_app.domain.records import Acceptance, AcceptAnswer, AcceptStatus, RateLimit, RateState
from messages_app.rest.batch_parsing import Item, scan_batch
from messages_app.rest.quick_parsing import quick_batch, quick_envelope
from messages_app.rest.replies import (
    Reply,
    accepted_reply,
    batch_reply,
    problem_reply,
    rate_limited_reply,
    rejected_reply,
)
from messages_app.rest.validation import MESSAGE_ID, Submission, check
from messages_app.store.ledger import ledger
from messages_app.store.throttles import count, count_many, submit_limit
from messages_app.work.protection import reject_while_open
from processes import tracing
from processes.measured import measured
from wire.problem import problem
from wire.traceparent import traceparent_of

if TYPE_CHECKING:
    from processes.spans import Span

MAX_BODY: Final = 256 * 1024
MAX_BATCH_BODY: Final = 8 * 1024 * 1024
#: A body that is too long is read and discarded up to this length, so that the client receives the answer.
MAX_SKIPPED: Final = 2 * MAX_BATCH_BODY
#: Name of the count of messages whose id was known, and the answers to them.
DUPLICATES: Final = "duplicates"
KNOWN_IDS: Final = frozenset({AcceptStatus.DUPLICATE, AcceptStatus.CONFLICT})
#: Maximum size of a body that is parsed before the request is counted. A client over its limit must not make this
#: process parse more. The acceptance counts smaller requests in its own round trip.
CHEAP_BODY: Final = 8 * 1024
_PIECE = 64 * 1024


@dataclass(slots=True, eq=False)
class Pending:
    """A submission of one message that was read, until its reply is there."""

    client: Client
    trace: str
    #: Counts the request; None without a limit, or once it was counted.
    limit: RateLimit | None
    span: Span | None = None
    #: State of the limit once the request was counted.
    rate: RateState | None = None
    acceptance: Acceptance | None = None
    #: The circuit breaker of its handler, if any.
    breaker: str | None = None
    #: Why the request is rejected.
    error: MessagesError | None = None
    reply: Reply | None = None


def submit(head: Mapping[str, Any], read: Callable[[int], bytes], client: Client) -> Reply:
    """Accept one message.

    ``head``: the request's headers under their CGI names. ``read``: reads the body; not called for rejected headers.
    """
    pending = _begin(head, client)
    try:
        body = _read(head, read, MAX_BODY)
    except MessagesError as error:
        pending.error = error
    else:
        # When Redis does not answer, the acceptance counts the request: it needs Redis anyway.
        if pending.limit and len(body) > CHEAP_BODY and (counted := count(pending.limit)):
            passed, pending.rate = counted
            pending.limit = None
            if not passed:
                return _reply(pending, rate_limited_reply(pending.rate))
        _parse(pending, head, body)
    conclude([pending])
    return reply_of(pending)


def prepare(head: Mapping[str, Any], body: bytes, client: Client) -> Pending:
    """The first half of ``submit``: parse and validate. Waits for nothing. ``conclude`` is the second half.

    Only for bodies of at most ``CHEAP_BODY`` bytes: longer ones are counted before they are parsed.
    """
    pending = _begin(head, client)
    try:
        _length(head, MAX_BODY)
    except MessagesError as error:
        pending.error = error
    else:
        _parse(pending, head, body)
    return pending


def conclude(group: Sequence[Pending]) -> StoreUnavailable | None:
    """Accept submissions in one step and set the reply of each, the same as if it were alone.

    Returns the outage that failed the acceptances, if any. Called again with submissions that have no reply yet, it
    accepts none of them twice.
    """
    accepted: list[tuple[Pending, Acceptance]] = []
    for pending in group:
        if pending.acceptance is None:
            continue
        try:
            if pending.breaker is not None:
                reject_while_open(pending.breaker, pending.acceptance.type)
        except MessagesError as error:
            pending.error = error
        else:
            accepted.append((pending, pending.acceptance))
    outage = None
    try:
        requests = [(acceptance, pending.limit) for pending, acceptance in accepted]
        answers = ledger().accept_group(requests) if requests else []
    except StoreUnavailable as error:
        outage = error
        for pending, _ in accepted:
            _reply(pending, problem_reply(error, pending.rate))
    else:
        _reply_answered([pending for pending, _ in accepted], answers)
    _reply_rejected([pending for pending in group if pending.error is not None], outage)
    return outage


def reply_of(pending: Pending) -> Reply:
    """The reply of a concluded submission."""
    if pending.reply is None:
        raise RuntimeError("the submission was not concluded")
    return pending.reply


def fail(pending: Pending, error: MessagesError) -> None:
    """Reply with ``error``, without asking Redis."""
    _reply(pending, problem_reply(error, pending.rate))


def _begin(head: Mapping[str, Any], client: Client) -> Pending:
    pending = Pending(client, traceparent_of(head.get("HTTP_TRACEPARENT")), submit_limit(client))
    if tracing.is_on:
        pending.span = _request_span("/api/messages", pending.trace)
        pending.trace = pending.span.traceparent
    return pending


def _parse(pending: Pending, head: Mapping[str, Any], body: bytes) -> None:
    try:
        submission = check(quick_envelope(body) or parse_envelope(decode(body)), head.get("HTTP_IDEMPOTENCY_KEY"))
    except MessagesError as error:
        pending.error = error
        return
    pending.acceptance = submission.acceptance(pending.client, pending.trace)
    pending.breaker = submission.breaker
    if pending.span is not None:
        about = {"messaging.destination.name": submission.type, "messaging.message.id": submission.message_id}
        pending.span.note(about)


def _reply(pending: Pending, reply: Reply) -> Reply:
    pending.reply = reply
    if pending.span is not None:
        _end(pending.span, reply)
    return reply


def _reply_answered(group: Sequence[Pending], answers: Sequence[AcceptAnswer | LedgerRefused]) -> None:
    known = [
        (pending, answer)
        for pending, answer in zip(group, answers, strict=True)
        if isinstance(answer, AcceptAnswer) and answer.status in KNOWN_IDS
    ]
    hidden: frozenset[tuple[str, str]] = frozenset()
    if known:
        measured.count(DUPLICATES, by=len(known))
        try:
            hidden = _of_others([(answer, pending.client) for pending, answer in known])
        except StoreUnavailable as error:
            for pending, duplicate in known:
                if duplicate.status is AcceptStatus.DUPLICATE and not pending.client.may_read:
                    fail(pending, error)
    for pending, answer in zip(group, answers, strict=True):
        if isinstance(answer, LedgerRefused):
            fail(pending, answer)
        elif pending.reply is None:
            hides_state = (pending.client.label, answer.message_id) in hidden
            _reply(pending, accepted_reply(answer, pending.rate or answer.rate, hides_state=hides_state))


def _reply_rejected(group: Sequence[Pending], outage: StoreUnavailable | None) -> None:
    """Rejected requests count against their limits like any other, unless Redis has just failed to answer."""
    limits = [pending.limit for pending in group if pending.limit is not None]
    counted = None if outage is not None else count_many(limits)
    states = iter(counted or ())
    for pending in group:
        passed, rate = next(states) if counted and pending.limit is not None else (True, pending.rate)
        if not passed and rate is not None:
            _reply(pending, rate_limited_reply(rate))
        elif pending.error is not None:
            _reply(pending, problem_reply(pending.error, rate))


def submit_batch(head: Mapping[str, Any], read: Callable[[int], bytes], client: Client) -> Reply:
    """Accept up to a thousand messages. A rejected one does not affect the others. Counts as one request.

    All of them belong to the trace of the request.
    """
    trace = traceparent_of(head.get("HTTP_TRACEPARENT"))
    if not tracing.is_on:
        return _submit_batch(head, read, client, trace)
    span = _request_span("/api/messages/batch", trace)
    reply = _submit_batch(head, read, client, span.traceparent, span)
    _end(span, reply)
    return reply


def _submit_batch(
    head: Mapping[str, Any], read: Callable[[int], bytes], client: Client, trace: str, span: Span | None = None
) -> Reply:  # fmt: skip
    limit = submit_limit(client)
    try:
        body = _read(head, read, MAX_BATCH_BODY)
    except MessagesError as error:
        return rejected_reply(error, limit)
    rate = None
    if limit and (counted := count(limit)):
        passed, rate = counted
        if not passed:
            return rate_limited_reply(rate)
    try:
        text, items = _items(body)
    except MessagesError as error:
        return problem_reply(error, rate)
    if span is not None:
        span.note({"messaging.batch.message_count": len(items)})
    try:
        results = _accept_all(text, items, client, trace)
    except StoreUnavailable as error:
        return problem_reply(error, rate)
    return batch_reply(results, rate)


def _items(body: bytes) -> tuple[str, Sequence[Item]]:
    quick = quick_batch(body, MAX_BODY)
    if quick is not None:
        return "", [(0, 0, envelope) for envelope in quick]
    text = decode(body)
    return text, scan_batch(text)


def _request_span(route: str, parent: str) -> Span:
    about = {"http.request.method": "POST", "http.route": route, "messaging.system": "dlq"}
    return tracing.start(f"POST {route}", "server", parent, about)


def _end(span: Span, reply: Reply) -> None:
    # As the conventions of HTTP say: a request that the server refuses is not the server's error.
    failed = f"{reply.status}" if reply.status >= 500 else ""
    span.end({"http.response.status_code": reply.status}, error_type=failed)


def _read(head: Mapping[str, Any], read: Callable[[int], bytes], max_bytes: int) -> bytes:
    """The body. Invalid headers are rejected before it is read."""
    length = _length(head, max_bytes, read)
    return read(length) if length > 0 else b""


def _length(head: Mapping[str, Any], max_bytes: int, read: Callable[[int], bytes] | None = None) -> int:
    """The length of the body, by valid headers. ``read`` discards one that is too long."""
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
    if length > max_bytes:
        if length <= MAX_SKIPPED and read is not None:
            _skip(read, length)
        raise PayloadTooLarge(f"The body has {length} bytes; at most {max_bytes} are allowed.")
    return length


def _skip(read: Callable[[int], bytes], length: int) -> None:
    """Read and discard the body.

    Closing a connection with unread bytes resets it, and a client that is still sending never receives the answer.
    """
    while length > 0:
        piece = len(read(min(length, _PIECE)))
        if piece == 0:
            return  # the client gave up
        length -= piece


def _admissible(envelope: Envelope) -> Submission:
    submission = check(envelope)
    if submission.breaker is not None:
        reject_while_open(submission.breaker, submission.type)
    return submission


def _accept_all(text: str, items: Sequence[Item], client: Client, trace: str) -> list[dict[str, Any]]:
    """Accept the items; one result each, in order."""
    results: list[dict[str, Any]] = []
    acceptances: list[tuple[int, Acceptance]] = []
    for index, (start, end, found) in enumerate(items):
        try:
            if isinstance(found, MessagesError):
                raise found
            # A character has at most four bytes, so shorter texts need not be encoded.
            if (end - start) * 4 > MAX_BODY and len(text[start:end].encode()) > MAX_BODY:
                raise PayloadTooLarge(f"A message has at most {MAX_BODY} bytes.")
            submission = _admissible(found)
        except MessagesError as error:
            given_id = found.fields.get("messageId") if isinstance(found, Envelope) else None
            usable = isinstance(given_id, str) and MESSAGE_ID.fullmatch(given_id)
            results.append(_rejected(index, given_id if usable else None, error))
        else:
            results.append({})
            acceptances.append((index, submission.acceptance(client, trace)))
    answers = ledger().accept_group([(acceptance, None) for _, acceptance in acceptances])
    known = [answer for answer in answers if isinstance(answer, AcceptAnswer) and answer.status in KNOWN_IDS]
    others = _of_others([(answer, client) for answer in known]) if known else frozenset()
    if known:
        measured.count(DUPLICATES, by=len(known))
    for (index, acceptance), answer in zip(acceptances, answers, strict=True):
        if isinstance(answer, LedgerRefused):
            results[index] = _rejected(index, acceptance.message_id, answer)
        elif answer.status is AcceptStatus.CONFLICT:
            results[index] = _rejected(index, answer.message_id, IdempotencyConflict())
        else:
            results[index] = {
                "index": index,
                "status": answer.status.value,
                "messageId": answer.message_id,
            }
            if not others or (client.label, answer.message_id) not in others:
                results[index]["state"] = str(answer.state)
    return results


def _rejected(index: int, message_id: str | None, error: MessagesError) -> dict[str, Any]:
    return {
        "index": index,
        "status": "rejected",
        "messageId": message_id,
        "problem": problem(error.status, error.code, error.title, error.detail, error.errors or None),
    }


def _of_others(answers: Sequence[tuple[AcceptAnswer, Client]]) -> frozenset[tuple[str, str]]:
    """Client and id of each duplicate that another client submitted: this one learns only that the id is taken.

    Clients that may read are left out.
    """
    asked = [
        (client.label, answer.message_id)
        for answer, client in answers
        if answer.status is AcceptStatus.DUPLICATE and not client.may_read
    ]
    if not asked:
        return frozenset()
    found = zip(asked, ledger().get_many([message_id for _, message_id in asked]), strict=True)
    return frozenset(one for one, record in found if record is None or record.client != one[0])
