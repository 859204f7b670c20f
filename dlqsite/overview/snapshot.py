"""The figures of one instant: what the console's home shows and ``GET /api/system/overview`` tells, as one object.

Each part comes from a source of its own and fails alone: while a store is away its parts keep what they said last, with
its age. Nobody waits for a part that is slow, so reading takes as long with a million letters as with none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from breaker_app import services as breakers
from breaker_app.breaker import State as BreakerState
from breaker_app.errors import BreakerError
from breaker_app.states import Transition
from dlq_app.conf import masking_policy
from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.group_states import OPEN_STATES
from dlq_app.domain.masking import mask_text
from dlq_app.domain.replay_batch import ReplayBatch, Stage
from dlq_app.domain.store_problem import StoreProblem
from dlq_app.services import batches, groups
from dlq_app.services import dead_letters as letters
from dlq_app.services.groups import Group
from dlq_app.services.letter_json import masked_batch
from dlq_app.store import repository
from dlqsite.health import report
from dlqsite.health.findings import Status
from dlqsite.overview import charts
from dlqsite.overview.charts import Chart, Span
from dlqsite.overview.situation import BatchSight, BreakerSight, GroupSight, LossSight, ProblemSight, Sight
from dlqsite.overview.sources import Part, Source, look
from dlqsite.overview.verdict import Verdict, judge
from messages_app import registry
from messages_app.domain.errors import MessagesError
from messages_app.domain.records import AccountRow, LedgerFigures
from messages_app.store.ledger import ledger
from messages_app.store.series import EVERY_MS, History, series

#: What is shown of the hour: throughput by half a minute, letters by the minute.
HOUR_MS = 3600_000
THROUGHPUT_MS = 30_000
LETTERS_MS = 60_000
#: Rows of the lists.
TOP_GROUPS = 5
#: Groups that the verdict looks at.
SEEN_GROUPS = 20
RUNNING_BATCHES = 5
#: Batches that stopped by themselves are told of for so long, at most so many.
STOPPED_FOR = timedelta(hours=1)
STOPPED_BATCHES = 3
LANES_SHOWN = 8
_TRANSITIONS = 60
#: Days whose accounts are shown; all days are looked at for differences.
ACCOUNT_DAYS = 400
#: States from the one to look at first.
_WORST_FIRST = (
    BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.FORCED_OPEN, BreakerState.DISABLED,
    BreakerState.METRICS_ONLY, BreakerState.CLOSED,
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# --- the sources ---


@dataclass(frozen=True, slots=True)
class Accounts:
    """accepted = done + open + dead: today, and every difference there is."""

    accepted: int
    done: int
    open: int
    dead: int
    #: Over all days.
    accepted_ever: int
    #: Rows that do not add up, newest day first.
    differences: tuple[AccountRow, ...]

    @property
    def difference(self) -> int:
        return sum(row.wrong for row in self.differences)


@dataclass(frozen=True, slots=True)
class BreakerSeen:
    """A breaker and how it has gone in the last hour."""

    card: breakers.Card
    #: Message types that it guards.
    types: tuple[str, ...]
    #: Oldest first; None where they could not be had.
    transitions: tuple[Transition, ...] = ()

    @property
    def state(self) -> BreakerState:
        return self.card.seen.state

    @property
    def since(self) -> datetime | None:
        """When it last left CLOSED; None when it is closed, or that is longer ago than is known."""
        if self.state is BreakerState.CLOSED:
            return None
        left = [change.at_ms for change in self.transitions if change.source is BreakerState.CLOSED]
        return _EPOCH + timedelta(milliseconds=left[-1]) if left else None

    @property
    def by_hand(self) -> Transition | None:
        """The order that a person gave, if that is why it is where it is."""
        last = self.transitions[-1] if self.transitions else None
        return last if last is not None and last.actor else None


def _history() -> History:
    # Whoever looks keeps the series going, also when nobody works.
    series().sample()
    return series().history()


def _accounts() -> Accounts:
    rows = ledger().accounting(ACCOUNT_DAYS)
    today = f"{datetime.fromtimestamp(ledger().now_ms() / 1000, UTC):%Y%m%d}"
    of_today = [row for row in rows if row.day == today]
    differences = tuple(row for row in reversed(rows) if row.wrong)
    return Accounts(
        accepted=sum(row.accepted for row in of_today),
        done=sum(row.done for row in of_today),
        open=sum(row.open for row in of_today),
        dead=sum(row.dead for row in of_today),
        accepted_ever=sum(row.accepted for row in rows),
        differences=differences,
    )


def _breakers() -> tuple[BreakerSeen, ...]:
    guarded: dict[str, list[str]] = {}
    for spec in registry.specs():
        for name in spec.breaker_names():
            guarded.setdefault(name, []).append(spec.type)
    seen = [
        BreakerSeen(
            card,
            tuple(guarded.get(card.name, ())),
            # One that was never used has no story; each of the others costs one short read.
            tuple(reversed(breakers.transitions(card.name, _TRANSITIONS))) if card.seen.generation else (),
        )
        for card in breakers.cards()
    ]
    return tuple(sorted(seen, key=lambda one: (_WORST_FIRST.index(one.state), -len(one.transitions), one.card.name)))


def _groups() -> tuple[GroupSight, ...]:
    """Those with the most open letters, and after them those that failed last: what is new may still be small."""
    most = groups.top(SEEN_GROUPS)
    latest = groups.page(states=OPEN_STATES, sort="-lastSeen", limit=SEEN_GROUPS).groups
    found = {group.fingerprint: group for group in (*most, *latest)}
    return tuple(_group_sight(group) for group in found.values())


def _group_sight(group: Group) -> GroupSight:
    """A group for the page; what its letters say has its secrets hidden."""
    return GroupSight(
        fingerprint=group.fingerprint,
        title=mask_text(group.telling_title, masking_policy()),
        error_type=group.error_type,
        kind=group.error_kind,
        place=group.frame,
        state=group.state.value,
        types=tuple(name for name, _ in group.types),
        open=group.open,
        count=group.count,
        trend=group.trend,
        first_seen=group.first_seen,
        last_seen=group.last_seen,
    )


def _batches() -> tuple[ReplayBatch, ...]:
    """Those under way, and after them those that stopped by themselves a short while ago."""
    stopped = batches.page(stages=[Stage.STOPPED.value], limit=STOPPED_BATCHES).batches
    since = repository.now() - STOPPED_FOR
    lately = [batch for batch in stopped if batch.finished_at and batch.finished_at >= since]
    policy = masking_policy()
    return tuple(masked_batch(batch, policy) for batch in (*batches.running(RUNNING_BATCHES), *lately))


def _batch_sight(batch: ReplayBatch) -> BatchSight:
    return BatchSight(
        id=batch.id,
        title=batch.name or batch.id,
        why=batch.stop_reason,
        stopped_at=batch.finished_at or batch.updated_at,
        failed=batch.counts.failed,
        sent=batch.counts.sent,
        total=batch.total,
    )


class Sources:
    """Everything that is asked, once per process."""

    def __init__(self) -> None:
        redis, mongodb, breaker = (MessagesError,), (DeadLetterError,), (BreakerError,)
        self.ledger = Source[LedgerFigures]("ledger", lambda: ledger().figures(), redis)
        self.history = Source[History]("series", _history, redis)
        self.accounts = Source[Accounts]("accounting", _accounts, redis, keep_s=10.0)
        self.breakers = Source[tuple[BreakerSeen, ...]]("breakers", _breakers, breaker)
        self.letters = Source[Mapping[str, Any]]("letters", letters.stats, mongodb)
        self.groups = Source[tuple[GroupSight, ...]]("groups", _groups, mongodb)
        self.batches = Source[tuple[ReplayBatch, ...]]("batches", _batches, mongodb)
        # Its checks catch what stores do, and it waits for none of them longer than 2 s. Asked again at once, however
        # long it took: that a store takes writes again must not be news of half a minute ago.
        self.health = Source[report.Health]("health", lambda: report.doctor().look(), (), leisure=0)
        self.all: tuple[Source[Any], ...] = (
            self.ledger, self.history, self.accounts, self.breakers, self.letters, self.groups, self.batches,
            self.health,
        )  # fmt: skip
        self._threads = ThreadPoolExecutor(2 * len(self.all), thread_name_prefix="overview")

    def look(self) -> None:
        look(self.all, self._threads)


@cache
def sources() -> Sources:
    """Those of this process, made at the first look: threads do not survive a fork."""
    return Sources()


# --- the figures ---


@dataclass(frozen=True, slots=True)
class Lane:
    """One breaker's hour."""

    name: str
    state: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """Everything the home page shows, as of one instant. Rates are per second; None: nobody knows."""

    as_of: datetime
    verdict: Verdict
    ledger: Part[LedgerFigures]
    history: Part[History]
    accounts: Part[Accounts]
    breakers: Part[tuple[BreakerSeen, ...]]
    letters: Part[Mapping[str, Any]]
    groups: Part[tuple[GroupSight, ...]]
    batches: Part[tuple[ReplayBatch, ...]]
    health: Part[report.Health]
    accepted_per_s: float | None
    done_per_s: float | None
    failed_per_s: float | None
    held_per_s: float | None
    #: A quarter of an hour ago, for comparison.
    accepted_before: float | None
    done_before: float | None
    failed_before: float | None
    #: New dead letters and good replays a minute.
    dying_per_min: float | None
    replayed_per_min: float | None
    waiting: int | None
    oldest_wait_s: float | None
    throughput: Chart
    letters_chart: Chart
    lanes: tuple[Lane, ...]

    @property
    def away(self) -> dict[str, Part[Any]]:
        """The parts that do not answer, by name."""
        parts: dict[str, Part[Any]] = {
            "ledger": self.ledger, "series": self.history, "accounting": self.accounts, "breakers": self.breakers,
            "letters": self.letters, "groups": self.groups, "batches": self.batches, "health": self.health,
        }  # fmt: skip
        return {name: part for name, part in parts.items() if part.is_away}

    @property
    def letters_are_old(self) -> bool:
        """Whether the counts of letters are of another minute: the store is away, or counting takes long."""
        counted = (self.letters.value or {}).get("asOf")
        moment = datetime.fromisoformat(counted) if counted else None
        return moment is not None and (self.letters.is_away or (self.as_of - moment).total_seconds() > 30)

    @property
    def redis_is_away(self) -> bool:
        return self.ledger.is_away

    @property
    def mongodb_is_away(self) -> bool:
        return self.letters.is_away


def overview() -> Overview:
    """The figures now; parts that cannot be had in a moment as they were last."""
    asked = sources()
    asked.look()
    return compose(
        datetime.now(UTC), asked.ledger.part(), asked.history.part(), asked.accounts.part(), asked.breakers.part(),
        asked.letters.part(), asked.groups.part(), asked.batches.part(), asked.health.part(),
    )  # fmt: skip


def compose(
    now: datetime, book: Part[LedgerFigures], past: Part[History], accounts: Part[Accounts],
    circuits: Part[tuple[BreakerSeen, ...]], dead: Part[Mapping[str, Any]], worst: Part[tuple[GroupSight, ...]],
    runs: Part[tuple[ReplayBatch, ...]], well: Part[report.Health],
) -> Overview:  # fmt: skip
    """The figures that the parts come to."""
    history = past.value or History()
    # Samples are told by the server's clock, and so is what is compared with them.
    now_ms = max(history.last.at_ms if history.last else 0, book.value.now_ms if book.value else 0)
    now_ms = now_ms or int(now.timestamp() * 1000)

    def rate(count: str, **when: int) -> float | None:
        return history.rate(count, now_ms, **when)

    dying, replayed = rate("died", over_ms=180_000), rate("replayed", over_ms=180_000)
    before = history.rate("died", now_ms, over_ms=HOUR_MS - 180_000, ago_ms=180_000)
    if before is None and history.samples:
        before = history.rate(
            "died", now_ms, over_ms=max(now_ms - 180_000 - history.samples[0].at_ms, 1), ago_ms=180_000
        )
    figures = book.value
    waits = [lane for lane in figures.lanes if lane.waiting and lane.oldest_ms] if figures else []
    oldest = max((now_ms - lane.oldest_ms for lane in waits if lane.oldest_ms), default=0) / 1000
    waiting = sum(lane.waiting for lane in figures.lanes) if figures else None
    accepted, done = rate("accepted"), rate("done")
    earlier = {count: rate(count, over_ms=300_000, ago_ms=900_000) for count in ("accepted", "done", "failed")}
    sight = _sight(
        now, book, accounts, circuits, dead, worst, runs, well,
        waiting=waiting, oldest_wait_s=oldest if waits else None, accepted_per_s=accepted, done_per_s=done,
        last_death_at=_last_death(history),
        dying_now=None if dying is None else 60 * dying, dying_before=None if before is None else 60 * before,
    )  # fmt: skip
    return Overview(
        as_of=now,
        verdict=judge(sight),
        ledger=book,
        history=past,
        accounts=accounts,
        breakers=circuits,
        letters=dead,
        groups=worst,
        batches=runs,
        health=well,
        accepted_per_s=accepted,
        done_per_s=done,
        failed_per_s=rate("failed"),
        held_per_s=rate("held"),
        accepted_before=earlier["accepted"],
        done_before=earlier["done"],
        failed_before=earlier["failed"],
        dying_per_min=sight.dying_now,
        replayed_per_min=None if replayed is None else 60 * replayed,
        waiting=waiting,
        oldest_wait_s=sight.oldest_wait_s,
        throughput=_chart(history, now_ms, THROUGHPUT_MS, {"accepted": 1, "done": 1, "failed": 1}, steps=3),
        letters_chart=_chart(history, now_ms, LETTERS_MS, {"died": 60, "replayed": 60}, steps=2),
        lanes=_lanes(circuits.value or (), now_ms),
    )


def _sight(
    now: datetime, book: Part[LedgerFigures], accounts: Part[Accounts], circuits: Part[tuple[BreakerSeen, ...]],
    dead: Part[Mapping[str, Any]], worst: Part[tuple[GroupSight, ...]], runs: Part[tuple[ReplayBatch, ...]],
    well: Part[report.Health], **known: Any,
) -> Sight:  # fmt: skip
    figures, stats, checks = book.value, dead.value or {}, well.value.checks if well.value else {}
    books = accounts.value

    def alive(check: str) -> int | None:
        found = checks[check].facts.get("alive") if check in checks and not book.is_away else None
        return found if isinstance(found, int) else None

    lost = checks["losses"].facts.get("losses", ()) if "losses" in checks and not book.is_away else ()
    lacking = checks["letters"].facts if "letters" in checks and not book.is_away else {}
    current = well.value if well.value and not well.is_away else None
    where = ""
    if books and books.differences:
        row = books.differences[0]
        where = f"{row.type}, {day_of(row):%-d %b}"
    return Sight(
        now=now,
        redis_away_since=book.away_since if book.is_away else None,
        mongodb_away_since=dead.away_since if dead.is_away else None,
        problems=[_problem_sight(problem, since) for problem, since in current.problems] if current else [],
        unwell={
            name: finding.detail
            for name, finding in (current.checks if current else {}).items()
            if finding.status is not Status.HEALTHY
        },
        workers=alive("workers"),
        dlq_workers=alive("dlqWorker"),
        crons=alive("scheduler"),
        overdue=figures.overdue if figures else 0,
        outbox=figures.outbox if figures else 0,
        quarantined=figures.quarantined if figures else 0,
        accepted_ever=books.accepted_ever if books else None,
        breakers=[_breaker_sight(one) for one in circuits.value or () if one.state is not BreakerState.CLOSED],
        groups=list(worst.value or ()),
        stopped=[_batch_sight(batch) for batch in runs.value or () if batch.stage is Stage.STOPPED],
        open_letters=stats.get("open"),
        by_status=stats.get("byStatus", {}),
        losses=[_loss_sight(loss) for loss in reversed(lost)],
        lacking=lacking.get("lacking", 0),
        lacking_since=datetime.fromisoformat(lacking["since"]) if lacking.get("since") else None,
        unaccounted=books.difference if books else 0,
        unaccounted_where=where,
        **known,
    )


def _loss_sight(loss: Mapping[str, Any]) -> LossSight:
    return LossSight(
        store=loss["store"],
        sentence=loss["sentence"],
        since=datetime.fromisoformat(loss["from"]) if loss["from"] else None,
        until=datetime.fromisoformat(loss["to"]),
        missing=loss["missing"],
        moves=loss["moves"],
        open=loss["open"],
    )


def _problem_sight(problem: StoreProblem, since: datetime) -> ProblemSight:
    return ProblemSight(
        part=problem.part, code=problem.code, what=problem.what, fix=problem.fix, stops=problem.stops, since=since
    )


def _last_death(history: History) -> datetime | None:
    """When a message was last given up, to a sample; None when not within the last day."""
    for samples in (history.samples, history.coarse):
        for earlier, later in zip(reversed(samples[:-1]), reversed(samples), strict=False):
            if later.died > earlier.died:
                return _EPOCH + timedelta(milliseconds=later.at_ms)
    return None


def _breaker_sight(one: BreakerSeen) -> BreakerSight:
    seen, tripped = one.card.seen, [change for change in one.transitions if change.to is BreakerState.OPEN]
    # Probes that failed tell less than the calls for which it opened.
    tripped = [change for change in tripped if change.source is BreakerState.CLOSED] or tripped
    wait_ms = seen.retry_after_ms
    return BreakerSight(
        name=one.card.name,
        state=seen.state.value,
        since=one.since,
        failures=tripped[-1].failures if tripped else seen.failures,
        total=tripped[-1].total if tripped else seen.total,
        probes_in_s=None if wait_ms < 0 else wait_ms / 1000,
        probes_succeeded=seen.probes_succeeded,
        probes_failed=seen.probes_failed,
        types=one.types,
        actor=one.by_hand.actor if one.by_hand else "",
        reason=one.by_hand.reason if one.by_hand else "",
    )


def _chart(history: History, now_ms: int, width_ms: int, counts: Mapping[str, int], *, steps: int) -> Chart:
    """Rates of the last hour, each times its factor, in spans that end with the last one that is over."""
    number = HOUR_MS // width_ms
    # The last sample of a span is taken up to one interval before its end.
    start_ms = (now_ms - EVERY_MS // 2) // width_ms * width_ms - number * width_ms
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


def day_of(row: AccountRow) -> datetime:
    """The day of an account."""
    return datetime.strptime(row.day, "%Y%m%d").replace(tzinfo=UTC)
