"""The letters that an address selects: by id, or by criteria."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.http import QueryDict
from django.urls import reverse

from dlq_app.admin.letters.filters import STATUS_WORDS
from dlq_app.admin.letters.queryset import LettersQuerySet
from dlq_app.conf import facet_policy
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.filters import FACET, FILTERS
from dlq_app.domain.states import Status
from dlq_app.services.bulk import MAX_IDS
from dlq_app.services.titles import group_titles

#: Parameters of an address that are not criteria.
_OTHERS = ("id", "format", "p", "o", "e")


def selection_query(queryset: Any, everything: str = "") -> str:
    """The selected rows as ``id=…``, or all matches by the criteria's wire names.

    ``everything``: the name of the parameter that says so when there are no criteria.
    """
    letters: LettersQuerySet = queryset
    if letters.ids is not None:
        return urlencode([("id", one) for one in letters.ids[:MAX_IDS]])
    if letters.criteria.is_empty and everything:
        return urlencode({everything: "1"})
    return letters.criteria.as_query()


def ids_of(query: QueryDict) -> list[str]:
    """Distinct ids in an address, up to ``MAX_IDS``."""
    return list(dict.fromkeys(query.getlist("id")))[:MAX_IDS]


def criteria_of(query: QueryDict) -> LetterCriteria:
    """Criteria in an address without the list's own parameters. Raises ``CriteriaInvalid``."""
    given = {name: values for name, values in query.lists() if name not in _OTHERS}
    return LetterCriteria.parse(given)


def back_to_list(criteria: LetterCriteria) -> str:
    """The list's address with these criteria."""
    query = urlencode([("q" if name == "search" else name, value) for name, value in criteria.as_params()])
    return f"{reverse('admin:dlq_app_deadletter_changelist')}{'?' if query else ''}{query}"


def in_words(criteria: LetterCriteria) -> list[tuple[str, str]]:
    """Criteria as labels and values; groups by their titles."""
    titles = group_titles(criteria.fingerprints)
    found = []
    for name, value in criteria.as_params():
        if name == FACET:
            facet, _, of = value.partition("=")
            found.append((facet_policy().label(facet).lower(), of))
            continue
        label = FILTERS[name].label.lower()
        value = titles.get(value, value) if name == "fingerprint" else value
        found.append((label, STATUS_WORDS[Status(value)] if name == "status" else value))
    return found
