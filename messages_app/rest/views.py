"""REST views of intake. ``intake.py`` and ``status.py`` build the answers."""

from __future__ import annotations

import logging
from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from audit_app.lines import record as audited
from dlq_app import conf
from dlq_app.rest import requests
from messages_app.domain.errors import MessageNotFound
from messages_app.domain.records import Record
from messages_app.rest import contract, intake
from messages_app.rest.replies import Reply
from messages_app.rest.status import status_body
from messages_app.rest.validation import MESSAGE_ID
from messages_app.store.ledger import ledger
from wire.contract import problems

log = logging.getLogger(__name__)

_RATE_HEADERS = [
    OpenApiParameter(
        name, str, OpenApiParameter.HEADER, response=[200, 202, 400, 409, 429], description="Structured field."
    )
    for name in ("RateLimit", "RateLimit-Policy")
]
_RETRY_AFTER = OpenApiParameter(
    "Retry-After", int, OpenApiParameter.HEADER, response=[429, 503], description="Seconds."
)
_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "pattern": f"^{MESSAGE_ID.pattern}$"},
    OpenApiParameter.HEADER,
    description="An alternative to `messageId`. If you send both, they must be equal.",
)


_TRACEPARENT = OpenApiParameter(
    "traceparent",
    {"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"},
    OpenApiParameter.HEADER,
    description="W3C Trace Context: the trace to which the message belongs. An invalid value is ignored. Not a part of "
    "the content: a repetition may have another. `tracestate` is not kept.",
)


def _response(reply: Reply) -> HttpResponse:
    return HttpResponse(reply.body, status=reply.status, content_type=reply.content_type, headers=dict(reply.headers))


def _record(message_id: str) -> Record:
    record = ledger().get(message_id) if MESSAGE_ID.fullmatch(message_id) else None
    if record is None:
        raise MessageNotFound(f"There is no message {message_id}.")
    return record


def _status_of(message_id: str) -> HttpResponse:
    return HttpResponse(status_body(_record(message_id), conf.masking_policy()), content_type="application/json")


class MessagesView(APIView):
    """Submit one message."""

    required_scopes: ClassVar = {"POST": "submit"}
    # The acceptance counts the request, in the same step in Redis.
    throttle_classes = ()

    @extend_schema(
        operation_id="submitMessage",
        tags=["Messages"],
        summary="Submit a message",
        description=(
            "Accepts a message for processing and answers at once. The same `messageId` with the same content gets "
            "200 with the current state and `duplicate: true`; it is not queued again. "
            "All clients share one space of ids, because an id is also the key of the dead letter: use a prefix of "
            "your own, such as `shop-`. For a message of another client, a client without the scope `read` only gets "
            "to know that the id is taken: 409, or for the same content 200 without `status` and `queuedAt`. "
            "Maximum size of the body: 256 KiB."
        ),
        parameters=[_IDEMPOTENCY_KEY, _TRACEPARENT, *_RATE_HEADERS, _RETRY_AFTER],
        request=contract.MESSAGE_IN,
        responses={
            202: contract.ACCEPTED_OUT,
            200: OpenApiResponse(contract.ACCEPTED_OUT, description="Already accepted; not queued again."),
            **problems(
                s400="`invalid_json`, `invalid_message`, `unknown_field`, `duplicate_field`, `unknown_type`, "
                "`payload_too_deep`, `payload_contains_nul`, `payload_contains_surrogate`, "
                "`payload_integer_too_large`, `payload_not_finite`",
                s409="`idempotency_conflict`: the id was used for other content.",
                s411="`length_required`",
                s413="`payload_too_large`",
                s415="`unsupported_media_type`",
                s503="`store_unavailable`, `not_confirmed`, `intake_busy`, or `circuit_open`: the handler's circuit "
                "breaker is open.",
            ),
        },
        examples=[
            OpenApiExample(
                "A message",
                value={
                    "type": "demo",
                    "payload": {"orderId": 4711, "simulateError": False},
                    "messageId": "order-4711-created",
                    "priority": "high",
                    "tags": ["orders"],
                },
                request_only=True,
            ),
            OpenApiExample(
                "Accepted",
                value={
                    "data": {
                        "messageId": "order-4711-created",
                        "status": "queued",
                        "type": "demo",
                        "queuedAt": "2026-01-31T08:30:00.000Z",
                        "links": {"self": "/api/messages/order-4711-created"},
                    }
                },
                response_only=True,
                status_codes=["202"],
            ),
        ],
    )
    def post(self, request: Request) -> HttpResponse:
        raw = request._request
        return _response(intake.submit(raw.META, raw.read, request.client))  # type: ignore[attr-defined]


class BatchView(APIView):
    """Submit many messages in one request."""

    required_scopes: ClassVar = {"POST": "submit", "GET": "read"}

    def get_throttles(self) -> list[BaseThrottle]:
        # The acceptance counts a batch; a GET is counted as any other.
        return [] if self.request.method == "POST" else super().get_throttles()

    @extend_schema(
        operation_id="submitMessages",
        tags=["Messages"],
        summary="Submit up to 1000 messages",
        description=(
            "One result per message, in order; a rejected message does not affect the others. The request counts once "
            "against the rate limit. Maximum size of the body: 8 MiB; of each message: 256 KiB. "
            "Give every message an id: then you can send the batch again after a 503, and no message is accepted twice."
        ),
        parameters=[_TRACEPARENT, *_RATE_HEADERS, _RETRY_AFTER],
        request=contract.BATCH_IN,
        responses={
            202: contract.BATCH_ACCEPTED_OUT,
            **problems(
                s400="`invalid_json`, `invalid_message`, `unknown_field`: the batch as a whole is invalid.",
                s411="`length_required`",
                s413="`payload_too_large`",
                s415="`unsupported_media_type`",
                s503="`store_unavailable`, `not_confirmed`: some of the messages may have been accepted.",
            ),
        },
    )
    def post(self, request: Request) -> HttpResponse:
        raw = request._request
        return _response(intake.submit_batch(raw.META, raw.read, request.client))  # type: ignore[attr-defined]

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Show the message whose id is ``batch``: its URL is the same."""
        return _status_of("batch")


class MessageView(APIView):
    """One message and its status."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getMessage",
        tags=["Messages"],
        summary="Show a message",
        description=(
            "Status, attempts, result and payload. Values that look like secrets are hidden, as in a dead letter; the "
            "rest is byte for byte as received. "
            "One hour after a message is done, its payload, source, tags and attempts are deleted (null or empty). "
            "The record is deleted 24 h after the message ended; a dead letter is kept longer, see `/api/dlq/{id}`."
        ),
        responses={
            200: contract.MESSAGE_OUT,
            **problems(s404="`message_not_found`", s503="`store_unavailable`"),
        },
    )
    def get(self, request: Request, message_id: str) -> HttpResponse:
        return _status_of(message_id)


class RevealView(APIView):
    """One message with its secrets; the audit log records the access."""

    required_scopes: ClassVar = {"POST": "admin"}
    parser_classes = (requests.ActionParser,)

    @extend_schema(
        operation_id="revealMessage",
        tags=["Messages"],
        summary="Show a message with its secrets",
        description="The message with nothing hidden. The audit log records the user and the reason.",
        request=contract.REVEAL_IN,
        responses={
            200: contract.MESSAGE_OUT,
            **problems(
                s400="`invalid_request`: `reason` is missing or empty.",
                s404="`message_not_found`",
                s503="`store_unavailable`",
            ),
        },
    )
    def post(self, request: Request, message_id: str) -> HttpResponse:
        requests.refuse_parameters(request.query_params)
        reason = contract.REVEAL_IN.read(request.data)["reason"]
        record = _record(message_id)
        by = str(getattr(request, "actor", "")) or "unknown"
        log.warning("secrets_revealed", extra={"by": by, "message_id": message_id, "why": reason})
        audited(by, "reveal", kind="message", object_id=message_id, name=message_id, why=reason, must=True)
        return HttpResponse(status_body(record, None), content_type="application/json")
