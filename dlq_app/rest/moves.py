"""REST view that resolves, discards, sets aside, resumes or reopens many letters: a dry run, then the move."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from django.core import signing
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlq_app import conf
from dlq_app.domain.errors import RequestInvalid
from dlq_app.domain.operator_moves import MOVES, ORDER_IN, MoveOrder, counted
from dlq_app.rest import audit, openapi, requests
from dlq_app.rest.audit import actor
from dlq_app.rest.batches import may_approve
from dlq_app.rest.contract import MASKED_TEXT
from dlq_app.services import approval, bulk
from dlq_app.store import repository
from dlq_app.store.repository import Selection
from wire.contract import BOOLEAN, COUNT, INSTANT, TEXT, Field, Shape, choice, envelope, many, nullable, problems
from wire.fields import field_error

#: Seconds for which the token of a dry run can be used.
TOKEN_AGE_S = 3600
_SALT = "dlq_app.rest.moves"

PREVIEW_OUT = envelope(
    "LetterMovePreviewOut",
    Shape(
        "LetterMovePreview",
        Field("move", choice(list(MOVES))),
        Field("count", COUNT, "Letters that would be moved, exactly."),
        Field("isTooMany", BOOLEAN, f"More than {bulk.MAX_LETTERS} match: narrow the filter."),
        Field("leftOut", nullable(COUNT), "Letters whose status does not allow the move; null: not known."),
        Field(
            "sample",
            many(
                Shape(
                    "LetterMoveSample",
                    Field("_id", TEXT, get="id"),
                    Field("messageId", TEXT),
                    Field("type", TEXT),
                    Field("status", TEXT),
                    Field("errorType", TEXT),
                    Field("errorReason", MASKED_TEXT),
                    Field("lastFailedAt", INSTANT),
                )
            ),
            "The first of them, at most 10, newest failure first.",
        ),
        Field("asOf", INSTANT, "When they were counted."),
        Field(
            "token",
            nullable(TEXT),
            "Send it within an hour to move exactly these letters. Null: there are none, or too many.",
        ),
    ),
)
DONE_OUT = envelope(
    "LetterMoveOut",
    Shape(
        "LetterMove",
        Field("move", choice(list(MOVES))),
        Field("count", COUNT, "Letters that this request moved."),
        Field("asked", COUNT, "Letters that the dry run counted."),
        Field("skipped", COUNT, "Letters that changed since the dry run, or that an earlier request has moved."),
    ),
)
_PREVIEW_OR_DONE = PolymorphicProxySerializer(
    component_name="LetterMovePreviewOrDone",
    serializers=[PREVIEW_OUT, DONE_OUT],  # type: ignore[list-item]
    resource_type_field_name=None,
)


class MovesView(APIView):
    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="moveDeadLetters",
        tags=["Dead letters"],
        summary="Resolve, discard, set aside, resume or reopen many dead letters",
        description=(
            'With `"dryRun": true`, counts the letters and returns a `token`; nothing is changed. The same request '
            "with that token and a `reason` moves these letters: none that arrived or changed after the count, and "
            "never more than were counted. Each letter moves in one conditional update. You can repeat a request whose "
            "answer was lost, or that failed in between: it moves the rest. Send either `filter` or `ids`; an empty "
            'filter needs `"all": true`.'
        ),
        request=ORDER_IN,
        responses={
            200: _PREVIEW_OR_DONE,
            **problems(
                s400="`invalid_request`: `errors` lists each problem.",
                s403="`approval_needed`: more letters in one hour than `DLQ_APPROVAL_SIZE`, without the scope `admin`; "
                "or no scope `replay`.",
                s503=f"{openapi.AWAY} The detail has the number of moved letters; repeat the request to move the rest.",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        requests.refuse_parameters(request.query_params)
        order = MoveOrder.parse(request.data)
        if order.dry_run:
            return Response(PREVIEW_OUT.write({"data": _preview(order)}, conf.masking_policy()))
        as_of, asked = _counted(order)
        done = approval.move_many(
            _selection(order, as_of),
            order.verb,
            count=asked,
            actor=actor(request),
            reason=order.reason,
            unlimited=may_approve(request),
        )
        name, what = f"{counted(asked)}: {order.selection}", order.outcome(done.count, asked)
        audit.log(request, "", name, what, order.reason, count=done.count)
        if done.stopped:
            stopped = f"{done.count} of {asked} letters were {order.done}; repeat the request to move the rest."
            raise type(done.stopped)(f"{stopped} {done.stopped.detail}", retry_after=done.stopped.retry_after)
        answer = {"move": order.move, "count": done.count, "asked": asked, "skipped": asked - done.count}
        return Response(DONE_OUT.write({"data": answer}))


def _preview(order: MoveOrder) -> dict[str, object]:
    # MongoDB's clock also dates the changes that this time is compared with.
    as_of = repository.now()
    shown = bulk.preview(_selection(order, as_of), order.verb)
    can_move = shown.count and not shown.is_too_many
    token = [order.digest, int(as_of.timestamp() * 1000), shown.count]
    return {
        "move": order.move,
        "count": min(shown.count, bulk.MAX_LETTERS),
        "isTooMany": shown.is_too_many,
        "leftOut": shown.left_out,
        "sample": shown.sample,
        "asOf": as_of,
        "token": signing.dumps(token, salt=_SALT) if can_move else None,
    }


def _counted(order: MoveOrder) -> tuple[datetime, int]:
    """When the letters of the token were counted, and their number. Raises ``RequestInvalid``."""
    try:
        digest, as_of, count = signing.loads(order.token, salt=_SALT, max_age=TOKEN_AGE_S)
    except signing.BadSignature as error:
        raise _token_invalid("is not from a dry run of the last hour") from error
    if digest != order.digest:
        raise _token_invalid("is from a dry run of another move, filter or list of ids")
    return datetime.fromtimestamp(as_of / 1000, UTC), count


def _token_invalid(why: str) -> RequestInvalid:
    message = f'{why}; send the request with "dryRun": true again'
    return RequestInvalid(f"token {message}", errors=[field_error("token", message)])


def _selection(order: MoveOrder, as_of: datetime) -> Selection:
    return Selection(criteria=order.criteria, ids=order.ids, with_message_ids=True, as_of=as_of)
