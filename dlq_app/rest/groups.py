"""REST views of groups of dead letters."""

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
    openapi.query("state", "Repeat it for several states.", many=True, enum=[state.value for state in GroupState]),
    openapi.query("owner", "Name of an owner, or `none`. Repeat it for several.", many=True),
    openapi.query("sort", "Default: most open letters first.", enum=list(groups.SORTS)),
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
    OpenApiParameter(
        "cursor",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": MAX_CURSOR},
        description="`nextCursor` of the previous page.",
    ),
]


class GroupsView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="listDeadLetterGroups",
        tags=["Groups"],
        summary="List groups of dead letters",
        description="A group has the letters with the same kind of failure; its figures are as of `asOf`. `from` and "
        "`to` filter by the last failure of a group, `type` by its five most frequent types.",
        parameters=_FILTERS,
        responses={
            200: contract.GROUP_LIST,
            **problems(s400="`invalid_filter`: `errors` lists each problem.", s503=openapi.AWAY),
        },
    )
    def get(self, request: Request) -> Response:
        query = groups.GroupQuery.parse(dict(request.query_params.lists()))
        found = groups.page(
            query.criteria,
            states=query.states,
            owners=query.owners,
            sort=query.sort,
            limit=query.limit,
            cursor=query.cursor,
        )
        answer = {
            "data": found.groups,
            "pagination": {
                "limit": query.limit,
                "total": found.total,
                "totalIsCapped": found.is_capped,
                "nextCursor": found.next_cursor,
            },
            "owners": found.owners,
            "states": {state.value: count for state, count in found.states.items()},
            "asOf": found.as_of,
        }
        return Response(contract.GROUP_LIST.write(answer, conf.masking_policy()))


class GroupView(APIView):
    required_scopes: ClassVar = {"GET": "read"}

    @extend_schema(
        operation_id="getDeadLetterGroup",
        tags=["Groups"],
        summary="Show a group of dead letters",
        responses={200: contract.GROUP_OUT, **problems(s404=_NOT_FOUND, s503=openapi.AWAY)},
    )
    def get(self, request: Request, fingerprint: str) -> Response:
        requests.refuse_parameters(request.query_params)
        return _whole(groups.get(fingerprint))


class SayView(APIView):
    """A change of a group's state by an operator; one subclass for each."""

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
    "Marks its cause as fixed. Its letters do not change; the next letter makes the group `regressed`.",
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
    "Undoes resolving or ignoring.",
    contract.REASON_IN,
)
class ReopenGroupView(SayView):
    what = "reopen group"

    @staticmethod
    def say(fingerprint: str, **said: Any) -> groups.Group:
        return groups.set_state(fingerprint, None, **said)


class NoteGroupView(APIView):
    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="noteDeadLetterGroup",
        tags=["Groups"],
        summary="Put a note on a group",
        description="Replaces the current note, which stays in the history.",
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


class OwnerGroupView(APIView):
    required_scopes: ClassVar = {"POST": "replay"}

    @extend_schema(
        operation_id="setDeadLetterGroupOwner",
        tags=["Groups"],
        summary="Set the owner of a group",
        description="Replaces what users set before. Fields that are empty or missing come from `owners.toml`.",
        request=contract.OWNER_IN,
        responses={
            200: contract.GROUP_OUT,
            **problems(s400="`invalid_request`", s404=_NOT_FOUND, s503=openapi.AWAY),
        },
    )
    def post(self, request: Request, fingerprint: str) -> Response:
        requests.refuse_parameters(request.query_params)
        fields = contract.OWNER_IN.read(request.data)
        group = groups.set_owner(fingerprint, actor=actor(request), **fields)
        audit.log_group(request, group.fingerprint, group.title, "owner", fields.get("name", ""))
        return _whole(group)


def _whole(group: groups.Group) -> Response:
    return Response(contract.GROUP_OUT.write({"data": group}, conf.masking_policy()))
