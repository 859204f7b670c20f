"""What several views say alike about themselves in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter

from dlq_app.domain import criteria, paging
from dlq_app.domain.search_terms import MAX_WORDS
from dlq_app.domain.states import Status
from wire.cursor import MAX_CURSOR


def query(name: str, text: str, **options: Any) -> OpenApiParameter:
    """A parameter of the query string; ``text`` describes it."""
    return OpenApiParameter(name, str, OpenApiParameter.QUERY, description=text, **options)


_ANY = "Repeated: any of them."
#: The criteria, as parameters of a list.
FILTERS = [
    query("status", _ANY, many=True, enum=[s.value for s in Status]),
    query("errorType", f"Such as TIMEOUT_ERROR. {_ANY}", many=True),
    query("errorKind", _ANY, many=True, enum=criteria.KINDS),
    query("type", _ANY, many=True),
    query("source", _ANY, many=True),
    query("priority", _ANY, many=True, enum=criteria.PRIORITIES),
    query("tag", _ANY, many=True),
    query("fingerprint", f"A group. {_ANY}", many=True),
    query("from", "Last failure at or after this instant."),
    query("to", "Last failure before this instant."),
    query(
        "search",
        "Beginning of a message id; or words of the error, all of which a letter must hold. The search looks at the "
        f"error's type and the first {MAX_WORDS} words and parts of words of its text as shown, with secrets hidden; "
        "not at the stack, the payload or notes. Case and Unicode form make no difference. `timeout` finds "
        "`SocketTimeout`, `email` finds `email_address`, `5521` finds `order5521`. Of Chinese, Japanese and Korean any "
        "two neighbouring characters are found.",
    ),
]
#: What a list of letters takes beside them.
PAGES = [
    OpenApiParameter(
        "page",
        {"type": "integer", "minimum": 1, "maximum": paging.MAX_COUNTED, "default": 1},
        description="Not with `cursor`. Reaches as far as 10 000 letters.",
    ),
    OpenApiParameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": paging.MAX_LIMIT, "default": paging.DEFAULT_LIMIT}
    ),
    OpenApiParameter(
        "cursor",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": MAX_CURSOR},
        description="`nextCursor` of the page before: walks any number of letters, each exactly once.",
    ),
    query("sort", "Newest failure first unless given.", enum=list(paging.SORTS)),
]
#: Why any of these may answer 503.
AWAY = "`store_unavailable`, `query_too_slow`: try again after `Retry-After`."
