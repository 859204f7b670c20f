"""Snapshot of the system at one point in time: the console's home page and ``GET /api/system/overview``.

Each part has a source of its own and fails alone: while a store is unavailable its parts keep their last values, with
their age. No part delays the others, so a snapshot takes as long with a million letters as with none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

from dlq_app.conf import replay_policy
from dlq_app.domain.replay_batch import ReplayBatch, Stage
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.domain.store_problem import StoreProblem
from dlq_app.services.groups import Group
from dlqsite.health import report
from dlqsite.health.findings import Finding, Status
from dlqsite.overview import charts
from dlqsite.overview.charts import Chart, Span
from dlqsite.overview.parts import Accounts, BreakerSeen, sources
from dlqsite.overview.sources import Part
from messages_app.domain.records import LedgerFigures
from messages_app.store.series import COARSE_MS, EVERY_MS, History

#: The charts show one hour: throughput by half a minute, letters by the minute.
HOUR_MS = 3600_000
THROUGHPUT_MS = 30_000
LETTERS_MS = 60_000
#: The chart of the last day is by a quarter of an hour.
DAY_MS, QUARTER_MS = 24 * HOUR_MS, 15 * LETTERS_MS
#: Deaths and replays are averaged over this time.
RECENT_MS = 180_000
LANES_SHOWN = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Lane:
    """One breaker's hour."""

    name: str
    state: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Rates of the history; None: not known."""

    accepted_per_s: float | None = None
    done_per_s: float | None = None
    failed_per_s: float | None = None
    held_per_s: float | None = None
    #: A quarter of an hour ago, for comparison.
    accepted_before: float | None = None
    done_before: float | None = None
    failed_before: float | None = None
    #: New dead letters a minute: now, and in the hour before.
    dying_per_min: float | None = None
    dying_before: float | None = None
    replayed_per_min: float | None = None
    last_death_at: datetime | None = None

    @classmethod
    def of(cls, history: History, now_ms: int) -> Rates:
        def rate(count: str, **when: int) -> float | None:
            return history.rate(count, now_ms, **when)

        def per_minute(count: str, **when: int) -> float | None:
            found = rate(count, **when)
            return None if found is None else 60 * found

        before = per_minute("died", over_ms=HOUR_MS - RECENT_MS, ago_ms=RECENT_MS)
        if before is None and history.samples:
            known_ms = max(now_ms - RECENT_MS - history.samples[0].at_ms, 1)
            before = per_minute("died", over_ms=known_ms, ago_ms=RECENT_MS)
        earlier = {
            f"{count}_before": rate(count, over_ms=300_000, ago_ms=900_000) for count in ("accepted", "done", "failed")
        }
        return cls(
            **{f"{count}_per_s": rate(count) for count in ("accepted", "done", "failed", "held")},
            **earlier,
            dying_per_min=per_minute("died", over_ms=RECENT_MS),
            dying_before=before,
            replayed_per_min=per_minute("replayed", over_ms=RECENT_MS),
            last_death_at=_last_death(history),
        )


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The parts, and what follows from them."""

    as_of: datetime
    replay_policy: ReplayPolicy = ReplayPolicy()  # noqa: RUF009 - frozen
    rates: Rates = Rates()
    ledger: Part[LedgerFigures] = Part()  # noqa: RUF009 - frozen
    history: Part[History] = Part()  # noqa: RUF009 - frozen
    accounts: Part[Accounts] = Part()  # noqa: RUF009 - frozen
    breakers: Part[tuple[BreakerSeen, ...]] = Part()  # noqa: RUF009 - frozen
    next_replays: Part[Mapping[str, datetime | None]] = Part()  # noqa: RUF009 - frozen
    letters: Part[Mapping[str, Any]] = Part()  # noqa: RUF009 - frozen
    groups: Part[tuple[Group, ...]] = Part()  # noqa: RUF009 - frozen
    batches: Part[tuple[ReplayBatch, ...]] = Part()  # noqa: RUF009 - frozen
    health: Part[report.Health] = Part()  # noqa: RUF009 - frozen

    @property
    def now_ms(self) -> int:
        return _now_ms(self.as_of, self.history, self.ledger)

    @property
    def away(self) -> dict[str, Part[Any]]:
        """The unavailable parts, by name."""
        parts: dict[str, Part[Any]] = {
            "ledger": self.ledger, "series": self.history, "accounting": self.accounts, "breakers": self.breakers,
            "letters": self.letters, "groups": self.groups, "batches": self.batches, "health": self.health,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part.is_away}

    @property
    def redis_is_away(self) -> bool:
        return self.ledger.is_away

    @property
    def mongodb_is_away(self) -> bool:
        return self.letters.is_away

    # --- messages

    @property
    def waiting(self) -> int | None:
        return sum(lane.waiting for lane in self.ledger.value.lanes) if self.ledger.value else None

    @property
    def oldest_wait_s(self) -> float | None:
        lanes = self.ledger.value.lanes if self.ledger.value else ()
        waits = [lane.oldest_ms for lane in lanes if lane.waiting and lane.oldest_ms]
        return max(0, self.now_ms - min(waits)) / 1000 if waits else None

    # --- letters

    @property
    def open_letters(self) -> int | None:
        return (self.letters.value or {}).get("open")

    @property
    def by_status(self) -> Mapping[str, int]:
        return (self.letters.value or {}).get("byStatus") or {}

    @property
    def letters_are_old(self) -> bool:
        """Whether the counts of letters are from another minute: MongoDB is unavailable, or counting takes long."""
        counted = (self.letters.value or {}).get("asOf")
        moment = datetime.fromisoformat(counted) if counted else None
        return moment is not None and (self.letters.is_away or (self.as_of - moment).total_seconds() > 30)

    @property
    def stopped_batches(self) -> list[ReplayBatch]:
        """Batches that stopped automatically a short while ago, newest first."""
        return [batch for batch in self.batches.value or () if batch.stage is Stage.STOPPED]

    # --- health

    @property
    def problems(self) -> Sequence[tuple[StoreProblem, datetime]]:
        """Problems that health found, in the order of its checks, and since when."""
        return self.health.value.problems if self.health.value and not self.health.is_away else ()

    @property
    def unhealthy_checks(self) -> dict[str, str]:
        """Checks that are not healthy, with their detail."""
        checks = self.health.value.checks if self.health.value and not self.health.is_away else {}
        return {name: found.detail for name, found in checks.items() if found.status is not Status.HEALTHY}

    def facts(self, check: str) -> Mapping[str, Any]:
        """Facts of a check that asks Redis; empty while that is unavailable."""
        checks: Mapping[str, Finding] = self.health.value.checks if self.health.value else {}
        return checks[check].facts if check in checks and not self.redis_is_away else {}

    def alive(self, check: str) -> int | None:
        """How many processes of a role are alive; None: not known."""
        found = self.facts(check).get("alive")
        return found if isinstance(found, int) else None

    # --- charts

    @cached_property
    def throughput(self) -> Chart:
        return self._chart(THROUGHPUT_MS, {"accepted": 1, "done": 1, "failed": 1}, steps=3)

    @cached_property
    def letters_chart(self) -> Chart:
        return self._chart(LETTERS_MS, {"died": 60, "replayed": 60}, steps=2)

    @cached_property
    def day_chart(self) -> Chart:
        """The last day, of samples five minutes apart."""
        history = self.history.value or History()
        counts = {"died": 60, "replayed": 60}
        coarse = History(samples=history.coarse)
        return _chart(coarse, self.now_ms, QUARTER_MS, counts, steps=2, over_ms=DAY_MS, every_ms=COARSE_MS)

    @cached_property
    def lanes(self) -> tuple[Lane, ...]:
        return _lanes(self.breakers.value or (), self.now_ms)

    def _chart(self, width_ms: int, factors: Mapping[str, int], *, steps: int) -> Chart:
        return _chart(self.history.value or History(), self.now_ms, width_ms, factors, steps=steps)


def overview() -> Overview:
    """The snapshot of now."""
    parts = sources().parts()
    now = datetime.now(UTC)
    rates = Rates.of(parts["history"].value or History(), _now_ms(now, parts["history"], parts["ledger"]))
    return Overview(as_of=now, rates=rates, replay_policy=replay_policy(), **parts)


def _now_ms(now: datetime, history: Part[History], ledger: Part[LedgerFigures]) -> int:
    """By the clock of Redis, which also wrote the samples."""
    last = history.value.last if history.value else None
    found = max(last.at_ms if last else 0, ledger.value.now_ms if ledger.value else 0)
    return found or int(now.timestamp() * 1000)


def _last_death(history: History) -> datetime | None:
    """When a message was last given up, to a sample; None when not within the last day."""
    for samples in (history.samples, history.coarse):
        for earlier, later in zip(reversed(samples[:-1]), reversed(samples), strict=False):
            if later.died > earlier.died:
                return _EPOCH + timedelta(milliseconds=later.at_ms)
    return None


def _chart(
    history: History, now_ms: int, width_ms: int, counts: Mapping[str, int], *,
    steps: int, over_ms: int = HOUR_MS, every_ms: int = EVERY_MS,
) -> Chart:  # fmt: skip
    """Rates of the last ``over_ms``, each times its factor, in spans that end with the last one that is over."""
    number = over_ms // width_ms
    # The last sample of a span is taken up to one interval before its end.
    start_ms = (now_ms - every_ms // 2) // width_ms * width_ms - number * width_ms
    rates: dict[str, charts.Rates] = {
        count: [None if rate is None else rate * factor for rate in history.buckets(count, start_ms, width_ms, number)]
        for count, factor in counts.items()
    }
    return charts.chart(rates, start_ms, width_ms, steps=steps)


def _lanes(seen: Sequence[BreakerSeen], now_ms: int) -> tuple[Lane, ...]:
    start_ms = now_ms - HOUR_MS
    return tuple(
        Lane(
            one.card.name,
            one.state.value,
            charts.lane(
                [(change.at_ms, change.source.value, change.to.value) for change in one.transitions],
                one.state.value, start_ms, now_ms,
            ),
        )
        for one in seen[:LANES_SHOWN]
    )  # fmt: skip
