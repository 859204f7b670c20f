"""OpenAPI parameters that several views share."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter

from dlq_app.domain import filters, paging
from dlq_app.domain.filters import Filter
from wire.cursor import MAX_CURSOR


def query(name: str, text: str, **options: Any) -> OpenApiParameter:
    """A parameter of the query string; ``text`` describes it."""
    return OpenApiParameter(name, str, OpenApiParameter.QUERY, description=text, **options)


_ANY = "Repeat it to match any of several values."


def _described(one: Filter) -> str:
    """The beginning of the help as a sentence, then the rest."""
    first = f"{one.help[:1].upper()}{one.help[1:]}." if one.help else ""
    return " ".join(part for part in (first, one.doc, _ANY if one.is_repeated else "") if part)


#: Filters of a list of letters.
FILTERS = [
    query(
        one.name,
        _described(one),
        **({"many": True} if one.is_repeated else {}),
        **({"enum": list(one.options)} if one.options else {}),
    )
    for one in filters.FILTERS.values()
]
#: Page parameters of a list of letters.
PAGES = [
    OpenApiParameter(
        "page",
        {"type": "integer", "minimum": 1, "maximum": paging.MAX_COUNTED, "default": 1},
        description="Not with `cursor`. Covers the first 10 000 letters.",
    ),
    OpenApiParameter(
        "limit", {"type": "integer", "minimum": 1, "maximum": paging.MAX_LIMIT, "default": paging.DEFAULT_LIMIT}
    ),
    OpenApiParameter(
        "cursor",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "minLength": 1, "maxLength": MAX_CURSOR},
        description="`nextCursor` of the previous page: reads any number of letters, each exactly once.",
    ),
    query(
        "sort",
        "Default: newest failure first. These sort at most 10 000 matching letters, those without a value last: "
        + ", ".join(f"`{one.name}`" for one in paging.SORTS.values() if one.is_computed and one.name[0] != "-"),
        enum=list(paging.SORTS),
    ),
]
#: Why these operations can answer 503.
AWAY = "`store_unavailable`, `query_too_slow`: retry after `Retry-After`."
