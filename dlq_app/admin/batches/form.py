"""Form that starts a replay batch: values, errors, and the resulting order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from typing import Any

from django.http import QueryDict

from console.commands import curl, manage, reason_flag
from dlq_app.admin.letters.selection import ids_of
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import RequestInvalid
from dlq_app.domain.filters import FILTERS
from dlq_app.domain.limits import MAX_REASON
from dlq_app.domain.replay_batch import MAX_CANARY, MAX_NAME, BatchOrder
from wire.instants import iso
from wire.visible_text import shell_flag

#: Defaults: careful, but a thousand letters take only a minute.
RATE, CANARY, SHARE, BUDGET = "20", "5", "80", "20"
_OTHERS = ("id", "all", "reason", "p", "o", "e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """The letters that an address selects."""

    criteria: LetterCriteria
    ids: tuple[str, ...]
    everything: bool

    @classmethod
    def of(cls, query: QueryDict) -> Which:
        """Raises ``CriteriaInvalid``."""
        ids = tuple(ids_of(query))
        criteria = LetterCriteria.parse({name: values for name, values in query.lists() if name not in _OTHERS})
        return cls(criteria=criteria, ids=ids, everything=not ids and criteria.is_empty and query.get("all") == "1")

    @property
    def is_nothing(self) -> bool:
        """Neither ids nor criteria nor "all" is given."""
        return not self.ids and self.criteria.is_empty and not self.everything

    def order(self, *, poison: bool = False) -> BatchOrder:
        """An order for these letters with default settings."""
        return BatchOrder(
            criteria=None if self.ids else self.criteria,
            ids=self.ids,
            everything=self.everything or bool(self.ids),
            poison=poison,
        )

    def as_body(self) -> dict[str, Any]:
        """The selection as request parameters."""
        if self.ids:
            return {"ids": list(self.ids)}
        return {"filter": self.criteria.as_filter(), **({"all": True} if self.everything else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchForm:
    """Values of the fields as text, and their errors."""

    which: Which
    reason: str = ""
    name: str = ""
    rate: str = RATE
    canary: str = CANARY
    share: str = SHARE
    budget: str = BUDGET
    when: str = "now"
    at: str = ""
    off_peak: datetime | None = None
    #: Whether to include letters whose message probably kills its worker.
    poison: bool = False

    @classmethod
    def read(cls, which: Which, data: QueryDict, off_peak: datetime) -> BatchForm:
        given = {name: data.get(name, "").strip() for name in ("reason", "name", "rate", "canary", "share", "budget")}
        when = data.get("when", "now")
        poison = data.get("poison") == "on"
        return cls(which=which, off_peak=off_peak, when=when, at=data.get("at", "").strip(), poison=poison, **given)

    def ordered(self) -> tuple[BatchOrder | None, dict[str, str]]:
        """The order, or errors by field."""
        errors: dict[str, str] = {}
        body = self.which.as_body() | self._settings(errors)
        if not self.reason:
            errors["reason"] = "A reason is required; it is kept in the history."
        if errors:
            return None, errors
        try:
            return BatchOrder.parse(body), {}
        except RequestInvalid as error:
            return None, {_FIELDS.get(entry["field"].split(".")[0], "form"): _said(entry) for entry in error.errors}

    def shown(self) -> BatchOrder:
        """The order that the page shows, even without a reason; without settings if one of them is invalid."""
        found = replace(self, reason=self.reason or "…").ordered()[0] or self.which.order(poison=self.poison)
        return found if self.reason else replace(found, reason="")

    def _settings(self, errors: dict[str, str]) -> dict[str, Any]:
        body: dict[str, Any] = {"reason": self.reason, "name": self.name}
        rate = _number(self.rate, "rate", 0.01, 100_000, errors, empty=None)
        size = _number(self.canary, "canary", 0, MAX_CANARY, errors, empty=0)
        share = _number(self.share, "share", 0, 100, errors, empty=100)
        budget = _number(self.budget, "budget", 0, 100, errors, empty=None)
        if rate is not None:
            body["ratePerSecond"] = rate
        if size and share is not None:
            body["canary"] = {"size": int(size), "minSuccess": needed(int(size), share)}
        if budget is not None:
            body["maxFailureRate"] = budget / 100
        scheduled_at = self._scheduled(errors)
        if scheduled_at is not None:
            body["scheduledAt"] = iso(scheduled_at)
        if self.poison:
            body["poison"] = True
        return body

    def _scheduled(self, errors: dict[str, str]) -> datetime | None:
        if self.when == "off-peak":
            return self.off_peak
        if self.when != "at":
            return None
        try:
            # The field has no time zone; the page states that all times are UTC.
            return datetime.fromisoformat(self.at).replace(tzinfo=UTC)
        except ValueError:
            errors["at"] = "Enter a date and time in UTC."
            return None


def needed(size: int, percent: float) -> int:
    """``percent`` of ``size`` letters, rounded up."""
    return ceil(round(size * percent / 100, 6))


def _number(
    text: str, name: str, low: float, high: float, errors: dict[str, str], *, empty: float | None
) -> float | None:
    if not text:
        return empty
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not low <= value <= high:
        errors[name] = f"A number from {low:g} to {high:g}."
        return None
    return value


#: Field of an order → field of the form.
_FIELDS: Mapping[str, str] = {
    "reason": "reason",
    "name": "name",
    "ratePerSecond": "rate",
    "canary": "canary",
    "maxFailureRate": "budget",
    "scheduledAt": "at",
}


def _said(entry: Mapping[str, str]) -> str:
    message = entry["message"]
    return f"{message[:1].upper()}{message[1:]}."


def limited(order: BatchOrder, seen: int) -> BatchOrder:
    """The order, limited to the number of letters shown."""
    return order if order.ids else replace(order, limit=min(seen, order.limit or seen))


def equivalent_commands(order: BatchOrder, which: Which, site: str) -> list[tuple[str, str]]:
    """Commands for curl and manage.py that start the same batch."""
    canary = order.canary
    choices: list[tuple[str, str, Any]] = [
        ("--limit", "limit", order.limit),
        ("--rate", "ratePerSecond", order.rate_per_second),
        ("--canary", "canary", canary and {"size": canary.size, "minSuccess": canary.min_success}),
        ("--max-failures", "maxFailures", order.max_failures),
        ("--max-failure-rate", "maxFailureRate", order.max_failure_rate),
        ("--schedule", "scheduledAt", order.scheduled_at and iso(order.scheduled_at)),
        ("--name", "name", order.name or None),
    ]
    body, flags = which.as_body(), [] if which.ids else _flags(which.criteria)
    if which.everything:
        flags = ["--all"]
    for flag, name, value in choices:
        if value is None:
            continue
        body[name] = value
        if canary and flag == "--canary":
            flags += [f"--canary {canary.size}", f"--min-success {canary.min_success}"]
        else:
            flags.append(shell_flag(flag, f"{value:.15g}" if isinstance(value, float) else value))
    if order.poison:
        body["poison"] = True
        flags.append("--poison")
    if order.reason:
        body["reason"] = order.reason
    flags += [reason_flag(order.reason), "--wait"]
    asks = "" if order.reason else "reason"
    return [
        ("manage.py", manage("replay_dlq", flags, which.ids)),
        ("curl", curl(f"{site}/api/dlq/replay-batch", body, method="POST", asks=asks)),
    ]


def _flags(criteria: LetterCriteria) -> list[str]:
    return [shell_flag(FILTERS[name].flag, value) for name, value in criteria.as_params()]


__all__ = ["MAX_NAME", "MAX_REASON", "BatchForm", "Which", "equivalent_commands", "limited", "needed"]
