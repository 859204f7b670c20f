"""The sources of the overview: what each part of the snapshot asks of the apps."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from breaker_app import services as breakers
from breaker_app.breaker import State as BreakerState
from breaker_app.errors import BreakerError
from breaker_app.held import Held
from breaker_app.states import Transition
from dlq_app.conf import masking_policy
from dlq_app.domain.errors import DeadLetterError
from dlq_app.domain.group_states import OPEN_STATES
from dlq_app.domain.masking import mask_text
from dlq_app.domain.replay_batch import ReplayBatch, Stage
from dlq_app.services import batches, groups
from dlq_app.services import dead_letters as letters
from dlq_app.services.groups import Group
from dlq_app.store import repository
from dlqsite.health import report
from dlqsite.overview.sources import Part, Source, look
from messages_app import registry
from messages_app.domain.errors import MessagesError
from messages_app.domain.records import AccountRow, LedgerFigures
from messages_app.store.ledger import ledger
from messages_app.store.series import History, series

#: Groups that the verdict looks at.
SEEN_GROUPS = 20
RUNNING_BATCHES = 5
#: Batches that stopped automatically are shown for this long, and at most this many.
STOPPED_FOR = timedelta(hours=1)
STOPPED_BATCHES = 20
#: More than an hour of failed probe rounds under the default policy.
_TRANSITIONS = 300
#: Seconds that the time of the next automatic replay is searched for.
_NEXT_REPLAY_S = 0.3
#: Days whose accounts are shown; all days are checked for differences.
ACCOUNT_DAYS = 400
#: States, the worst first.
_WORST_FIRST = (
    BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.FORCED_OPEN, BreakerState.DISABLED,
    BreakerState.METRICS_ONLY, BreakerState.CLOSED,
)  # fmt: skip


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
    """A breaker and its transitions of the last hour."""

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
        """When it last left CLOSED; None when it is closed."""
        return self.card.since

    @property
    def held(self) -> Held | None:
        """Messages that it holds; None if not known."""
        return self.card.held

    @property
    def tripped(self) -> tuple[int, int]:
        """How many calls failed, and of how many, when it opened; zeros if that is no longer known."""
        opened = [change for change in self.transitions if change.source is BreakerState.CLOSED]
        return (opened[-1].failures, opened[-1].total) if opened else (0, 0)

    @property
    def probed(self) -> tuple[int, int]:
        """How many probes of the last round failed, and of how many."""
        rounds = [change for change in self.transitions if change.source is BreakerState.HALF_OPEN]
        return (rounds[-1].failures, rounds[-1].total) if rounds else (0, 0)

    @property
    def by_hand(self) -> Transition | None:
        """The order of a user, if its state comes from one."""
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


def _guarded() -> dict[str, list[str]]:
    """Message types by the name of their breaker."""
    found: dict[str, list[str]] = {}
    for spec in registry.specs():
        for name in spec.breaker_names():
            found.setdefault(name, []).append(spec.type)
    return found


def _breakers() -> tuple[BreakerSeen, ...]:
    guarded = _guarded()
    seen = [
        BreakerSeen(
            card,
            tuple(guarded.get(card.name, ())),
            # One that was never used has no story; each of the others costs one short read.
            tuple(reversed(breakers.whole_story(card, _TRANSITIONS))) if card.seen.generation else (),
        )
        for card in breakers.with_held(breakers.cards())
    ]
    return tuple(sorted(seen, key=_harm))


def _harm(one: BreakerSeen) -> tuple[int, int, int, str]:
    """Sorts the worst first: by state, held messages, and changes of state."""
    return (
        _WORST_FIRST.index(one.state), -one.held.weight if one.held else 0, -len(one.transitions), one.card.name
    )  # fmt: skip


def _next_replays() -> dict[str, datetime | None]:
    """The next automatic replay of the message types of each breaker that rejects calls."""
    types = _guarded()
    rejecting = (BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.FORCED_OPEN)
    return {
        card.name: letters.next_replay_at(types[card.name], _NEXT_REPLAY_S)
        for card in breakers.cards(types)
        if card.seen.state in rejecting
    }


def _groups() -> tuple[Group, ...]:
    """Those with the most open letters, and after them those that failed last: a new group may still be small."""
    most = groups.top(SEEN_GROUPS)
    latest = groups.page(states=OPEN_STATES, sort="-lastSeen", limit=SEEN_GROUPS).groups
    found = {group.fingerprint: group for group in (*most, *latest)}
    policy = masking_policy()
    # The title may hold what a client sent.
    return tuple(replace(one, message=mask_text(one.telling_title, policy), sample="") for one in found.values())


def _batches() -> tuple[ReplayBatch, ...]:
    """Running batches, then batches that stopped recently."""
    stopped = batches.page(stages=[Stage.STOPPED.value], limit=STOPPED_BATCHES).batches
    since = repository.now() - STOPPED_FOR
    lately = [batch for batch in stopped if batch.finished_at and batch.finished_at >= since]
    policy = masking_policy()
    return tuple(batch.masked(policy) for batch in (*batches.running(RUNNING_BATCHES), *lately))


class Sources:
    """One source for each part of the snapshot; made once per process."""

    def __init__(self) -> None:
        redis, mongodb, breaker = (MessagesError,), (DeadLetterError,), (BreakerError,)
        self.ledger = Source[LedgerFigures]("ledger", lambda: ledger().figures(), redis)
        self.history = Source[History]("series", _history, redis)
        self.accounts = Source[Accounts]("accounting", _accounts, redis, keep_s=10.0)
        self.breakers = Source[tuple[BreakerSeen, ...]]("breakers", _breakers, breaker)
        self.next_replays = Source[Mapping[str, datetime | None]]("nextReplays", _next_replays, (*mongodb, *breaker))
        self.letters = Source[Mapping[str, Any]]("letters", letters.stats, mongodb)
        self.groups = Source[tuple[Group, ...]]("groups", _groups, mongodb)
        self.batches = Source[tuple[ReplayBatch, ...]]("batches", _batches, mongodb)
        # Its checks catch what stores do, and it waits for none of them longer than 2 s. Asked again at once, however
        # long it took: that a store takes writes again must not be news of half a minute ago.
        self.health = Source[report.Health]("health", lambda: report.doctor().look(), (), leisure=0)
        self.all: tuple[Source[Any], ...] = (
            self.ledger, self.history, self.accounts, self.breakers, self.next_replays, self.letters, self.groups,
            self.batches, self.health,
        )  # fmt: skip
        self._threads = ThreadPoolExecutor(2 * len(self.all), thread_name_prefix="overview")

    def parts(self) -> dict[str, Part[Any]]:
        """The newest answers, by field of the snapshot; parts that are slow or unavailable as they were last."""
        look(self.all, self._threads)
        return {name: source.part() for name, source in vars(self).items() if isinstance(source, Source)}


@cache
def sources() -> Sources:
    """Those of this process, made at the first look: threads do not survive a fork."""
    return Sources()
