"""The audit log over REST: pages, and all lines as a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from django.db import Error as DatabaseError
from django.http import QueryDict, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audit_app.models import AuditLine, masked
from audit_app.search import ACTORS, FILTERS, MAX_LIMIT, Search
from dlq_app.domain.errors import CriteriaInvalid, StoreUnavailable
from dlq_app.rest.transfer import AsAsked, download
from dlq_app.services.exporting import FORMS, Stream, TextFile, cell
from dlqsite import database
from wire.contract import COUNT, INSTANT, TEXT, Field, Shape, many, nullable, problems
from wire.cursor import MAX_CURSOR
from wire.fields import field_error, summary
from wire.instants import iso

_LINE = Shape(
    "AuditLine",
    Field("at", INSTANT),
    Field("who", TEXT, "`user:`, `key:` or `cli:` and a name, `system`, or `address:` and an IP address."),
    Field("what", TEXT),
    Field("kind", TEXT, "Kind of the object, such as `deadletter`, `lettergroup`, `replaybatch`, `breaker`."),
    Field("objectId", TEXT, "Empty if it is about several objects."),
    Field("name", TEXT, "The object, or the selection of several."),
    Field("why", TEXT),
    Field("count", nullable(COUNT), "Number of objects; null for one."),
)
LINES = Shape(
    "AuditLines",
    Field("data", many(_LINE)),
    Field("pagination", Shape("AuditPagination", Field("limit", COUNT), Field("nextCursor", nullable(TEXT)))),
)
_FILTERS = [
    OpenApiParameter("who", str, description="Exactly this actor, such as `user:ann`."),
    OpenApiParameter("actor", str, enum=list(ACTORS), description="Kind of actor."),
    OpenApiParameter("kind", str, description="Kind of the object."),
    OpenApiParameter("object", str, description="Id of the object."),
    OpenApiParameter("from", OpenApiTypes.DATETIME, description="At or after."),
    OpenApiParameter("to", OpenApiTypes.DATETIME, description="Before."),
]


class AuditView(APIView):
    required_scopes: ClassVar = {"GET": "audit"}

    @extend_schema(
        operation_id="listAuditLines",
        tags=["System"],
        summary="List the audit log, newest first",
        parameters=[
            *_FILTERS,
            OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 100}),
            OpenApiParameter(
                "cursor",
                {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": MAX_CURSOR},
                description="`nextCursor` of the previous page.",
            ),
        ],
        responses={
            200: LINES,
            **problems(s400="`invalid_filter`: `errors` lists each problem.", s503="`store_unavailable`"),
        },
    )
    def get(self, request: Request) -> Response:
        search = _search(request.query_params, (*FILTERS, "limit", "cursor"))
        lines, next_cursor = search.page()
        pagination = {"limit": search.limit, "nextCursor": next_cursor}
        return Response(LINES.write({"data": [_shown(line) for line in lines], "pagination": pagination}))


class AuditExportView(APIView):
    required_scopes: ClassVar = {"GET": "audit"}
    content_negotiation_class = AsAsked

    @extend_schema(
        operation_id="exportAuditLines",
        tags=["System"],
        summary="Export the audit log",
        description=(
            "Every line that matches, newest first, as a stream. JSON lines end with a line "
            '`{"end": {"count": …, "complete": true}}`; if it is absent or has `false`, lines are missing.'
        ),
        parameters=[OpenApiParameter("format", str, enum=list(FORMS), description="Default: `jsonl`."), *_FILTERS],
        responses={
            (200, "application/x-ndjson"): OpenApiResponse(
                OpenApiTypes.STR, description="One line of the log per line."
            ),
            (200, "text/csv"): OpenApiResponse(OpenApiTypes.STR, description="One line per row, after a header row."),
            **problems(
                s400="`invalid_filter`: `errors` lists each problem.", s503="`too_many_exports`, `store_unavailable`"
            ),
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        given = request.query_params.copy()
        forms = given.pop("format", ["jsonl"])
        if len(forms) != 1 or forms[0] not in FORMS:
            errors = [field_error("format", "must be one of " + ", ".join(FORMS))]
            raise CriteriaInvalid(summary(errors), errors=errors)
        return download(Stream(AuditFile(form=forms[0], search=_search(given, FILTERS))), "audit-log", forms[0])


@dataclass
class AuditFile(TextFile):
    """The matching lines as a file."""

    search: Search = field(default_factory=Search)

    _columns: ClassVar[Sequence[str]] = tuple(one.name for one in _LINE.fields)

    def _shown(self) -> Iterator[Mapping[str, Any]]:
        try:
            for line in self.search.each():
                self.count += 1
                yield {**_shown(line), "at": iso(line.at)}
        except DatabaseError as error:
            raise StoreUnavailable(f"{database.HEADING}.") from error

    def _rows(self) -> Iterator[Sequence[str]]:
        for line in self._shown():
            yield [cell(value) for value in line.values()]


def _shown(line: AuditLine) -> dict[str, Any]:
    """The line with secrets hidden by the current policy."""
    return {
        "at": line.at,
        "who": line.who,
        "what": masked(line.what),
        "kind": line.kind,
        "objectId": line.object_id,
        "name": masked(line.name),
        "why": masked(line.why),
        "count": line.count,
    }


def _search(query: QueryDict, known: Sequence[str]) -> Search:
    search, errors = Search.parse(dict(query.lists()), known=known)
    if errors:
        raise CriteriaInvalid(summary(errors), errors=errors)
    return search
