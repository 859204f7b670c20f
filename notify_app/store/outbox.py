"""The notifications: recorded once, claimed by one notifier, sent, and kept for a while.

Every change is one conditional step, so any number of notifiers can run. Times come from the clocks of the processes:
a wrong one sends earlier or later, never twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import transaction
from django.db.models import Count, F, Min, Q, QuerySet

from notify_app.domain.events import Event, Kind, Severity
from notify_app.domain.policy import Limits, Recipient
from notify_app.domain.schedule import LEASE, again_after
from notify_app.domain.wording import MAX_LINES
from notify_app.models import Notification, State, Total

#: States in which nothing happens any more without a user.
ENDED: Final = (State.SENT, State.FAILED, State.UNCERTAIN, State.MERGED, State.DISMISSED)
#: States that users can retry or dismiss.
UNSOLVED: Final = (State.FAILED, State.UNCERTAIN)
#: Notifications of one summary that are listed; the rest is counted.
SUMMARISED: Final = 20
#: Attempts after which a notification counts as delayed: about two minutes.
RETRYING: Final = 3


_DELAYED: Final = Q(state=State.WAITING, attempts__gte=RETRYING)


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one attempt."""

    state: State
    error: str = ""


SENT: Final = Result(State.SENT)


def refused(error: str) -> Result:
    """It certainly did not arrive: try again later."""
    return Result(State.FAILED, error)


def uncertain(error: str) -> Result:
    """It may have arrived: never try again automatically."""
    return Result(State.UNCERTAIN, error)


# --- recording ---


def record(event: Event, recipients: Iterable[Recipient], limits: Limits, now: datetime) -> int:
    """Record the event for each recipient; return the number of new or changed notifications.

    An event with a known key changes nothing. Within the event's window one notification about its subject is sent; a
    later event joins the one that waits. Call it in the transaction that also changes the mark of the source.
    """
    return sum(_record(event, recipient, limits, now) for recipient in recipients)


def _record(event: Event, recipient: Recipient, limits: Limits, now: datetime) -> int:
    mine = Notification.objects.filter(recipient=recipient.name)
    if mine.filter(key=event.key).exists():
        return 0
    texts: dict[str, Any] = {
        "event": event.kind.value,
        "severity": event.severity.value,
        "title": event.title,
        "text": "\n".join(event.lines[:MAX_LINES]),
        "page": event.page,
        "facts": dict(event.facts),
    }
    last: datetime | None = None
    if event.window:
        about = mine.filter(subject=event.subject, due_at__gt=now - event.window)
        unsent = about.filter(state__in=(State.WAITING, State.HELD), attempts=0)
        if (joined := unsent.order_by("-pk").first()) is not None:
            # A critical event does not wait for the end of quiet hours with the others.
            passes = joined.state == State.HELD and recipient.held_until(event.severity, now) is None
            texts |= {"state": State.WAITING, "due_at": now} if passes else {}
            if unsent.filter(pk=joined.pk).update(**texts, count=F("count") + 1):
                return 1
        last = max(about.values_list("due_at", flat=True), default=None)
    due_at = now if last is None else max(now, last + event.window)
    held_until = None if event.kind is Kind.DIGEST else recipient.held_until(event.severity, due_at)
    _, is_new = Notification.objects.get_or_create(
        recipient=recipient.name,
        key=event.key,
        defaults={
            **texts,
            "subject": event.subject,
            "state": State.HELD if held_until else State.WAITING,
            "created_at": now,
            "due_at": held_until or due_at,
            "give_up_at": (held_until or due_at) + timedelta(hours=limits.give_up_hours),
        },
    )
    return int(is_new)


# --- sending ---


def claim(recipient: str, now: datetime) -> Notification | None:
    """Claim the oldest notification that is due; None if there is none or another notifier was faster."""
    due = Notification.objects.filter(recipient=recipient, state=State.WAITING, due_at__lte=now)
    first = due.order_by("due_at", "pk").values_list("pk", flat=True).first()
    if first is None:
        return None
    token = uuid.uuid4().hex
    if not due.filter(pk=first).update(
        state=State.SENDING, token=token, lease_until=now + LEASE, attempts=F("attempts") + 1
    ):
        return None
    return Notification.objects.filter(pk=first, token=token).first()


def note(sent: Notification, result: Result, now: datetime) -> bool:
    """Record the result of an attempt; False if it does not matter any more.

    Also for one that was ``uncertain`` meanwhile: its process was slow, not dead. A refused notification waits for its
    next attempt until its time is over.
    """
    mine = Notification.objects.filter(pk=sent.pk, token=sent.token, state__in=(State.SENDING, State.UNCERTAIN))
    again_at = now + again_after(sent.attempts)
    with transaction.atomic():
        if result.state is State.FAILED and again_at <= sent.give_up_at:
            changed = mine.update(state=State.WAITING, due_at=again_at, lease_until=None, error=result.error)
        else:
            sent_at = now if result.state is State.SENT else None
            changed = mine.update(state=result.state, sent_at=sent_at, lease_until=None, error=result.error)
            if changed:
                _count(result.state, changed)
    return bool(changed)


def end_lost(recipient: str, now: datetime, *, repeatable: bool) -> int:
    """End attempts whose notifier was killed before it recorded the result; return their number.

    ``repeatable``: the receiver recognises a repetition by its id, so it is sent again. Otherwise it is uncertain.
    """
    lost = Notification.objects.filter(recipient=recipient, state=State.SENDING, lease_until__lt=now)
    if not lost.exists():  # an update would take SQLite's write lock each time
        return 0
    if repeatable:
        return lost.update(state=State.WAITING, due_at=now, lease_until=None, error="The notifier was killed.")
    why = "The notifier was killed before it recorded the result: it may have arrived."
    with transaction.atomic():
        number = lost.update(state=State.UNCERTAIN, lease_until=None, error=why)
        _count(State.UNCERTAIN, number)
    return number


def give_up(now: datetime) -> int:
    """Fail the notifications whose time is over, also those of recipients that no longer exist; return their number."""
    over = Notification.objects.filter(state__in=(State.WAITING, State.HELD), give_up_at__lt=now)
    if not over.exists():
        return 0
    with transaction.atomic():
        number = over.filter(error="").update(state=State.FAILED, error="It was not sent in time.")
        number += over.update(state=State.FAILED)
        _count(State.FAILED, number)
    return number


def release_held(recipient: Recipient, limits: Limits, now: datetime) -> int:
    """After quiet hours: one waiting notification goes as it is, several become one summary; return their number."""
    held = Notification.objects.filter(recipient=recipient.name, state=State.HELD, due_at__lte=now)
    if not held.exists():
        return 0
    with transaction.atomic():
        found = list(held.select_for_update().order_by("created_at", "pk"))
        if len(found) == 1:
            return held.filter(pk=found[0].pk).update(state=State.WAITING)
        if not found:
            return 0
        number = held.filter(pk__in=[one.pk for one in found]).update(state=State.MERGED)
        Notification.objects.create(
            recipient=recipient.name,
            key=f"summary:{found[0].uid}",
            subject="summary",
            event=Kind.SUMMARY.value,
            severity=_worst(one.severity for one in found),
            title=f"{sum(one.count for one in found):,} notifications during quiet hours",
            text=_listed(found),
            facts={"notifications": [{"event": one.event, "title": one.title} for one in found[:SUMMARISED]]},
            created_at=now,
            due_at=now,
            give_up_at=now + timedelta(hours=limits.give_up_hours),
        )
    return number


def _worst(severities: Iterable[str]) -> str:
    order = list(Severity)
    return max((Severity(one) for one in severities), key=order.index).value


def _listed(found: Sequence[Notification]) -> str:
    lines = [
        f"{one.created_at:%H:%M} UTC {one.title}" + (f" ({one.count} times)" if one.count > 1 else "") for one in found
    ]
    more = [f"And {len(lines) - SUMMARISED:,} more."] if len(lines) > SUMMARISED else []
    return "\n".join([*lines[:SUMMARISED], *more])


def has(recipient: str, key: str) -> bool:
    """Whether the event with this key is recorded for the recipient."""
    return Notification.objects.filter(recipient=recipient, key=key).exists()


def next_due(recipient: str) -> datetime | None:
    """When the next notification is due; None without one."""
    found: datetime | None = Notification.objects.filter(
        recipient=recipient, state__in=(State.WAITING, State.HELD)
    ).aggregate(first=Min("due_at"))["first"]
    return found


# --- users' decisions ---


def retry(ids: Sequence[int], limits: Limits, now: datetime) -> int:
    """Send failed and uncertain notifications again; return their number."""
    return _unsolved(ids).update(
        state=State.WAITING, attempts=0, token="", due_at=now, give_up_at=now + timedelta(hours=limits.give_up_hours)
    )


def dismiss(ids: Sequence[int]) -> int:
    """End failed and uncertain notifications without sending them; return their number."""
    return _unsolved(ids).update(state=State.DISMISSED)


def _unsolved(ids: Sequence[int]) -> QuerySet[Notification]:
    return Notification.objects.filter(pk__in=ids, state__in=UNSOLVED)


# --- figures and retention ---


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxFigures:
    """The notifications at one point in time."""

    #: Notifications that have reached ``sent``, ``failed`` and ``uncertain`` since the installation; only grow.
    totals: Mapping[str, int]
    #: Notifications that will be sent: due, or later.
    waiting: int
    #: Failed and uncertain ones that need a decision.
    failed: int
    uncertain: int
    #: Since when the oldest due notification waits for its first attempt.
    waiting_since: datetime | None
    #: Notifications that were refused at least ``RETRYING`` times and will be tried again, and why the last one was.
    retrying: int
    retry_error: str


def figures(now: datetime) -> OutboxFigures:
    """The figures, in a few queries."""
    totals = dict(Total.objects.values_list("state", "number"))
    open_states = (State.WAITING, State.HELD, State.SENDING)
    found = Notification.objects.filter(state__in=(*open_states, *UNSOLVED)).aggregate(
        waiting=Count("pk", filter=Q(state__in=open_states)),
        failed=Count("pk", filter=Q(state=State.FAILED)),
        uncertain=Count("pk", filter=Q(state=State.UNCERTAIN)),
        since=Min("due_at", filter=Q(state=State.WAITING, due_at__lte=now, attempts=0)),
        retrying=Count("pk", filter=_DELAYED),
    )
    delayed = Notification.objects.filter(_DELAYED).order_by("-due_at") if found["retrying"] else None
    last = delayed.first() if delayed is not None else None
    return OutboxFigures(
        totals={state.value: totals.get(state.value, 0) for state in (State.SENT, State.FAILED, State.UNCERTAIN)},
        waiting=found["waiting"],
        failed=found["failed"],
        uncertain=found["uncertain"],
        waiting_since=found["since"],
        retrying=found["retrying"],
        retry_error=last.error if last else "",
    )


def delete_old(keep: timedelta, now: datetime) -> int:
    """Delete ended notifications older than ``keep``; return their number."""
    number, _ = Notification.objects.filter(created_at__lt=now - keep, state__in=ENDED).delete()
    return number


def _count(state: State, number: int) -> None:
    if number and not Total.objects.filter(state=state).update(number=F("number") + number):
        Total.objects.get_or_create(state=state, defaults={"number": 0})
        Total.objects.filter(state=state).update(number=F("number") + number)
