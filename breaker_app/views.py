"""Breakers over REST: look at them, and give them orders."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit_app.lines import record
from breaker_app import contract, services
from wire.contract import problems

_NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, description="What the breaker protects.")


class BreakersView(APIView):
    """Every breaker that a handler or the policy file names."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listBreakers",
        tags=["Circuit breakers"],
        summary="List the circuit breakers",
        description="All of them on one page: there is one per downstream. Looking changes nothing.",
        responses={200: contract.LIST_OUT, **problems(s503="`store_unavailable`")},
    )
    def get(self, request: Request) -> Response:
        cards = services.cards()
        page = {"page": 1, "limit": len(cards), "total": len(cards), "pages": 1}
        return Response(contract.LIST_OUT.write({"data": cards, "pagination": page}))


class BreakerView(APIView):
    """One breaker, its thresholds, and its last hundred changes of state."""

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
    """One order to a breaker; each has a subclass."""

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
        description=f"{description} The reason and who gave the order are kept with the transition and in the "
        "audit log.",
        parameters=[_NAME],
        request=contract.REASON_IN,
        responses={
            200: contract.DETAIL_OUT,
            **problems(
                s400="`invalid_request`: no reason, or a field that is not read. `invalid_json`.",
                s404="`breaker_not_found`",
                s413="`payload_too_large`",
                s503="`store_unavailable`: the order may have been carried out; giving it again does no harm.",
            ),
        },
    )
    return extend_schema_view(post=post)


@_order("forceOpenBreaker", "Force a breaker open", "Refuses every call until somebody resets it.")
class ForceOpenView(OrderView):
    """Refuse every call until a person says otherwise."""

    what = "force-open"


@_order("disableBreaker", "Disable a breaker", "Lets every call pass and counts nothing until somebody resets it.")
class DisableView(OrderView):
    """Let every call pass, count nothing."""

    what = "disable"


@_order("resetBreaker", "Reset a breaker", "Closes it with an empty window, from whatever state.")
class ResetView(OrderView):
    """Close it and forget what was counted."""

    what = "reset"
