"""REST views of export and import. Both are streams, never in memory as a whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from django.http import QueryDict, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import BodyTooLarge, CriteriaInvalid, LengthRequired, TooManyImports
from dlq_app.domain.limits import MAX_REASON
from dlq_app.rest import audit, contract, openapi, requests
from dlq_app.services import importing
from dlq_app.services.exporting import FORMS, Export, Stream
from dlq_app.store import repository
from wire.contract import problems
from wire.fields import summary

log = logging.getLogger(__name__)

#: Maximum size of an import in bytes. It is a stream; this limits how long it can occupy a thread.
MAX_IMPORT = 256 * 1024 * 1024
#: Maximum number of concurrent imports in one process: each occupies a thread.
IMPORTS_AT_ONCE = 2
imports = threading.BoundedSemaphore(IMPORTS_AT_ONCE)


class AsAsked(BaseContentNegotiation):
    """Ignore the Accept header: the URL selects the format, and problems are JSON."""

    def select_parser(self, request: Request, parsers: Iterable[Any]) -> Any:
        media_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == media_type), None)

    def select_renderer(self, request: Request, renderers: Iterable[Any], format_suffix: str | None = None) -> Any:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class ExportView(APIView):
    required_scopes: Mapping[str, str] = {"GET": "read"}
    content_negotiation_class = AsAsked

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if request.query_params.get("reveal") == "true":
            self.required_scopes = {"GET": "admin"}  # checked before the rest of the request
        super().initial(request, *args, **kwargs)

    @extend_schema(
        operation_id="exportDeadLetters",
        tags=["Dead letters"],
        summary="Export dead letters",
        description=(
            "Every letter that matches the filter, in order of message id, as a stream. JSON lines end with a line "
            '`{"end": {"count": …, "complete": true}}`; if it is absent or has `false`, letters are missing. CSV has '
            "no such line: check that the transfer was complete. Values that look like secrets are hidden, and a line "
            "with a hidden value cannot be imported. `reveal=true` hides nothing; it needs the scope `admin` and a "
            "`reason`, and is recorded in the audit log."
        ),
        parameters=[
            *openapi.FILTERS,
            OpenApiParameter("format", str, enum=list(FORMS), description="Default: `jsonl`."),
            OpenApiParameter("reveal", str, enum=["true", "false"], description="Hide nothing."),
            OpenApiParameter("reason", str, description="Why you need the secrets; required with `reveal=true`."),
        ],
        responses={
            (200, "application/x-ndjson"): OpenApiResponse(OpenApiTypes.STR, description="One letter per line."),
            (200, "text/csv"): OpenApiResponse(OpenApiTypes.STR, description="One letter per row, after a header row."),
            **problems(
                s400="`invalid_filter`: `errors` lists each problem.",
                s503=f"`too_many_exports`: retry later, or use `manage.py export_dlq`. {openapi.AWAY}",
            ),
        },
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        export, reason = _export_of(request.query_params)
        if export.reveal:
            self._write_down(request, export.criteria, reason)
        return download(Stream(export), "dead-letters", export.form)

    def _write_down(self, request: Request, criteria: LetterCriteria, reason: str) -> None:
        """Record who sees secrets of how many letters, and why, before sending the first one."""
        total = repository.letters().count(criteria)
        how_many = f"{'more than ' if total.is_capped else ''}{total.count}"
        which = criteria.as_text()
        said = {"by": getattr(request, "actor", ""), "letters": how_many, "filter": which, "why": reason}
        log.warning("secrets_exported", extra=said)
        what = f"reveal {how_many} letters"
        audit.log(request, "", "export", what, f"{which}: {reason}", count=total.count, must=True)


def download(stream: Stream, name: str, form: str) -> StreamingHttpResponse:
    """The stream as a file to save. ``name``: letters, digits, ``-`` and ``_``; the time and ``form`` are added."""
    response = StreamingHttpResponse(stream, content_type=FORMS[form])
    name = f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{form}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response


class Lines(BaseParser):
    """The body as an unread stream."""

    media_type = "application/x-ndjson"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        return stream


class ImportView(APIView):
    required_scopes: ClassVar = {"POST": "admin"}
    parser_classes = (Lines,)
    content_negotiation_class = AsAsked

    @extend_schema(
        operation_id="importDeadLetters",
        tags=["Dead letters"],
        summary="Import dead letters",
        description=(
            "The JSON lines of an export, at most 256 MiB, read as a stream. Each line is checked on its own. A "
            "message that already has a letter keeps it unchanged, so importing a file twice changes nothing. Lines "
            "with hidden values are rejected, and lines of messages that are still being processed here. A letter "
            "whose replay was in progress is imported as waiting."
        ),
        request={"application/x-ndjson": OpenApiTypes.STR},
        responses={
            200: contract.IMPORT_OUT,
            **problems(
                s411="`length_required`",
                s413="`payload_too_large`: split it, or use `manage.py import_dlq`.",
                s415="The body is not `application/x-ndjson`.",
                s503="`store_unavailable`: the detail has the lines read so far. `too_many_imports`. Import it again.",
            ),
        },
    )
    def post(self, request: Request) -> Response:
        requests.refuse_parameters(request.query_params)
        try:
            length = int(request.META.get("CONTENT_LENGTH") or "")
        except ValueError as error:
            raise LengthRequired() from error
        if length > MAX_IMPORT:
            raise BodyTooLarge(f"An import may have at most {MAX_IMPORT} bytes.")
        stream: Any = request.data  # an empty body is an empty mapping
        if not imports.acquire(blocking=False):
            raise TooManyImports(retry_after=30)
        try:
            found = importing.import_lines(
                stream.read if length else lambda _: b"", actor=str(getattr(request, "actor", "")) or "unknown"
            )
        finally:
            imports.release()
        return Response(contract.IMPORT_OUT.write({"data": found}))


def _export_of(query: QueryDict) -> tuple[Export, str]:
    """The export in a query string, and the reason to see secrets; raises ``CriteriaInvalid`` with every problem."""
    given = dict(query.lists())
    errors: list[dict[str, str]] = []
    own: dict[str, str] = {}
    for name, default, allowed in (("format", "jsonl", tuple(FORMS)), ("reveal", "false", ("true", "false"))):
        values = given.pop(name, [default])
        own[name] = values[0]
        if len(values) != 1 or values[0] not in allowed:
            errors.append({"field": name, "message": "must be one of " + ", ".join(allowed)})
    reasons = given.pop("reason", [""])
    reason = reasons[0].strip()
    if len(reasons) != 1 or len(reason) > MAX_REASON:
        errors.append({"field": "reason", "message": f"must be one text of at most {MAX_REASON} characters"})
    elif not reason and own["reveal"] == "true":
        errors.append({"field": "reason", "message": "is required with reveal=true: why you need to see the secrets"})
    criteria = LetterCriteria()
    try:
        criteria = LetterCriteria.parse(given)
    except CriteriaInvalid as error:
        errors = [*error.errors, *errors]
    if errors:
        raise CriteriaInvalid(summary(errors), errors=errors)
    return Export(criteria, form=own["format"], reveal=own["reveal"] == "true"), reason
