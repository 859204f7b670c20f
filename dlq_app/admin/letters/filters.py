"""Filters of the changelist: each restricts one field of the criteria, under its wire name in the address."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from django.contrib.admin import ListFilter
from django.contrib.admin.options import IncorrectLookupParameters
from django.http import HttpRequest

from dlq_app.admin.letters.queryset import LettersQuerySet
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import CriteriaInvalid, DeadLetterError
from dlq_app.domain.filters import FACET, FILTERS, Filter
from dlq_app.domain.masking import MASK
from dlq_app.domain.states import OPEN, Status
from dlq_app.services import dead_letters

log = logging.getLogger(__name__)

#: Most urgent first.
STATUSES = (Status.MANUAL, Status.PENDING, Status.FAILED, Status.PROCESSING, Status.RESOLVED)
STATUS_WORDS = {
    Status.MANUAL: "Needs a decision",
    Status.PENDING: "Pending",
    Status.FAILED: "Failed",
    Status.PROCESSING: "Processing",
    Status.RESOLVED: "Resolved",
}
STATUS_ICONS = {
    Status.MANUAL: "hand",
    Status.PENDING: "clock",
    Status.FAILED: "octx",
    Status.PROCESSING: "spin",
    Status.RESOLVED: "check",
}
_OPEN = tuple(status.value for status in STATUSES if status in OPEN)


@dataclass(frozen=True, slots=True)
class Chip:
    """An active filter, and the address that removes it."""

    label: str
    value: str
    remove: str


class _Figures:
    """Read the figures, with a pause after a timeout: they must not delay the list."""

    pause_s = 30.0

    def __init__(self) -> None:
        self._not_before = 0.0

    def ask(self) -> Mapping[str, Any]:
        """The figures; empty if unavailable."""
        if time.monotonic() < self._not_before:
            return {}
        try:
            return dead_letters.stats()
        except DeadLetterError as error:
            # Too slow or unavailable: the list itself shows the reason.
            self._not_before = time.monotonic() + self.pause_s
            log.warning("figures_missing", extra={"why": str(error)})
        return {}

    def forget(self) -> None:
        self._not_before = 0.0


kept = _Figures()


def figures(request: HttpRequest) -> Mapping[str, Any]:
    """Figures for the choices, read once per page. Without them choices have no counts."""
    found: Mapping[str, Any] | None = getattr(request, "_dlq_figures", None)
    if found is None:
        found = kept.ask()
        request._dlq_figures = found  # type: ignore[attr-defined]
    return found


class CriteriaFilter(ListFilter):
    """Values of one field. Repeated values in the address match any of them; an invalid one is an invalid address."""

    template = "dlq_app/letters_filter.html"
    of: ClassVar[Filter]
    #: Wire name, also the name of the parameter.
    name: ClassVar[str]
    is_open: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "of" in vars(cls):
            cls.name, cls.title = cls.of.name, vars(cls).get("title", cls.of.label.lower())

    def __init__(self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.values: tuple[str, ...] = ()
        given = params.pop(self.name, None)
        if given is not None:
            try:
                parsed = LetterCriteria.parse({self.name: list(given)})
            except CriteriaInvalid as error:
                raise IncorrectLookupParameters(str(error)) from error
            self.values = getattr(parsed, self.of.attribute)
            self.used_parameters[self.name] = self.values
        self.request = request

    def expected_parameters(self) -> list[str | None]:
        return [self.name]

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: Any) -> LettersQuerySet:  # type: ignore[override]
        letters: LettersQuerySet = queryset
        return letters.narrowed(**{self.of.attribute: self.values}) if self.values else letters

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        yield self._choice(changelist, (), "All")
        for value, count in self.offered():
            yield self._choice(changelist, (value,), self.word(value), count)

    def offered(self) -> Sequence[tuple[str, int | None]]:
        """Values with their counts; None is an unknown count."""
        raise NotImplementedError

    def word(self, value: str) -> str:
        """The value as text."""
        return value

    def chips(self, changelist: Any) -> list[Chip]:
        """Active values, each with the address that removes it."""
        return [Chip(self.of.label, self.word(value), self._without(changelist, value)) for value in self.values]

    def _without(self, changelist: Any, value: str) -> str:
        left = [other for other in self.values if other != value]
        return address(changelist, {self.name: left or None})

    def _choice(
        self, changelist: Any, values: tuple[str, ...], display: str, count: int | None = None, icon: str = ""
    ) -> dict[str, Any]:
        return {
            "selected": set(values) == set(self.values),
            "query_string": address(changelist, {self.name: list(values) or None}),
            "display": display,
            "count": count,
            "icon": icon,
        }


def address(changelist: Any, changes: Mapping[str, Any]) -> str:
    """The list's address with changed parameters, at page 1. ``None`` removes one by its exact name, not by prefix."""
    found: str = changelist.get_query_string(new_params=dict(changes))
    return found


class _Counted(CriteriaFilter):
    """Choices from the figures, most letters first, plus the active ones."""

    #: Name in the figures, and key of the value in an entry.
    figure: ClassVar[str]
    key: ClassVar[str] = ""
    most = 8

    def offered(self) -> Sequence[tuple[str, int | None]]:
        raw = figures(self.request).get(self.figure) or {}
        rows = [(row[self.key], row["count"]) for row in raw] if isinstance(raw, list) else list(raw.items())
        found: list[tuple[str, int | None]] = [
            # A masked name matches no letter, and its address would reveal it.
            (str(value), count)
            for value, count in rows[: self.most]
            if value and MASK not in str(value)
        ]
        known = {value for value, _ in found}
        counts = dict(rows)
        return found + [(value, counts.get(value)) for value in self.values if value not in known]


class StatusFilter(CriteriaFilter):
    of, is_open = FILTERS["status"], True

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        by_status = figures(self.request).get("byStatus") or {}
        known = bool(by_status)
        opened = sum(by_status.get(value, 0) for value in _OPEN) if known else None
        yield self._choice(changelist, _OPEN, "Open (all four)", opened)
        for status in STATUSES:
            count = by_status.get(status.value, 0) if known else None
            yield self._choice(changelist, (status.value,), STATUS_WORDS[status], count, STATUS_ICONS[status])
        yield self._choice(changelist, (), "All", sum(by_status.values()) if known else None)

    def word(self, value: str) -> str:
        return STATUS_WORDS[Status(value)]

    def chips(self, changelist: Any) -> list[Chip]:
        if set(self.values) == set(_OPEN):
            return [Chip(self.of.label, "Open", address(changelist, {self.name: None}))]
        return super().chips(changelist)


class ErrorTypeFilter(_Counted):
    of, title, is_open = FILTERS["errorType"], "error type", True
    figure, key = "topErrorTypes", "errorType"


class TypeFilter(_Counted):
    of, is_open = FILTERS["type"], True
    figure = "byType"


class SourceFilter(_Counted):
    of = FILTERS["source"]
    figure = "bySource"


class _Options(CriteriaFilter):
    def offered(self) -> Sequence[tuple[str, int | None]]:
        return [(value, None) for value in self.of.options]

    def word(self, value: str) -> str:
        return value.capitalize()


class _Text(CriteriaFilter):
    """A text field, for values that are too many to list."""

    template = "dlq_app/letters_filter_text.html"

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        kept = [
            (name, value)
            for name, values in changelist.filter_params.items()
            for value in values
            if name not in (self.name, "p")
        ]
        yield {
            "name": self.name,
            "kept": kept,
            "value": self.values[0] if len(self.values) == 1 else "",
            "all": address(changelist, {self.name: None}),
        }


class FingerprintFilter(CriteriaFilter):
    """Set by links from groups and letters only."""

    of = FILTERS["fingerprint"]

    def has_output(self) -> bool:
        return bool(self.values)

    def offered(self) -> Sequence[tuple[str, int | None]]:
        return [(value, None) for value in self.values]


class AgeFilter(ListFilter):
    """Time of the last failure: ``age`` relative to now, or ``from`` and ``to``."""

    title = "age"
    template = "dlq_app/letters_filter.html"
    is_open = True
    name = "age"
    #: Value → age, the criterion it sets, label.
    AGES: ClassVar[dict[str, tuple[timedelta, str, str]]] = {
        "15m": (timedelta(minutes=15), "failed_from", "Last 15 minutes"),
        "1h": (timedelta(hours=1), "failed_from", "Last hour"),
        "24h": (timedelta(hours=24), "failed_from", "Last 24 hours"),
        "7d": (timedelta(days=7), "failed_from", "Last 7 days"),
        "7d-": (timedelta(days=7), "failed_to", "Older than 7 days"),
    }

    def __init__(self, request: HttpRequest, params: dict[str, list[str]], model: Any, model_admin: Any) -> None:
        super().__init__(request, params, model, model_admin)
        self.age = ""
        given: dict[str, list[str]] = {name: list(params.pop(name)) for name in ("age", "from", "to") if name in params}
        age = given.pop("age", [""])[-1]
        if age and age not in self.AGES:
            raise IncorrectLookupParameters(f"age: must be one of {', '.join(self.AGES)}")
        try:
            parsed = LetterCriteria.parse(given)
        except CriteriaInvalid as error:
            raise IncorrectLookupParameters(str(error)) from error
        self.window = {"failed_from": parsed.failed_from, "failed_to": parsed.failed_to}
        self.given = {name: values[0] for name, values in given.items()}
        if age:
            self.age = age
            ago, edge, _ = self.AGES[age]
            # To the second, to keep addresses of actions short.
            self.window[edge] = (datetime.now(UTC) - ago).replace(microsecond=0)
            if (
                self.window["failed_from"]
                and self.window["failed_to"]
                and self.window["failed_from"] >= self.window["failed_to"]
            ):
                raise IncorrectLookupParameters("age: nothing is left of from and to")
        self.used_parameters.update(self.window)

    def expected_parameters(self) -> list[str | None]:
        return ["age", "from", "to"]

    def has_output(self) -> bool:
        return True

    def queryset(self, request: HttpRequest, queryset: Any) -> LettersQuerySet:  # type: ignore[override]
        letters: LettersQuerySet = queryset
        given = {name: value for name, value in self.window.items() if value}
        return letters.narrowed(**given) if given else letters

    def choices(self, changelist: Any) -> Iterator[dict[str, Any]]:
        cleared = {"age": None, "from": None, "to": None}
        yield {
            "selected": not self.age and not self.given,
            "query_string": address(changelist, cleared),
            "display": "Any",
        }
        for value, (_, _, words) in self.AGES.items():
            yield {
                "selected": self.age == value,
                "query_string": address(changelist, {**cleared, "age": value}),
                "display": words,
            }

    def chips(self, changelist: Any) -> list[Chip]:
        found = [
            Chip(f"Failed {word}", f"{moment:%-d %b %Y %H:%M:%S} UTC", address(changelist, {name: None}))
            for name, word, moment in (
                ("from", "from", self.window["failed_from"]),
                ("to", "before", self.window["failed_to"]),
            )
            if moment and name in self.given
        ]
        if self.age:
            found.append(Chip("Age", self.AGES[self.age][2].lower(), address(changelist, {"age": None})))
        return found


_FIRST = (StatusFilter, ErrorTypeFilter, TypeFilter, AgeFilter)
_LAST = (SourceFilter, FingerprintFilter)
#: The facets have their own module.
_OWN = {FACET, *(one.name for one in (*_FIRST, *_LAST))}


def _generic(of: Filter) -> type[CriteriaFilter]:
    return type(f"{of.label}Filter", (_Options if of.options else _Text,), {"of": of})


_MIDDLE = [_generic(of) for of in FILTERS.values() if of.is_repeated and of.name not in _OWN]
LIST_FILTERS: Sequence[type[ListFilter]] = (*_FIRST, *_MIDDLE, *_LAST)
