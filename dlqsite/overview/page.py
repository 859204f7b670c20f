"""The overview in the words of the page: figures with their tone and the list behind each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from breaker_app.states import State as BreakerState
from console.times import took
from dlq_app.domain.states import Status
from dlqsite.health.findings import Finding
from dlqsite.health.findings import Status as Health
from dlqsite.overview.parts import BreakerSeen
from dlqsite.overview.snapshot import Overview
from dlqsite.overview.sources import Part
from dlqsite.overview.trouble import count_of, letters_page, per_minute, since
from dlqsite.overview.verdict import SLOW_S
from messages_app.store.presence import CLOCK_TOLERANCE_MS, clock_words

#: What a check is called on the page.
_CHECKS: Final = {
    "redis": "Redis", "intake": "Intake", "disk": "Disk",
    "mongodb": "MongoDB", "database": "Database", "workers": "Workers", "scheduler": "Scheduler",
    "dlqWorker": "DLQ worker", "queues": "Queues", "breakers": "Breakers", "accounting": "Accounting",
    "losses": "Losses", "letters": "Letters", "clocks": "Clocks", "notifications": "Notifications",
}  # fmt: skip
#: Bar of each open status.
_SPLIT: Final = (
    (Status.MANUAL, "hand"), (Status.PENDING, "warn"), (Status.FAILED, "bad"), (Status.PROCESSING, "busy"),
)  # fmt: skip
_OPEN: Final = tuple(status.value for status, _ in _SPLIT)
_MESSAGES: Final = "messages_app/message/"


@dataclass(frozen=True, slots=True)
class Kpi:
    """One figure of the row at the top."""

    label: str
    number: str
    unit: str
    detail: str
    page: str
    #: Empty, ``warn``, ``bad``, or ``old`` for a figure that nobody can renew now.
    tone: str = ""
    #: Tone of the detail: empty, ``up-bad``, ``up-warn`` or ``down-ok``.
    trend: str = ""
    is_wide: bool = False


def rate(value: float | None) -> str:
    """``62.4``, ``1,240``; a dash if unknown."""
    if value is None:
        return "—"
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}"


def kpis(o: Overview) -> Iterator[Kpi]:
    """The seven figures; those of an unavailable store with their last value and time."""
    parts: tuple[Part[Any], ...] = (o.history, o.history, o.history, o.ledger, o.ledger, o.letters, o.letters)
    for kpi, part in zip(_kpis(o), parts, strict=True):
        if part.is_away:
            when = f"as of {part.as_of:%H:%M:%S}" if part.as_of else "not known"
            kpi = replace(kpi, detail=when, tone="old", trend="")
        yield kpi


def _kpis(o: Overview) -> Iterator[Kpi]:
    book, dead = o.ledger.value, o.letters.value or {}
    yield Kpi(
        "Accepted",
        rate(o.rates.accepted_per_s),
        "/s",
        _against(o.rates.accepted_per_s, o.rates.accepted_before),
        _MESSAGES,
    )
    falls = (
        o.rates.done_per_s is not None
        and bool(o.rates.done_before)
        and o.rates.done_per_s < 0.7 * (o.rates.done_before or 0)
    )
    yield Kpi(
        "Done", rate(o.rates.done_per_s), "/s", _against(o.rates.done_per_s, o.rates.done_before), _MESSAGES,
        trend="up-warn" if falls and o.waiting else "",
    )  # fmt: skip
    rises = (o.rates.failed_per_s or 0) > 3 * (o.rates.failed_before or 0) + 0.2
    failed_share = ""
    if o.rates.failed_per_s and o.rates.done_per_s is not None:
        failed_share = f"{100 * o.rates.failed_per_s / (o.rates.failed_per_s + o.rates.done_per_s):.1f} % of attempts"
    yield Kpi(
        "Failed attempts", rate(o.rates.failed_per_s), "/s",
        f"{rate(o.rates.failed_before)} a quarter of an hour ago" if rises and o.rates.failed_before is not None
        else failed_share or ("none" if o.rates.failed_per_s == 0 else "not known"),
        _MESSAGES, "bad" if rises else "", "up-bad" if rises else "",
    )  # fmt: skip
    slow = (o.oldest_wait_s or 0) > SLOW_S
    yield Kpi(
        "Queue depth", "—" if o.waiting is None else f"{o.waiting:,}", "",
        " · ".join(f"{lane.waiting:,} {lane.name}" for lane in book.lanes if lane.name != "alone" or lane.waiting)
        if book else "not known",
        _MESSAGES + "#lanes", "warn" if slow else "",
    )  # fmt: skip
    held = f"{rate(o.rates.held_per_s)}/s held by breakers" if o.rates.held_per_s else ""
    yield Kpi(
        "Waiting retries", f"{book.retry_wait:,}" if book else "—", "",
        held or (f"{book.scheduled:,} more have a time" if book and book.scheduled else "none is late"
                 if book and not book.overdue else f"{book.overdue:,} late" if book else "not known"),
        _MESSAGES + "#flight", "warn" if book and book.overdue else "",
    )  # fmt: skip
    open_letters, dying = dead.get("open"), o.rates.dying_per_min
    grows = dying is not None and dying >= 1
    change = (dying or 0) - (o.rates.replayed_per_min or 0)
    yield Kpi(
        "Open dead letters", "—" if open_letters is None else f"{open_letters:,}", "",
        "not known" if dying is None else f"{'+' if change > 0 else '-'}{per_minute(abs(change))} a minute"
        if abs(change) >= 0.05 else "no change in 3 min",
        letters_page(status=_OPEN), "bad" if grows else "",
        "up-bad" if grows and change > 0 else "down-ok" if change < -0.05 else "",
    )  # fmt: skip
    age = dead.get("oldestOpenSeconds")
    yield Kpi(
        "Oldest open", took(age) if age is not None else "none" if open_letters == 0 else "—", "",
        "since it first failed" if age is not None else "", letters_page(status=_OPEN), is_wide=True,
    )  # fmt: skip


def _against(now: float | None, before: float | None) -> str:
    if now is None:
        return "no recent samples"
    if before is None:
        return "no earlier figures"
    if abs(now - before) <= max(0.1 * before, 0.1):
        return "steady"
    if before < 0.05:
        return "nothing a quarter of an hour ago"
    if now < 0.05:
        return f"{rate(before)} a quarter of an hour ago"
    change = 100 * (now - before) / before
    return f"{abs(change):,.0f} % {'more' if change > 0 else 'fewer'} than 15 min ago"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a list: what, its badge, and a few words."""

    name: str
    status: str
    words: str
    tone: str = ""
    text: str = ""


def breaker_rows(o: Overview) -> Iterator[Row]:
    """Breakers, worst first."""
    for one in o.breakers.value or ():
        tone = {BreakerState.OPEN: "bad", BreakerState.HALF_OPEN: "warn", BreakerState.CLOSED: ""}
        held = f"{count_of(one.held.count, 'message')} held; " if one.held and one.held.count else ""
        yield Row(one.card.name, one.state.value, held + _breaker_words(one, o), tone.get(one.state, "mute"))


def _breaker_words(one: BreakerSeen, o: Overview) -> str:
    seen = one.card.seen
    match one.state:
        case BreakerState.CLOSED:
            window = one.card.policy.time_window_ms // 1000
            if not seen.total:
                return f"no call in the last {window} s"
            return f"{100 * seen.failure_rate:.0f} % of {count_of(seen.total, 'call')} failed in the last {window} s"
        case BreakerState.HALF_OPEN:
            needed = one.card.policy.half_open_max_requests
            return (
                f"{seen.probes_succeeded} of {needed} probes succeeded, {seen.probes_failed} failed, "
                f"{seen.leases} under way"
            )
        case BreakerState.OPEN:
            left = f"since {since(one.since, o.as_of)}; " if one.since else ""
            wait = seen.retry_after_ms
            return left + (f"next probes in {took(wait / 1000)}" if wait > 0 else "the next call is a probe")
        case _:
            order = one.by_hand
            return (f"by {order.actor}: {order.reason}" if order else "set by a user") + ", until it is reset"


@dataclass(frozen=True, slots=True)
class Share:
    """One status of open letters: how many, and the length of its bar of 1000."""

    status: str
    tone: str
    number: int
    width: float
    page: str


def shares(o: Overview) -> list[Share]:
    """Open letters by status."""
    counts = (o.letters.value or {}).get("byStatus") or {}
    total = sum(counts.get(status.value, 0) for status, _ in _SPLIT)
    return [
        Share(
            status.value, tone, counts.get(status.value, 0),
            round(1000 * counts.get(status.value, 0) / total, 1) if total else 0, letters_page(status=status.value),
        )
        for status, tone in _SPLIT
    ]  # fmt: skip


_WORST: Final = (Health.UNHEALTHY, Health.DEGRADED, Health.HEALTHY)


def health_rows(o: Overview) -> list[Row]:
    """Every part and how it is, worst first."""
    found = o.health.value.checks if o.health.value else {}
    named = [(name, finding) for name, finding in found.items()]
    named.sort(key=lambda pair: _WORST.index(pair[1].status))
    return [Row(_CHECKS.get(name, name), finding.status.value, _finding_words(finding)) for name, finding in named]


def _finding_words(finding: Finding) -> str:
    if finding.detail:
        return finding.detail
    facts = finding.facts
    if facts.get("recipients") == 0:
        return "no recipients"
    if "alive" in facts:
        return f"{facts['alive']} alive"
    if "lacking" in facts:
        return "none is missing"
    if "losses" in facts:
        return "neither store fell back" if not facts.get("incomplete") else "MongoDB could not be queried"
    if "differences" in facts:
        return "every day adds up"
    if "states" in facts:
        return f"{len(facts['states'])} closed" if facts["states"] else "none used yet"
    if "waiting" in facts:
        return f"{sum(facts['waiting'].values()):,} waiting, {facts['running']:,} running"
    # Coarse, so that a page on which nothing happens stays the same.
    return "under 5 ms" if finding.latency_ms < 5 else f"{float(f'{finding.latency_ms:.0e}'):g} ms"


#: Rows of processes that are shown.
_PROCESSES_SHOWN: Final = 12
_ROLES: Final = {"worker": "Worker", "dlq_worker": "DLQ worker", "cron": "Cron", "notifier": "Notifier", "web": "Web"}


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process that is alive, and its clock against Redis'."""

    role: str
    name: str
    host: str
    clock: str
    #: Whether the clock is within the tolerance; None when it has not been measured yet.
    is_right: bool | None


def process_rows(o: Overview) -> tuple[list[ProcessRow], int]:
    """Processes that are alive, those whose clocks are furthest off first, and how many more there are."""
    checks = o.health.value.checks if o.health.value else {}
    found = checks["clocks"].facts.get("processes", ()) if "clocks" in checks else ()
    worst = sorted(found, key=lambda one: -abs(one["clockOffMs"] or 0))[:_PROCESSES_SHOWN]
    return [_process_row(one) for one in worst], len(found) - len(worst)


def _process_row(one: Mapping[str, Any]) -> ProcessRow:
    off = one["clockOffMs"]
    role = _ROLES.get(one["role"], one["role"])
    if off is None:
        return ProcessRow(role, one["name"], one["host"], "Not measured", None)
    return ProcessRow(role, one["name"], one["host"], clock_words(off), abs(off) <= CLOCK_TOLERANCE_MS)


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A replay batch under way."""

    id: str
    title: str
    stage: str
    done: int
    total: int
    #: Parts of its bar of 1000.
    succeeded: float
    failed: float
    skipped: float
    words: str

    @property
    def after_failed(self) -> float:
        return round(self.succeeded + self.failed, 1)


def batch_rows(o: Overview) -> Iterator[BatchRow]:
    """Batches, newest first."""
    for batch in o.batches.value or ():
        counts, total = batch.counts, max(batch.total, 1)
        ended = counts.succeeded + counts.failed + counts.skipped
        words = f"{counts.succeeded:,} succeeded, {counts.failed:,} failed, {counts.skipped:,} skipped"
        yield BatchRow(
            id=batch.id,
            title=batch.name or batch.reason or batch.id,
            stage=batch.stage.value,
            done=ended,
            total=batch.total,
            succeeded=round(1000 * counts.succeeded / total, 1),
            failed=round(1000 * counts.failed / total, 1),
            skipped=round(1000 * counts.skipped / total, 1),
            words=f"{words}; {batch.waiting}" if batch.waiting else words,
        )


@dataclass(frozen=True, slots=True)
class Banner:
    """Something to know about the page itself."""

    tone: str
    strong: str
    words: str


def banners(o: Overview) -> Iterator[Banner]:
    """Figures that are of an earlier time, and why. What the verdict says already is said in a word."""
    away = {name: part for name, part in o.away.items() if name != "health"}
    of_redis = [name for name in ("ledger", "series", "accounting", "breakers") if name in away]
    of_mongodb = [name for name in ("letters", "groups", "batches") if name in away]
    for store, names in (("Redis", of_redis), ("MongoDB", of_mongodb)):
        if not names:
            continue
        times = [part.as_of for name in names if (part := away[name]).as_of is not None]
        what = {
            "ledger": "queues", "series": "rates", "accounting": "accounts", "breakers": "breakers",
            "letters": "dead letters", "groups": "groups", "batches": "replay batches",
        }  # fmt: skip
        shown = ", ".join(what[name] for name in names)
        whole = len(names) > 2
        yield Banner(
            "warn",
            f"{store} does not answer." if whole else f"No current figures for {shown}.",
            f"Figures of {shown} are from {min(times):%H:%M:%S} UTC."
            if times
            else f"Figures of {shown} are not known.",
        )
