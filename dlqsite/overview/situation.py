"""What is known of the house at one instant, as the verdict looks at it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSight:
    """One breaker that is not closed."""

    name: str
    state: str
    #: When it left CLOSED, as far as its kept transitions tell.
    since: datetime | None = None
    failures: int = 0
    total: int = 0
    #: Seconds until it lets probes through; None: only a person can.
    probes_in_s: float | None = None
    probes_succeeded: int = 0
    probes_failed: int = 0
    #: Message types whose handlers it guards.
    types: tuple[str, ...] = ()
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSight:
    """Letters that died of the same thing."""

    fingerprint: str
    title: str
    error_type: str
    #: transient, permanent or unknown.
    kind: str = ""
    place: str = ""
    #: new, ongoing, regressed, ignored, resolved.
    state: str = ""
    types: tuple[str, ...] = ()
    open: int = 0
    count: int = 0
    #: Deaths by hour over the last day, oldest first.
    trend: tuple[int, ...] = ()
    first_seen: datetime | None = None
    last_seen: datetime | None = None

    @property
    def page(self) -> str:
        """Its page of the console, relative to the home."""
        return f"dlq_app/lettergroup/{quote(self.fingerprint, safe='')}/change/"

    @property
    def lately(self) -> int:
        """How many died in this clock hour and the one before."""
        return sum(self.trend[-2:])

    @property
    def is_new(self) -> bool:
        return self.state == "new"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSight:
    """A replay batch that stopped by itself."""

    id: str
    title: str
    #: ``canary_failed`` or ``too_many_failures``.
    why: str
    stopped_at: datetime
    failed: int
    sent: int
    total: int

    @property
    def page(self) -> str:
        """Its page of the console, relative to the home."""
        return f"dlq_app/replaybatch/{quote(self.id, safe='')}/change/"


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSight:
    """A store that fell back to an earlier state, and that nobody has acknowledged."""

    #: ``redis`` or ``mongodb``.
    store: str
    #: What happened, in a sentence.
    sentence: str
    #: None: nothing is left.
    since: datetime | None
    until: datetime
    missing: int = 0
    moves: int = 0
    open: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSight:
    """A part that cannot do all of its work, as health found it."""

    #: ``redis``, ``mongodb``, ``database``, ``disk`` or ``workers``.
    part: str
    code: str
    what: str
    fix: str
    #: Whether the part does not do its work at all.
    stops: bool
    #: Since when this process has seen it.
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is known at one instant. A figure that nobody knows is None."""

    now: datetime
    #: Since when each store gives no answer.
    redis_away_since: datetime | None = None
    mongodb_away_since: datetime | None = None
    #: What health found, in the order of its checks.
    problems: Sequence[ProblemSight] = ()
    #: Checks that are not healthy, with what they say.
    unwell: Mapping[str, str] = field(default_factory=dict)
    #: None: not known.
    workers: int | None = None
    dlq_workers: int | None = None
    crons: int | None = None
    waiting: int | None = None
    oldest_wait_s: float | None = None
    overdue: int = 0
    outbox: int = 0
    quarantined: int = 0
    accepted_ever: int | None = None
    accepted_per_s: float | None = None
    done_per_s: float | None = None
    #: New dead letters a minute: now, and in the hour before.
    dying_now: float | None = None
    dying_before: float | None = None
    breakers: Sequence[BreakerSight] = ()
    groups: Sequence[GroupSight] = ()
    #: Batches that stopped by themselves a short while ago, newest first.
    stopped: Sequence[BatchSight] = ()
    open_letters: int | None = None
    #: Open letters by status.
    by_status: Mapping[str, int] = field(default_factory=dict)
    last_death_at: datetime | None = None
    #: Newest first.
    losses: Sequence[LossSight] = ()
    #: Outcomes that the dead letters lack, and since when.
    lacking: int = 0
    lacking_since: datetime | None = None
    #: Messages that are not accounted for, with the first place where.
    unaccounted: int = 0
    unaccounted_where: str = ""
