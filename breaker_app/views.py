"""REST views of circuit breakers."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit_app.lines import record
from breaker_app import contract, services
from wire.contract import problems

_NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, description="Name of the breaker.")


class BreakersView(APIView):
    """Every breaker in a handler or in the policy file."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listBreakers",
        tags=["Circuit breakers"],
        summary="List the circuit breakers",
        description="All on one page, one for each downstream. Reading them changes nothing.",
        responses={200: contract.LIST_OUT, **problems(s503="`store_unavailable`")},
    )
    def get(self, request: Request) -> Response:
        cards = services.with_held(services.cards())
        page = {"page": 1, "limit": len(cards), "total": len(cards), "pages": 1}
        return Response(contract.LIST_OUT.write({"data": cards, "pagination": page}))


class BreakerView(APIView):
    """One breaker with its last 100 transitions."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getBreaker",
        tags=["Circuit breakers"],
        summary="Show a circuit breaker",
        description="State, counts, thresholds, and the last 100 transitions with reason and actor.",
        parameters=[_NAME],
        responses={
            200: contract.DETAIL_OUT,
            **problems(s404="`breaker_not_found`", s503="`store_unavailable`"),
        },
    )
    def get(self, request: Request, name: str) -> Response:
        return Response(contract.DETAIL_OUT.write({"data": services.card(name)}))


class OrderView(APIView):
    """A change of state by an operator; one subclass for each."""

    required_scopes: ClassVar = {"POST": "admin"}
    #: One of ``services.ORDERS``.
    what: ClassVar[str]

    def post(self, request: Request, name: str) -> Response:
        reason = contract.REASON_IN.read(request.data)["reason"]
        who = getattr(request, "actor", "")
        card = services.order(name, self.what, actor=who, reason=reason)
        record(who, self.what, kind="breaker", object_id=name, name=name, why=reason.strip())
        return Response(contract.DETAIL_OUT.write({"data": card}))


def _order(operation_id: str, summary: str, description: str) -> Any:
    post = extend_schema(
        operation_id=operation_id,
        tags=["Circuit breakers"],
        summary=summary,
        description=f"{description} The transition and the audit log have the operator and the reason.",
        parameters=[_NAME],
        request=contract.REASON_IN,
        responses={
            200: contract.DETAIL_OUT,
            **problems(
                s400="`invalid_request`: no reason, or an unknown field. `invalid_json`.",
                s404="`breaker_not_found`",
                s413="`payload_too_large`",
                s503="`store_unavailable`: the change may have happened; it is safe to repeat it.",
            ),
        },
    )
    return extend_schema_view(post=post)


@_order("forceOpenBreaker", "Force a breaker open", "Rejects every call until an operator resets it.")
class ForceOpenView(OrderView):
    what = "force-open"


@_order("disableBreaker", "Disable a breaker", "Admits every call and counts nothing until an operator resets it.")
class DisableView(OrderView):
    what = "disable"


@_order("resetBreaker", "Reset a breaker", "Closes it with an empty window, from any state.")
class ResetView(OrderView):
    what = "reset"
