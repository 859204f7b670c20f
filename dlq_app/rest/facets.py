"""Letters grouped by facets and other fields, over REST."""

from __future__ import annotations

from typing import Any, ClassVar

from django.http import QueryDict
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.rest import contract, openapi, requests
from dlq_app.services import batches, facets
from wire.contract import problems
from wire.fields import FieldError, digits, field_error, one_of, single, summary

_BY = openapi.query(
    "by",
    "`type`, `source`, `client`, `codeVersion`, `errorType`, or `facet.NAME`. Can be repeated. Default: every facet.",
)
_TOP = openapi.query("top", f"Values of each, 1 to {facets.MAX_TOP}. Default: {facets.TOP}.")


class FacetsView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="groupDeadLetters",
        tags=["Dead letters"],
        summary="Group dead letters by what is inside",
        description=(
            "The most frequent values of each facet, or of the fields in `by`, of the letters that match the filters. "
            "At most the 3000 newest letters are counted: `isPartial` says whether there are more."
        ),
        parameters=[
            _BY,
            _TOP,
            *openapi.FILTERS,
        ],
        responses={
            200: contract.GROUPINGS_OUT,
            **problems(s400="`invalid_filter`: `errors` lists each problem.", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request) -> Response:
        criteria, by, top = _asked(request.query_params)
        found = facets.grouped(criteria, by, top=top)
        answer = {"found": found, "criteria": criteria, "complete": facets.is_filled()}
        return Response(contract.GROUPINGS_OUT.write({"data": answer}, conf.masking_policy()))


class BatchFacetsView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="groupReplayBatch",
        tags=["Replay batches"],
        summary="Group the letters of a replay batch by what is inside",
        description="As `GET /api/dlq/facets`, of the first 3000 letters of the plan.",
        parameters=[_BY, _TOP],
        responses={
            200: contract.GROUPINGS_OUT,
            **problems(s400="`invalid_filter`", s404="`replay_batch_not_found`", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request, batch_id: str) -> Response:
        criteria, by, top = _asked(request.query_params)
        if not criteria.is_empty:
            requests.refuse_parameters(request.query_params)
        batches.get(batch_id)
        found = facets.of_batch(batch_id, by, top=top)
        answer = {"found": found, "criteria": criteria, "complete": facets.is_filled()}
        return Response(contract.GROUPINGS_OUT.write({"data": answer}, conf.masking_policy()))


def _asked(query: QueryDict) -> tuple[LetterCriteria, list[str] | None, int]:
    given = dict(query.lists())
    errors: list[FieldError] = []
    own: dict[str, Any] = {"by": None, "top": facets.TOP}

    def take(name: str, read: Any) -> None:
        values = given.pop(name, None)
        if values is not None:
            try:
                own[name] = read(values)
            except ValueError as error:
                errors.append(field_error(name, str(error)))

    take("by", lambda values: list(dict.fromkeys(map(one_of(facets.names()), values))))
    take("top", lambda values: digits(1, facets.MAX_TOP)(single(values)))
    criteria = LetterCriteria()
    try:
        criteria = LetterCriteria.parse(given)
    except CriteriaInvalid as error:
        errors += error.errors
    if errors:
        raise CriteriaInvalid(summary(errors), errors=errors)
    return criteria, own["by"], own["top"]
