"""REST views of replay batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    PolymorphicProxySerializer,
    extend_schema,
    extend_schema_view,
)
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from console.permissions import ADMIN
from dlq_app import conf
from dlq_app.domain.errors import BatchNotFound, OtherOrder
from dlq_app.domain.replay_batch import ORDER_IN, OUTCOME_FILTERS, BatchOrder, ReplayBatch
from dlq_app.rest import audit, batch_contract, contract, openapi, requests, transfer
from dlq_app.rest.audit import actor
from dlq_app.rest.transfer import AsAsked
from dlq_app.services import approval, batches
from dlq_app.services.exporting import FORMS, Stream
from dlq_app.services.outcome_file import OutcomeFile
from wire.contract import Shape, problems
from wire.cursor import MAX_CURSOR

_NOT_FOUND = "`replay_batch_not_found`"
_DRY_RUN_OR_BATCH = PolymorphicProxySerializer(
    component_name="DryRunOrBatch",
    serializers=[batch_contract.DRY_RUN_OUT, batch_contract.BATCH_OUT],  # type: ignore[list-item]
    resource_type_field_name=None,
)
_CURSOR = OpenApiParameter(
    "cursor",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": MAX_CURSOR},
    description="`nextCursor` of the previous page.",
)


def _limit(default: int, most: int) -> OpenApiParameter:
    return OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": most, "default": default})


class StartView(APIView):
    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="startReplayBatch",
        tags=["Replay batches"],
        summary="Replay many dead letters",
        description=(
            'With `"dryRun": true`, reports what would be replayed and writes nothing. Otherwise fixes the plan, '
            "which is the exact list of letters, and answers with the batch; DLQ workers run it. Send either `filter` "
            'or `ids`; an empty filter needs `"all": true`. With an `Idempotency-Key` you can repeat a request whose '
            "answer was lost: the answer is 200 with the batch that it started."
        ),
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                {"type": "string", "pattern": "^[!-~]{1,128}$"},
                OpenApiParameter.HEADER,
                description="The same key of the same client starts only one batch.",
            )
        ],
        request=ORDER_IN,
        responses={
            200: _DRY_RUN_OR_BATCH,
            202: batch_contract.BATCH_OUT,
            **problems(
                s400="`invalid_request`: `errors` lists each problem.",
                s403="`approval_needed`: more letters in one hour than `DLQ_APPROVAL_SIZE`, without the scope `admin`; "
                "or no scope `replay`.",
                s409="`idempotency_conflict`: the key started another batch.",
                s413="`payload_too_large`",
                s503=f"{openapi.AWAY} `replay_batch_planning`: the batch of this key is still being planned.",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        requests.refuse_parameters(request.query_params)
        body: Any = request.data
        order = BatchOrder.parse(body)
        if body.get("dryRun"):
            return _answer(batch_contract.DRY_RUN_OUT, batches.dry_run(order))
        batch_id = requests.batch_id_for(request.headers.get("Idempotency-Key"), actor(request))
        known = _known(batch_id)
        if known is None:
            batch = approval.start(order, actor=actor(request), batch_id=batch_id, unlimited=may_approve(request))
            what = f"replay of {batch.total} letters started"
            audit.log_batch(request, batch.id, batch.name, what, order.reason, count=batch.total)
        else:
            batch = known
        if batch_id and not _was_ordered(batch, order):
            raise OtherOrder("This Idempotency-Key started a batch with other content; send a new key.")
        answer = _answer(batch_contract.BATCH_OUT, batch, status=200 if known else 202)
        answer["Location"] = f"/api/dlq/replay-batches/{batch.id}"
        return answer


def _answer(shape: Shape, data: Any, *, status: int = 200, **beside: Any) -> Response:
    return Response(shape.write({"data": data, **beside}, conf.masking_policy()), status=status)


def _known(batch_id: str | None) -> ReplayBatch | None:
    if batch_id is None:
        return None
    try:
        return batches.get(batch_id)
    except BatchNotFound:
        return None  # the first request with this key, or the first one failed before its plan was complete


def may_approve(request: Request) -> bool:
    """Whether the client may start a batch of any size: a key with the scope, or a user with the permission."""
    key: Any = request.auth
    if key is not None:
        return bool(key.allows("admin"))
    return bool(request.user.has_perm(ADMIN))


def _was_ordered(batch: ReplayBatch, order: BatchOrder) -> bool:
    """Whether ``batch`` came from an equal order. The ids of a batch cannot be compared."""
    scheduled_at = order.scheduled_at
    if scheduled_at is not None:
        scheduled_at = scheduled_at.replace(microsecond=scheduled_at.microsecond // 1000 * 1000)
    return (
        batch.ids_given == bool(order.ids)
        and (batch.ids_given or batch.criteria == order.criteria)
        and (batch.name, batch.reason) == (order.name, order.reason)
        and (batch.rate_per_second, batch.canary) == (order.rate_per_second, order.canary)
        and (batch.max_failures, batch.max_failure_rate) == (order.max_failures, order.max_failure_rate)
        and (batch.limit == order.limit or (order.limit is None and batch.limit == settings.DLQ_APPROVAL_SIZE))
        and batch.scheduled_at == scheduled_at
        and batch.poison == order.poison
    )


class BatchesView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listReplayBatches",
        tags=["Replay batches"],
        summary="List replay batches, newest first",
        parameters=[
            openapi.query("stage", "Repeat it to match any of several stages.", many=True, enum=list(requests.STAGES)),
            _limit(20, requests.MAX_BATCHES),
            _CURSOR,
        ],
        responses={
            200: batch_contract.BATCH_LIST,
            **problems(s400="`invalid_filter`, `invalid_request`: `errors` lists each problem.", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request) -> Response:
        wanted = requests.batches_request(request.query_params)
        found = batches.page(stages=wanted.stages, limit=wanted.limit, cursor=wanted.cursor)
        pagination = {"limit": wanted.limit, "nextCursor": found.next_cursor}
        return _answer(batch_contract.BATCH_LIST, found.batches, pagination=pagination)


class BatchView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getReplayBatch",
        tags=["Replay batches"],
        summary="Show a replay batch",
        responses={200: batch_contract.BATCH_OUT, **problems(s404=_NOT_FOUND, s503=openapi.AWAY)},
    )
    def get(self, request: Request, batch_id: str) -> Response:
        requests.refuse_parameters(request.query_params)
        return _answer(batch_contract.BATCH_OUT, batches.get(batch_id))


class ItemsView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listReplayBatchItems",
        tags=["Replay batches"],
        summary="List the letters of a replay batch",
        description="In sending order. `outcome` is null until it is known.",
        parameters=[
            openapi.query("outcome", "`open`: no outcome yet.", enum=list(OUTCOME_FILTERS)),
            _limit(100, requests.MAX_ITEMS),
            _CURSOR,
        ],
        responses={
            200: batch_contract.ITEM_LIST,
            **problems(
                s400="`invalid_filter`, `invalid_request`: `errors` lists each problem.",
                s404=_NOT_FOUND,
                s503=openapi.AWAY,
            ),
        },
    )
    def get(self, request: Request, batch_id: str) -> Response:
        wanted = requests.items_request(request.query_params)
        found = batches.items(batch_id, outcome=wanted.outcome, limit=wanted.limit, cursor=wanted.cursor)
        pagination = {"limit": wanted.limit, "nextCursor": found.next_cursor}
        return _answer(batch_contract.ITEM_LIST, found.items, pagination=pagination)


class ItemsExportView(APIView):
    required_scopes: ClassVar = {"GET": "read"}
    content_negotiation_class = AsAsked

    @extend_schema(
        operation_id="exportReplayBatchItems",
        tags=["Replay batches"],
        summary="Export the letters of a replay batch with their outcomes",
        description=(
            "In sending order, as a stream. `outcome` is null or an empty cell until it is known. JSON lines end with "
            'a line `{"end": {"count": …, "complete": true}}`; if it is absent or has `false`, letters are missing.'
        ),
        parameters=[
            openapi.query("format", "Default: `jsonl`.", enum=list(FORMS)),
            openapi.query("outcome", "`open`: no outcome yet.", enum=list(OUTCOME_FILTERS)),
        ],
        responses={
            (200, "application/x-ndjson"): OpenApiResponse(OpenApiTypes.STR, description="One letter per line."),
            (200, "text/csv"): OpenApiResponse(OpenApiTypes.STR, description="One letter per row, after a header row."),
            **problems(
                s400="`invalid_filter`: `errors` lists each problem.",
                s404=_NOT_FOUND,
                s503=f"`too_many_exports`: retry later. {openapi.AWAY}",
            ),
        },
    )
    def get(self, request: Request, batch_id: str) -> StreamingHttpResponse:
        form, outcome = requests.items_export_request(request.query_params, tuple(FORMS))
        batches.get(batch_id)
        stream = Stream(OutcomeFile(form=form, batch_id=batch_id, outcome=outcome))
        return transfer.download(stream, f"{batch_id}-outcomes", form)


class ReportView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getReplayBatchReport",
        tags=["Replay batches"],
        summary="Count the outcomes of a replay batch",
        description="By outcome and error type, most frequent first.",
        responses={200: batch_contract.REPORT_OUT, **problems(s404=_NOT_FOUND, s503=openapi.AWAY)},
    )
    def get(self, request: Request, batch_id: str) -> Response:
        requests.refuse_parameters(request.query_params)
        return _answer(batch_contract.REPORT_OUT, batches.report(batch_id))


class BatchMoveView(APIView):
    """A change of stage by an operator; one subclass for each."""

    required_scopes: ClassVar = {"POST": "replay"}
    verb: ClassVar[str]
    move: ClassVar[Callable[..., ReplayBatch]]

    def post(self, request: Request, batch_id: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = contract.REASON_IN.read(request.data)
        batch = type(self).move(batch_id, actor=actor(request), **fields)
        audit.log_batch(request, batch.id, batch.name, self.verb, fields.get("reason", ""))
        return _answer(batch_contract.BATCH_OUT, batch)


def _described(operation: str, summary: str, description: str) -> Callable[[type[BatchMoveView]], type[BatchMoveView]]:
    schema = extend_schema(
        operation_id=operation,
        tags=["Replay batches"],
        summary=summary,
        description=description,
        request=contract.REASON_IN,
        responses={
            200: batch_contract.BATCH_OUT,
            **problems(s404=_NOT_FOUND, s409="`illegal_state`: the detail has the stage.", s503=openapi.AWAY),
        },
    )
    return extend_schema_view(post=schema)


@_described("pauseReplayBatch", "Pause a replay batch", "Sends no more letters until `resume`; outcomes still arrive.")
class PauseView(BatchMoveView):
    verb = "pause"
    move = staticmethod(batches.pause)


@_described("resumeReplayBatch", "Resume a paused replay batch", "Continues in the stage in which it was paused.")
class ResumeView(BatchMoveView):
    verb = "resume"
    move = staticmethod(batches.resume)


@_described(
    "cancelReplayBatch",
    "Cancel a replay batch",
    "Nothing more is sent, except letters that a DLQ worker has already taken: at most 250, or 50 with a rate, a "
    "budget or a canary. Letters that were sent are processed.",
)
class CancelView(BatchMoveView):
    verb = "cancel"
    move = staticmethod(batches.cancel)
