"""The list's filter by values inside payloads, its columns, and what a search suggests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from dlq_app import conf
from dlq_app.admin.letters.filters import Chip, CriteriaFilter, address
from dlq_app.admin.letters.queryset import letter_of
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, DeadLetterError
from dlq_app.domain.facets import shown_facets
from dlq_app.domain.filters import FACET, FILTERS
from dlq_app.domain.letter import DeadLetter as Letter
from dlq_app.domain.masking import mask_text
from dlq_app.services import facets

log = logging.getLogger(__name__)

_DOT = f"{FACET}."
#: Suggested values of a facet, and values in a column.
_SUGGESTED, _SHOWN = 5, 3


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A search as a filter of one facet."""

    label: str
    address: str


class FacetFilter(CriteriaFilter):
    """One form and some frequent values for each facet."""

    of = FILTERS[FACET]
    template = "dlq_app/letters_filter_facets.html"

    def has_output(self) -> bool:
        return bool(conf.facet_policy())

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        frequent = _frequent()
        for name, facet in conf.facet_policy().facets.items():
            mine = [one for one in self.values if one.startswith(f"{name}=")]
            others = [one for one in self.values if one not in mine]
            kept = [
                (key, value)
                for key, values in changelist.filter_params.items()
                for value in values
                if key not in (self.name, "p")
            ]
            yield {
                "name": f"{_DOT}{name}",
                "label": facet.label,
                "is_masked": facet.masked,
                "kept": [*kept, *((self.name, one) for one in others)],
                "value": mine[0].partition("=")[2] if len(mine) == 1 else "",
                "is_active": bool(mine),
                "all": address(changelist, {self.name: others or None}),
                "values": [
                    {
                        "display": value,
                        "count": count,
                        "query_string": address(changelist, {self.name: [*others, f"{name}={value}"]}),
                        "selected": mine == [f"{name}={value}"],
                    }
                    for value, count in frequent.get(f"{_DOT}{name}", ())
                ],
            }

    def chips(self, changelist: Any) -> list[Chip]:
        found = []
        for one in self.values:
            name, _, value = one.partition("=")
            found.append(Chip(conf.facet_policy().label(name), value, self._without(changelist, one)))
        return found


def _frequent() -> dict[str, list[tuple[str, int]]]:
    """Frequent values of open letters; none if they are not known in time."""
    try:
        found = facets.of_open()
    except DeadLetterError as error:
        log.warning("facets_missing", extra={"why": str(error)})
        return {}
    masking = conf.masking_policy()
    return {
        grouping.by: [
            (part.value, part.count)
            for part in grouping.parts[:_SUGGESTED]
            if mask_text(part.value, masking) == part.value
        ]
        for grouping in found.groupings
    }


def as_filter(request: HttpRequest) -> HttpResponse | None:
    """Redirect ``facet.customerId=…``, and a search for ``customerId=…``, to the filter.

    A masked value is then a hash, so that neither the browser's history nor links have it.
    """
    query = request.GET.copy()
    given = {name: query.pop(name) for name in list(query) if name.startswith(_DOT)}
    # An empty field of the form is no filter.
    given = {name: [value for value in values if value] for name, values in given.items()}
    searched = query.get("q", "").strip()
    name, is_pair, value = (part.strip() for part in searched.partition("="))
    if is_pair and value and name in conf.facet_policy().facets:
        query.pop("q")
        given.setdefault(f"{_DOT}{name}", []).append(value)
    if query == request.GET:
        return None
    try:
        wanted = LetterCriteria.parse(given).facets
    except CriteriaInvalid:
        return HttpResponseRedirect(f"{request.path}?e=1")
    query.setlist(FACET, list(dict.fromkeys([*query.getlist(FACET), *wanted])))
    if not query.getlist(FACET):
        query.pop(FACET)
    return HttpResponseRedirect(f"{request.path}?{query.urlencode()}")


def suggestions(changelist: Any) -> list[Suggestion]:
    """The search as a filter of each facet, for a search that found nothing: it does not read payloads."""
    found = []
    policy = conf.facet_policy()
    for name, facet in policy.facets.items():
        try:
            wanted = policy.wanted(f"{name}={changelist.query}")
        except ValueError:
            continue
        values = [*changelist.criteria.facets, wanted]
        found.append(Suggestion(facet.label, address(changelist, {"q": None, FACET: values})))
    return found


def columns() -> list[Callable[[Any], str]]:
    """A column of the list for each facet that wants one."""
    return [_column(facet.name, facet.label) for facet in conf.facet_policy().columns]


def _column(name: str, label: str) -> Callable[[Any], str]:
    @admin.display(description=label)
    def column(row: Any) -> str:
        return dict(cells(letter_of(row)))[label]

    column.__name__ = f"facet_{name}"
    return column


def cells(letter: Letter) -> list[tuple[str, str]]:
    """Label and text of these columns."""
    values = shown_facets(letter.facets, conf.masking_policy())
    found = []
    for facet in conf.facet_policy().columns:
        mine = values.get(facet.name, [])
        more = f" and {len(mine) - _SHOWN} more" if len(mine) > _SHOWN else ""
        found.append((facet.label, ", ".join(mine[:_SHOWN]) + more))
    return found
