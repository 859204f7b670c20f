"""Groups of dead letters over REST. ``groups.py`` decides, ``wire.py`` writes; a view carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlq_app import conf
from dlq_app.domain.group_states import GroupState
from dlq_app.domain.paging import DEFAULT_LIMIT, MAX_LIMIT
from dlq_app.rest import audit, contract, openapi, requests
from dlq_app.rest.audit import actor
from dlq_app.services import groups
from wire.contract import Shape, problems
from wire.cursor import MAX_CURSOR

_NOT_FOUND = "`group_not_found`"
_FILTERS = [
    *(parameter for parameter in openapi.FILTERS if parameter.name in groups.FILTERS and parameter.name != "search"),
    openapi.query("search", "Words of the error text."),
    openapi.query("state", "Repeated: any of them.", many=True, enum=[state.value for state in GroupState]),
    openapi.query("sort", "Most open letters first unless given.", enum=list(groups.SORTS)),
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
    OpenApiParameter(
        "cursor",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": MAX_CURSOR},
        description="`nextCursor` of the page before.",
    ),
]


class GroupsView(APIView):
    """The list of groups."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listDeadLetterGroups",
        tags=["Groups"],
        summary="List groups of dead letters",
        description="Letters that died of the same thing, with their figures as of `asOf`. `from` and `to` mean the "
        "last failure of a group, `type` any of its five most frequent types.",
        parameters=_FILTERS,
        responses={
            200: contract.GROUP_LIST,
            **problems(s400="`invalid_filter` names each problem.", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request) -> Response:
        query = groups.GroupQuery.parse(dict(request.query_params.lists()))
        found = groups.page(
            query.criteria, states=query.states, sort=query.sort, limit=query.limit, cursor=query.cursor
        )
        answer = {
            "data": found.groups,
            "pagination": {
                "limit": query.limit,
                "total": found.total,
                "totalIsCapped": found.is_capped,
                "nextCursor": found.next_cursor,
            },
            "states": {state.value: count for state, count in found.states.items()},
            "asOf": found.as_of,
        }
        return Response(contract.GROUP_LIST.write(answer, conf.masking_policy()))


class GroupView(APIView):
    """One group."""

    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetterGroup",
        tags=["Groups"],
        summary="Look at a group of dead letters",
        responses={200: contract.GROUP_OUT, **problems(s404=_NOT_FOUND, s503=openapi.AWAY)},
    )
    def get(self, request: Request, fingerprint: str) -> Response:
        requests.refuse_parameters(request.query_params)
        return _whole(groups.get(fingerprint))


class SayView(APIView):
    """Somebody says something about a group; what, its URL says."""

    required_scopes: ClassVar = {"POST": "replay"}
    what: ClassVar[str]
    body: ClassVar[Shape] = contract.REASON_IN
    say: ClassVar[Callable[..., groups.Group]]

    def post(self, request: Request, fingerprint: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = self.body.read(request.data)
        group = type(self).say(fingerprint, actor=actor(request), **fields)
        audit.log_group(request, group.fingerprint, group.title, self.what, fields.get("reason", ""))
        return _whole(group)


def _described(operation: str, summary: str, description: str, body: Any) -> Callable[[type[SayView]], type[SayView]]:
    schema = extend_schema(
        operation_id=operation,
        tags=["Groups"],
        summary=summary,
        description=description,
        request=body,
        responses={
            200: contract.GROUP_OUT,
            **problems(s400="`invalid_request`", s404=_NOT_FOUND, s503=openapi.AWAY),
        },
    )
    return extend_schema_view(post=schema)


@_described(
    "resolveDeadLetterGroup",
    "Resolve a group",
    "Says that its cause is gone. Its letters stay as they are; one that dies from now on makes it `regressed`.",
    contract.REASON_IN,
)
class ResolveGroupView(SayView):
    what = "resolve group"

    @staticmethod
    def say(fingerprint: str, **said: Any) -> groups.Group:
        return groups.set_state(fingerprint, GroupState.RESOLVED, **said)


@_described(
    "ignoreDeadLetterGroup",
    "Ignore a group",
    "Until an instant, until more letters than a rate arrive in one clock hour, or until so many more have died: at "
    "whatever comes first. With none of them until it is reopened. Its letters stay as they are.",
    contract.IGNORE_IN,
)
class IgnoreGroupView(SayView):
    what = "ignore group"
    body = contract.IGNORE_IN

    @staticmethod
    def say(fingerprint: str, **said: Any) -> groups.Group:
        return groups.set_state(fingerprint, GroupState.IGNORED, **said)


@_described(
    "reopenDeadLetterGroup",
    "Reopen a group",
    "Takes back that it is resolved or ignored.",
    contract.REASON_IN,
)
class ReopenGroupView(SayView):
    what = "reopen group"

    @staticmethod
    def say(fingerprint: str, **said: Any) -> groups.Group:
        return groups.set_state(fingerprint, None, **said)


class NoteGroupView(APIView):
    """The note on a group."""

    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="noteDeadLetterGroup",
        tags=["Groups"],
        summary="Put a note on a group",
        description="In place of the one that is there, which stays in the history.",
        request=contract.NOTE_IN,
        responses={
            200: contract.GROUP_OUT,
            **problems(s400="`invalid_request`", s404=_NOT_FOUND, s503=openapi.AWAY),
        },
    )
    def post(self, request: Request, fingerprint: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = contract.NOTE_IN.read(request.data)
        group = groups.set_note(fingerprint, actor=actor(request), **fields)
        audit.log_group(request, group.fingerprint, group.title, "note", fields["text"])
        return _whole(group)


def _whole(group: groups.Group) -> Response:
    return Response(contract.GROUP_OUT.write({"data": group}, conf.masking_policy()))
