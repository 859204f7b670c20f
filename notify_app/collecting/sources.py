"""The sources of events. Each compares what a store holds now with what was seen before.

A source gets the value of its mark (None at the first look) and returns the new events and the new value. It writes
nothing. At the first look only states that still need attention are events: an existing group or a breaker that opened
yesterday is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from breaker_app import services as breakers
from breaker_app.states import State, Transition
from console.times import took
from dlq_app.conf import mask_shown
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.group_states import OPEN_STATES, GroupState
from dlq_app.domain.paging import SORTS, PageRequest
from dlq_app.domain.replay_batch import ReplayBatch, Stage
from dlq_app.services import batches, figures, groups
from dlq_app.services.groups import Group
from dlq_app.store import repository
from messages_app.store.books import books
from notify_app.domain.events import HOUR, SHORT, Event, Kind, Severity
from notify_app.domain.policy import Limits
from notify_app.domain.wording import MAX_TITLE, plain
from wire.instants import iso, parse_instant

#: Groups of one look, and how long a group that has no letters any more is remembered.
_GROUPS: Final = 5_000
_REMEMBERED: Final = timedelta(days=30)
#: Letters of a group whose sources are read.
_SAMPLE: Final = 50
#: Changes of a breaker that one look reads.
_CHANGES: Final = 200
#: A finished batch can become visible this long after its time of finishing.
_OVERLAP: Final = timedelta(minutes=10)
_BATCHES: Final = 200
_OPEN: Final = (State.OPEN, State.FORCED_OPEN)
#: Rows of the accounts that a notification lists.
_ROWS: Final = 5

Found = tuple[Sequence[Event], Any]


def shown(text: str, limit: int = MAX_TITLE) -> str:
    """External text with secrets hidden, plain and short."""
    return plain(mask_shown(text), limit)


def counted(number: int, one: str) -> str:
    return f"{number:,} {one}{'' if number == 1 else 's'}"


# --- groups ---


def group_events(seen: Any, limits: Limits, now: datetime) -> Found:
    """New groups, and resolved groups that failed again.

    The mark holds the day and the reported regression of each known group, so no clock decides what is new.
    """
    page = groups.page(limit=_GROUPS)
    known: dict[str, list[str]] = dict(seen or {})
    day, oldest = f"{now:%Y-%m-%d}", f"{now - _REMEMBERED:%Y-%m-%d}"
    fresh, regressed = [], []
    value = {name: entry for name, entry in known.items() if entry[0] >= oldest}
    for group in page.groups:
        since = iso(group.said.at) if group.state is GroupState.REGRESSED and group.said else ""
        _, reported = known.get(group.fingerprint, ["", ""])
        is_open = group.state in OPEN_STATES
        # With more groups than are counted, an old one can be counted for the first time.
        if group.fingerprint not in known and is_open and (group.is_new or not page.is_capped):
            fresh.append(group)
        elif since and since != reported:
            regressed.append(group)
        # A new group that was resolved before anyone was notified is still new when it fails again.
        if is_open or group.fingerprint in known or seen is None:
            value[group.fingerprint] = [day, since or reported]
    if seen is None:
        return [], value
    return [*_many(fresh, Kind.GROUP_NEW, limits, now), *_many(regressed, Kind.GROUP_REGRESSED, limits, now)], value


def _many(found: Sequence[Group], kind: Kind, limits: Limits, now: datetime) -> list[Event]:
    """An event for each of the largest groups; the rest share one."""
    ordered = sorted(found, key=lambda group: (-group.open, group.fingerprint))
    single, rest = ordered[: limits.groups_at_once], ordered[limits.groups_at_once :]
    events = [_group_event(group, kind) for group in single]
    if rest:
        word = "more new group" if kind is Kind.GROUP_NEW else "more regressed group"
        events.append(
            Event(
                kind=kind,
                severity=Severity.WARNING,
                key=f"{kind}:more:{now.timestamp():.3f}",
                subject=f"{kind}:more",
                title=counted(len(rest), word),
                lines=tuple(f"{group.open:,} open: {shown(group.telling_title)}" for group in rest[:_ROWS]),
                page="dlq_app/lettergroup/",
                window=HOUR,
                facts={"groups": len(rest)},
                error_types=tuple({group.error_type for group in rest}),
                types=tuple({name for group in rest for name, _ in group.types}),
                # Reading the sources of thousands of groups would take too long: it matches no filter by source.
            )
        )
    return events


def _group_event(group: Group, kind: Kind) -> Event:
    is_new = kind is Kind.GROUP_NEW
    said = group.said
    lines = [
        f"{shown(group.error_type)}, {counted(group.open, 'open letter')}, "
        f"types: {', '.join(shown(name) for name, _ in group.types) or 'none'}",
    ]
    if group.frame:
        lines.append(shown(group.frame))
    if said and not is_new:
        lines.append(f"Resolved by {shown(said.by)} at {iso(said.at)}; last failure at {iso(group.last_seen)}")
    return Event(
        kind=kind,
        severity=Severity.WARNING,
        key=f"{kind}:{group.fingerprint}:{iso(said.at) if said and not is_new else iso(group.first_seen)}",
        subject=f"group:{group.fingerprint}",
        title=f"{'New' if is_new else 'Regressed'}: {shown(group.telling_title)}",
        lines=tuple(lines),
        page=f"dlq_app/lettergroup/{quote(group.fingerprint, safe='')}/change/",
        window=HOUR,
        facts={
            "fingerprint": group.fingerprint, "errorType": shown(group.error_type), "open": group.open,
            "letters": group.count, "firstSeen": iso(group.first_seen), "lastSeen": iso(group.last_seen),
        },
        error_types=(group.error_type,),
        types=tuple(name for name, _ in group.types),
        sources=_sources(group.fingerprint),
    )  # fmt: skip


def _sources(fingerprint: str) -> tuple[str, ...]:
    """The sources of the group's newest letters."""
    request = PageRequest(sort=SORTS["-lastFailedAt"], limit=_SAMPLE)
    found = repository.letters().page(LetterCriteria(fingerprints=(fingerprint,)), request)
    return tuple({str(letter.metadata.get("source") or "") for letter in found.letters} - {""})


# --- breakers ---


def breaker_events(seen: Any, limits: Limits, now: datetime) -> Found:
    """Breakers that opened or closed.

    From the kept changes; a state without a kept change is an event, too, for example after Redis was emptied. The mark
    holds the last change and the last reported state of each breaker.
    """
    marks: dict[str, list[Any]] = dict((seen or {}).get("breakers", {}))
    since_ms = int((seen or {}).get("sinceMs", now.timestamp() * 1000))
    events: list[Event] = []
    for card in breakers.cards():
        at_ms, generation, was_open = marks.get(card.name, [since_ms, -1, False])
        newer: list[Transition] = []
        if seen is not None and card.seen.generation != generation:
            newer = [
                change
                for change in reversed(breakers.transitions(card.name, _CHANGES))
                if (change.at_ms, change.generation) > (at_ms, generation)
            ]
        for change in newer:
            at_ms, generation = change.at_ms, change.generation
            is_open = change.to in _OPEN
            # A failed probe does not open a breaker again for a user: it was not closed.
            if change.to is not State.HALF_OPEN and (is_open != was_open or change.actor):
                events.append(_breaker_event(card, change.to, change, at_ms))
                was_open = is_open
        is_open = card.seen.state in _OPEN or (card.seen.state is State.HALF_OPEN and was_open)
        if is_open != was_open:
            events.append(_breaker_event(card, card.seen.state, None, int(now.timestamp() * 1000)))
            was_open = is_open
        marks[card.name] = [at_ms, generation, was_open]
    return events, {"sinceMs": since_ms, "breakers": marks}


_BREAKER_WORDS: Final = {
    State.OPEN: "opened",
    State.FORCED_OPEN: "was forced open",
    State.CLOSED: "closed",
    State.DISABLED: "was disabled: every call is allowed",
    State.METRICS_ONLY: "only counts: every call is allowed",
    State.HALF_OPEN: "probes",
}


def _breaker_event(card: breakers.Card, state: State, change: Transition | None, at_ms: int) -> Event:
    name, is_open = card.name, state in _OPEN
    lines = ["Messages that need it wait; replays do not start."] if is_open else []
    if is_open and card.since:
        lines.append(f"Not closed since {iso(card.since)}.")
    if change and change.actor:
        lines.append(f"By {shown(change.actor)}: {shown(change.reason) or 'no reason given'}")
    elif change and is_open and change.total:
        lines.append(f"{change.failures:,} of {change.total:,} calls failed.")
    return Event(
        kind=Kind.BREAKER_OPENED if is_open else Kind.BREAKER_CLOSED,
        severity=Severity.CRITICAL if is_open else Severity.INFO,
        key=f"breaker:{name}:{at_ms}:{change.generation if change else 'seen'}",
        subject=f"breaker:{name}",
        title=f"Circuit breaker {plain(name)} {_BREAKER_WORDS[state]}",
        lines=tuple(lines),
        page="breaker_app/breaker/",
        window=SHORT,
        facts={"breaker": name, "state": state.value},
    )


# --- the age of letters ---


def age_events(seen: Any, limits: Limits, now: datetime) -> Found:
    """The oldest open letter is older than the limit. Reported once, until no letter is that old any more."""
    oldest_at = figures.snapshot().oldest_open_at
    age_s = (now - oldest_at).total_seconds() if oldest_at else 0.0
    is_over = age_s > limits.oldest_letter_hours * 3600
    value = {"since": ((seen or {}).get("since") or iso(now)) if is_over else ""}
    if oldest_at is None or not is_over or (seen or {}).get("since"):
        return [], value
    event = Event(
        kind=Kind.LETTER_OLD,
        severity=Severity.WARNING,
        key=f"letter_old:{value['since']}",
        subject="letter_old",
        title=f"The oldest open dead letter is {took(age_s)} old",
        lines=(f"The limit is {counted(limits.oldest_letter_hours, 'hour')}.",),
        page="dlq_app/deadletter/",
        window=HOUR,
        facts={"oldestSeconds": round(age_s)},
    )
    return [event], value


# --- replay batches ---


def batch_events(seen: Any, limits: Limits, now: datetime) -> Found:
    """Replay batches that finished or stopped automatically. The key of each event is recorded once."""
    at = repository.batches().server_now()
    start = parse_instant(seen["start"]) if seen else at
    polled = parse_instant(seen["polled"]) if seen else at
    ended = batches.ended(max(start, polled - _OVERLAP), _BATCHES)
    if len(ended) >= _BATCHES and ended[-1].finished_at:
        polled = ended[-1].finished_at + _OVERLAP
    elif at - polled > _OVERLAP / 10:
        # A mark that moves each time would cost a write each time.
        polled = at
    return [_batch_event(batch) for batch in ended], {"start": iso(start), "polled": iso(polled)}


def _batch_event(batch: ReplayBatch) -> Event:
    stopped, counts = batch.stage is Stage.STOPPED, batch.counts
    name = shown(batch.name or batch.reason or batch.id)
    lines = [f"{counts.succeeded:,} succeeded, {counts.failed:,} failed, {counts.skipped:,} skipped of {batch.total:,}"]
    if stopped:
        errors = ", ".join(f"{shown(error)} ({number:,})" for error, number in batch.stop_errors[:_ROWS])
        lines.append(f"Too many letters failed{f': {errors}' if errors else ''}. The rest was not sent.")
    return Event(
        kind=Kind.BATCH_STOPPED if stopped else Kind.BATCH_FINISHED,
        severity=Severity.WARNING if stopped else Severity.INFO,
        key=f"batch:{batch.id}:{batch.stage.value}",
        subject=f"batch:{batch.id}:{batch.stage.value}",
        title=f"Replay batch {name} {'stopped automatically' if stopped else 'finished'}",
        lines=tuple(lines),
        page=f"dlq_app/replaybatch/{quote(batch.id, safe='')}/change/",
        facts={
            "batch": batch.id, "total": batch.total, "succeeded": counts.succeeded, "failed": counts.failed,
            "skipped": counts.skipped,
        },
    )  # fmt: skip


# --- accounts ---


def accounting_events(seen: Any, limits: Limits, now: datetime) -> Found:
    """Days and types whose accounts do not add up, when a difference appears or changes."""
    rows = [row for row in books() if row.wrong]
    value = {f"{row.day}:{row.type}": row.wrong for row in rows}
    new = [row for row in rows if (seen or {}).get(f"{row.day}:{row.type}") != row.wrong]
    if not new:
        return [], value
    wrong = sum(row.wrong for row in rows)
    lines = [f"{row.day[:4]}-{row.day[4:6]}-{row.day[6:]} {shown(row.type)}: {row.wrong:,}" for row in new[:_ROWS]]
    event = Event(
        kind=Kind.ACCOUNTING_OFF,
        severity=Severity.CRITICAL,
        key=f"accounting:{now.timestamp():.3f}",
        subject="accounting",
        title=f"{counted(wrong, 'message')} not accounted for",
        lines=("Accepted messages are not equal to done, open and dead ones.", *lines),
        page="",
        window=HOUR,
        facts={"messages": wrong},
    )
    return [event], value


# --- health ---


@dataclass(frozen=True, slots=True)
class HealthSeen:
    """Health at one point in time."""

    #: ``healthy``, ``degraded`` or ``unhealthy``.
    status: str
    #: Name and detail of each check that is not healthy.
    wrong: Mapping[str, str]


#: Checks with events of their own, and the check of notifications, whose failure cannot be reported by one.
_NOT_HEALTH: Final = frozenset({"breakers", "accounting", "notifications"})


def health_events(look: Callable[[], HealthSeen]) -> Callable[[Any, Limits, datetime], Found]:
    """The source of health: unhealthy or degraded for longer than the limit, and healthy again."""

    def events(seen: Any, limits: Limits, now: datetime) -> Found:
        health = look()
        wrong = {name: detail for name, detail in health.wrong.items() if name not in _NOT_HEALTH}
        level = health.status if wrong else "healthy"
        before = dict(seen or {})
        reported = before.get("reported", "")
        if level != before.get("level"):
            before = {"level": level, "since": iso(now)}
        since = parse_instant(before["since"])
        value = {"level": level, "since": before["since"], "reported": reported}
        if level == "healthy":
            return ([_well(now)] if reported else []), {**value, "reported": ""}
        minutes = limits.unhealthy_minutes if level == "unhealthy" else limits.degraded_minutes
        if reported in (level, "unhealthy") or now - since < timedelta(minutes=minutes):
            return [], value
        return [_ill(level, since, wrong, now)], {**value, "reported": level}

    return events


def _ill(level: str, since: datetime, wrong: Mapping[str, str], now: datetime) -> Event:
    return Event(
        kind=Kind.HEALTH,
        severity=Severity.CRITICAL if level == "unhealthy" else Severity.WARNING,
        key=f"health:{level}:{iso(since)}",
        subject="health",
        title=f"The dead-letter queue is {level}",
        lines=(f"Since {iso(since)}.", *(f"{name}: {shown(detail, 300)}" for name, detail in sorted(wrong.items()))),
        page="",
        window=SHORT,
        facts={"status": level, "checks": sorted(wrong)},
    )


def _well(now: datetime) -> Event:
    return Event(
        kind=Kind.HEALTH,
        severity=Severity.INFO,
        key=f"health:healthy:{iso(now)}",
        subject="health",
        title="The dead-letter queue is healthy again",
        window=SHORT,
        facts={"status": "healthy", "checks": []},
    )
