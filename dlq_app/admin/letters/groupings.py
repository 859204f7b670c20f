"""Pages that show letters grouped by what is inside: a page of its own, and a part of other pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_safe

from console import permissions
from dlq_app import conf
from dlq_app.admin.letters.selection import back_to_list, criteria_of, in_words
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, DeadLetterError
from dlq_app.domain.masking import mask_text
from dlq_app.services import facets
from dlq_app.store import repository
from dlq_app.store.groupings import COUNTED, FACET, Grouping, Groupings, Part

#: Values on the page, and in the part of other pages.
_PAGE, _PANEL = 50, 5
#: Fields of letters that the part can show beside facets, and the parameter of its address for them.
_FIELDS, _WITH_FIELDS = ("source", "client", "codeVersion"), "with_fields"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One value. Without ``letters`` it is hidden, and a link would show it."""

    value: str
    count: int
    oldest: datetime | None
    newest: datetime | None
    letters: str
    replay: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One grouping."""

    by: str
    label: str
    distinct: int
    rows: Sequence[Row]
    #: Values that are not in ``rows``.
    more: int
    #: The address of its own page; empty there.
    all: str = ""


class GroupingViews:
    """Views for the admin of letters."""

    admin_site: Any
    opts: Any
    require_view: Callable[[HttpRequest], None]
    unavailable: Callable[[HttpRequest, DeadLetterError], HttpResponse]

    @method_decorator(require_safe)
    def grouped_view(self, request: HttpRequest) -> HttpResponse:
        """Letters that match the criteria of the address, by the field ``by``."""
        self.require_view(request)
        query = request.GET.copy()
        (by,) = query.pop("by", ["type"])[-1:]
        try:
            criteria = criteria_of(query)
            if by not in facets.names():
                return HttpResponseRedirect(f"{request.path}?{criteria.as_query()}")
            found = facets.grouped(criteria, [by], top=_PAGE)
        except CriteriaInvalid:
            return HttpResponseRedirect(f"{reverse('admin:dlq_app_deadletter_changelist')}?e=1")
        except DeadLetterError as error:
            return self.unavailable(request, error)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Dead letters by {facets.label(by).lower()}",
            "opts": self.opts,
            "choices": [
                {"label": facets.label(name), "address": grouped_url(criteria, name), "is_active": name == by}
                for name in facets.names()
            ],
            "grouping": shown(found.groupings[0], found, criteria),
            "found": found,
            "criteria": in_words(criteria),
            "list_url": back_to_list(criteria),
            "is_filled": facets.is_filled() or not by.startswith(FACET),
            "why_not_replay": permissions.denial_reason(request, permissions.REPLAY),
            "most": COUNTED,
            "now": repository.now(),
        }
        return TemplateResponse(request, "dlq_app/letters_grouped.html", context)

    @method_decorator(require_safe)
    def parts_view(self, request: HttpRequest) -> HttpResponse:
        """The part of a page that shows the facets of letters that match."""
        self.require_view(request)
        query = request.GET.copy()
        with_fields = bool(query.pop(_WITH_FIELDS, None))
        try:
            criteria = criteria_of(query)
            names = [name for name in facets.names() if name.startswith(FACET)]
            found = facets.grouped(criteria, [*(_FIELDS if with_fields else ()), *names], top=_PANEL)
        except DeadLetterError as error:
            return panel(request, None, LetterCriteria(), why=error.detail, with_fields=with_fields)
        return panel(request, found, criteria, with_fields=with_fields)


def panel(
    request: HttpRequest,
    found: Groupings | None,
    criteria: LetterCriteria,
    *,
    why: str = "",
    is_batch: bool = False,
    with_fields: bool = False,
) -> HttpResponse:
    """The part of a page for these groupings; without them it shows ``why``.

    ``is_batch``: of the letters of a batch, which have no page of their own.
    """
    groupings = found.groupings if found else ()
    context = {
        "found": found,
        "groupings": [shown(one, found, criteria, has_page=not is_batch) for one in groupings if found],
        "why": why,
        "is_filled": facets.is_filled(),
        "has_facets": bool(conf.facet_policy()) or with_fields,
        "parts_title": _titles(with_fields),
        "all": "" if is_batch else grouped_url(criteria, facets.names()[0]),
        "is_batch": is_batch,
    }
    response = TemplateResponse(request, "dlq_app/parts.html", context)
    response["Cache-Control"] = "private, no-cache"
    return response


def shown(grouping: Grouping, found: Groupings, criteria: LetterCriteria, *, has_page: bool = False) -> Shown:
    """A grouping with the addresses of its parts."""
    return Shown(
        by=grouping.by,
        label=facets.label(grouping.by),
        distinct=grouping.distinct,
        more=max(0, grouping.distinct - len(grouping.parts)),
        rows=[_row(part, grouping.by, found, criteria) for part in grouping.parts],
        all=grouped_url(criteria, grouping.by) if has_page else "",
    )


def grouped_url(criteria: LetterCriteria, by: str) -> str:
    """The page of letters that match, by a field."""
    query = urlencode([("by", by), *criteria.as_params()])
    return f"{reverse('admin:dlq_app_deadletter_grouped')}?{query}"


def parts_later(criteria: LetterCriteria, *, with_fields: bool = False) -> dict[str, Any]:
    """Values for ``parts_later.html``: the page loads the facets of letters that match after itself.

    ``with_fields``: also their sources, clients and code versions.
    """
    fields = f"&{_WITH_FIELDS}=1" if with_fields else ""
    return {
        "parts_title": _titles(with_fields),
        "parts_url": f"{reverse('admin:dlq_app_deadletter_parts')}?{criteria.as_query()}{fields}",
        "grouped_url": grouped_url(criteria, facets.names()[0]),
    }


def _titles(with_fields: bool) -> str:
    return "Where they come from" if with_fields else "Inside the payloads"


def _row(part: Part, by: str, found: Groupings, criteria: LetterCriteria) -> Row:
    value = mask_text(part.value, conf.masking_policy())
    letters = replay = ""
    if value == part.value:
        narrowed = facets.narrowed(criteria, by, part, found)
        letters = back_to_list(narrowed)
        replay = f"{reverse('admin:dlq_app_replaybatch_add')}?{narrowed.as_query()}"
    return Row(value=value, count=part.count, oldest=part.oldest, newest=part.newest, letters=letters, replay=replay)
