"""Values for the templates of the breakers page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from breaker_app.held import Held, longest_wait_ms
from breaker_app.policy import BreakerPolicy, WhenOpen
from breaker_app.services import Card
from breaker_app.states import State, Transition, Why
from console.times import took
from console.trends import pace

#: Worst first.
_WORST = (State.OPEN, State.FORCED_OPEN, State.HALF_OPEN, State.DISABLED, State.METRICS_ONLY, State.CLOSED)
_TONES = {State.OPEN: "bad", State.FORCED_OPEN: "mute", State.HALF_OPEN: "warn", State.CLOSED: ""}
WORDS = {
    State.OPEN: "open",
    State.FORCED_OPEN: "forced open",
    State.HALF_OPEN: "probing",
    State.DISABLED: "disabled",
    State.METRICS_ONLY: "metrics only",
    State.CLOSED: "closed",
}
#: Maximum number of bars in the chart, and its height in drawing units.
_BARS, _HEIGHT = 60, 100
_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000
#: Repeated cycles of changes are shown once: maximum length of a cycle, minimum number of repetitions.
_LONGEST_CYCLE, _MIN_REPEATS = 6, 3
#: State → class, y and height in the lane of the last hour. Thin: closed, middle: half-open, full: open.
_LANE = {
    State.CLOSED: ("fill-ok", 6, 4),
    State.HALF_OPEN: ("fill-warn", 3, 10),
    State.OPEN: ("fill-bad", 0, 16),
    State.FORCED_OPEN: ("fill-mute", 0, 16),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A breaker as the page shows it."""

    name: str
    state: State
    tone: str
    say: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """Bar of one or more seconds of the window."""

    x: int
    y: float
    height: float
    failed_y: float
    failed_height: float


@dataclass(frozen=True, slots=True)
class Change:
    """A change of state as the page shows it."""

    at: datetime
    source: State
    to: State
    why: str
    who: str


@dataclass(frozen=True, slots=True)
class Again:
    """Repetitions: the ``size`` changes before this entry happened ``times`` more."""

    size: int
    times: int
    #: Oldest and newest repetition.
    since: datetime
    until: datetime


def percent(share: float) -> str:
    """A share as ``50 %`` or ``0.3 %``."""
    number = share * 100
    return f"{number:.0f} %" if number >= 10 or number == round(number) else f"{number:.1f} %"


def seconds(ms: float) -> str:
    """Milliseconds as ``11 s`` or ``4 min``."""
    whole = max(1, round(ms / 1000))
    return f"{whole} s" if whole < 120 or whole % 60 else f"{whole // 60} min"


def _probes(policy: BreakerPolicy) -> tuple[int, int]:
    """Number of successful probes that close the breaker, and of failed ones that open it again."""
    most = policy.half_open_max_requests
    good = -(-round(policy.half_open_success_threshold * 1000) * most // 1000)
    return good, most - good + 1


def say(card: Card) -> str:
    """What the breaker does now and next."""
    seen, policy = card.seen, card.policy
    good, bad = _probes(policy)
    window = seconds(policy.time_window_ms)
    if seen.state is State.OPEN:
        soon = "with the next call" if seen.due or seen.retry_after_ms <= 0 else f"in {seconds(seen.retry_after_ms)}"
        return (
            f"Refuses every call. Up to {policy.half_open_max_requests} probes {soon}; {good} successes close it, "
            f"{bad} {'failure' if bad == 1 else 'failures'} open it again.{_held_run(card)}"
        )
    if seen.state is State.HALF_OPEN:
        return (
            f"Probing: {seen.probes_succeeded} of {policy.half_open_max_requests} probes succeeded, "
            f"{seen.probes_failed} failed, {seen.leases} under way; closes at {good}.{_held_run(card)}"
        )
    if seen.state is State.FORCED_OPEN:
        return f"Forced open by a user: rejects every call until it is reset.{_held_run(card)}"
    if seen.state is State.DISABLED:
        return "Disabled by a user: allows every call and counts nothing."
    rate = f"{percent(seen.failure_rate)} of {seen.total:,} calls failed in the last {window}."
    if not seen.total:
        rate = f"No calls in the last {window}."
    if seen.state is State.METRICS_ONLY:
        return f"Counts and never opens. {rate}"
    return f"{rate} Opens at {percent(policy.failure_threshold)} of at least {policy.minimum_requests}."


def _held_run(card: Card) -> str:
    """When held messages run, with a space in front; empty if it holds none."""
    if not card.held or not card.held.count:
        return ""
    return f" Held messages start within {seconds(longest_wait_ms(card.policy.open_timeout_ms))} of its closing."


def shown(card: Card) -> Shown:
    """A card as the page shows it, with the last transition if it has one."""
    facts = []
    last = card.transitions[0] if card.transitions else None
    if card.since:
        facts.append(("Since", f"{card.since:%-d %b %H:%M:%S}"))
    if last and last.to is card.seen.state and last.to is not State.CLOSED and last.actor:
        facts.append(("By", f"{last.actor} at {_moment(last.at_ms):%-d %b %H:%M:%S}: {last.reason}"))
    if card.held and card.held.count:
        facts.append(("Held", held_words(card.held)))
    if card.seen.opens > 1:
        facts.append(("Opened", f"{card.seen.opens:,} times so far"))
    if card.seen.total and card.seen.state is not State.CLOSED:
        facts.append(("Failed", f"{card.seen.failures:,} of {card.seen.total:,}, {percent(card.seen.failure_rate)}"))
    if not card.seen.shared:
        facts.append(("Of", "this process only: Redis is not responding"))
    return Shown(card.name, card.seen.state, _TONES.get(card.seen.state, "mute"), say(card), tuple(facts))


def held_words(held: Held) -> str:
    """``420 messages, 400 of high priority, the oldest for 12 min``."""
    count = f"{held.count:,} message{'' if held.count == 1 else 's'}"
    highest = getattr(held, held.highest)
    share = "all" if highest == held.count else f"{highest:,}"
    return f"{count}, {share} of {held.highest} priority, the oldest for {took(held.oldest_s or 0)}"


def summary(cards: Sequence[Card]) -> str:
    """Number of breakers by state, worst first."""
    counts = {state: sum(card.seen.state is state for card in cards) for state in _WORST}
    return ", ".join(f"{count} {WORDS[state]}" for state, count in counts.items() if count)


def shown_change(change: Transition, policy: BreakerPolicy) -> Change:
    """A change of state as the page shows it. The reason is text from outside."""
    counts = f"{change.failures:,} of {change.total:,}"
    why = {
        Why.FAILURE_RATE: f"{counts} calls failed, the limit is {percent(policy.failure_threshold)}",
        Why.SLOW_RATE: "too many calls were slow",
        Why.OPEN_TIME_OVER: "the open period ended, probes are allowed",
        Why.PROBES_SUCCEEDED: f"{change.total - change.failures} of {change.total} probes succeeded",
        Why.PROBES_FAILED: f"{counts} probes failed",
        Why.PROBES_LOST: "probes timed out",
        Why.MANUAL: change.reason or "no reason given",
    }[change.why]
    return Change(_moment(change.at_ms), change.source, change.to, why, change.actor or "automatic")


def story(changes: Sequence[Transition], policy: BreakerPolicy) -> list[Change | Again]:
    """Changes, newest first; a repeated cycle is shown once, with its number of repetitions.

    Manual changes are always shown.
    """
    steps = [None if change.why is Why.MANUAL else (change.source, change.to, change.why) for change in changes]
    found: list[Change | Again] = []
    at = 0
    while at < len(changes):
        size, times = _cycle(steps, at)
        found += [shown_change(change, policy) for change in changes[at : at + size]]
        end = at + size * times
        if times > 1:
            oldest, newest = changes[end - 1].at_ms, changes[at + size].at_ms
            found.append(Again(size, times - 1, _moment(oldest), _moment(newest)))
        at = end
    return found


def _cycle(steps: Sequence[object], at: int) -> tuple[int, int]:
    """Length of the cycle that starts at ``at`` and its number of occurrences; (1, 1) without a cycle.

    Prefer the cycle that shortens the list most.
    """
    best, spared = (1, 1), 0
    for size in range(1, _LONGEST_CYCLE + 1):
        block = steps[at : at + size]
        if None in block:
            break
        times = 1
        while steps[at + size * times : at + size * (times + 1)] == block:
            times += 1
        if times >= _MIN_REPEATS and size * (times - 1) > spared:
            best, spared = (size, times), size * (times - 1)
    return best


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def bars(window: Sequence[tuple[int, int]]) -> list[Bar]:
    """The window as bars of calls and failures, scaled to the busiest."""
    each = -(-len(window) // _BARS)
    groups = [window[place : place + each] for place in range(0, len(window), each)]
    sums = [(sum(total for total, _ in group), sum(failed for _, failed in group)) for group in groups]
    most = max((total for total, _ in sums), default=0) or 1
    found = []
    for place, (total, failed) in enumerate(sums):
        height, bad = round(_HEIGHT * total / most, 1), round(_HEIGHT * failed / most, 1)
        found.append(Bar(place * 10, round(_HEIGHT - height, 1), height, round(_HEIGHT - bad, 1), bad))
    return found


def lane(changes: Sequence[Transition], state: State, now_ms: int) -> list[tuple[str, int, int, int, int]]:
    """Rectangles of the last hour, oldest first: class, x, y, width, height; x in seconds from its start.

    The hour ends with the minute that runs, so that the same story is drawn the same until the next.
    """
    end = -(-now_ms // _MINUTE_MS) * _MINUTE_MS
    begin, found = end - _HOUR_MS, []
    for change in changes:  # newest first
        at = max(change.at_ms, begin)
        found.append((state, at, end))
        end, state = at, change.source
        if change.at_ms <= begin:
            break
    else:
        found.append((state, begin, end))
    drawn = []
    for was, start, stop in reversed(found):
        tone, y, height = _LANE.get(was, ("fill-mute", 6, 4))
        if stop > start:
            drawn.append((tone, (start - begin) // 1000, y, max(1, (stop - start) // 1000), height))
    return drawn


def day(changes: Sequence[Transition], state: State, now_ms: int) -> list[tuple[int, int]]:
    """The outages of the last 24 hours, oldest first: x and width in minutes from its start.

    An outage begins when the breaker leaves CLOSED and ends when it is CLOSED again; probes do not divide it.
    """
    end = -(-now_ms // _MINUTE_MS) * _MINUTE_MS
    begin, found, until = end - 24 * _HOUR_MS, [], None if state is State.CLOSED else end
    for change in changes:  # newest first
        if change.to is State.CLOSED:
            until = change.at_ms
        if change.source is State.CLOSED and until is not None and until > begin:
            found.append((max(change.at_ms, begin), until))
            until = None
    return [((since - begin) // _MINUTE_MS, max(2, (until - since) // _MINUTE_MS)) for since, until in reversed(found)]


def held_course(held: Held) -> tuple[str, str]:
    """Whether the breaker holds more and more messages: in words, and ``up``, ``dn`` or ``flat``."""
    if not held.count:
        return "No: none is held", "flat"
    if (held.oldest_s or 0) > 360 and not held.minutes[-6]:
        return "Not known yet", "flat"  # no process took samples at that time
    if held.unchanged_min >= 3:
        return f"No: unchanged for {held.unchanged_min} min", "flat"
    number, _, unit = pace(abs(held.growth)).partition(" a")
    # A message that is tried and held again is no change.
    if abs(held.growth) * 5 < max(2.0, held.count / 50):
        return "Steady", "flat"
    return (f"Yes: {number} more held a{unit}", "up") if held.growth > 0 else (f"No: {number} fewer held a{unit}", "dn")


def rules(policy: BreakerPolicy) -> list[tuple[str, str]]:
    """The policy in words."""
    good, bad = _probes(policy)
    window = seconds(policy.time_window_ms)
    found = [
        (
            "Opens at",
            f"{percent(policy.failure_threshold)} of at least {policy.minimum_requests} calls in {window}",
        ),
        ("Stays open", f"{seconds(policy.open_timeout_ms)}, then probes"),
        ("Probes", f"{policy.half_open_max_requests}; closes at {good} good, opens again at {bad} bad"),
        ("When open", "messages wait" if policy.when_open is WhenOpen.HOLD else "intake refuses with 503, Retry-After"),
    ]
    if policy.slow_call_ms and policy.slow_call_threshold:
        found.append(("Slow", f"over {policy.slow_call_ms} ms; opens at {percent(policy.slow_call_threshold)}"))
    return found


def harm(card: Card) -> tuple[int, int, str]:
    """Sorts the worst first: by state, then by the messages that the breaker holds."""
    return (_WORST.index(card.seen.state), -card.held.weight if card.held else 0, card.name)
