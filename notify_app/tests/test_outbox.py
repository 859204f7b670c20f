"""Notifications are recorded once, claimed once, and their state says what is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from notify_app.domain.events import HOUR, Event, Kind, Severity
from notify_app.domain.policy import Limits, NotifyPolicy, Recipient
from notify_app.domain.schedule import LEASE
from notify_app.models import Notification, State
from notify_app.store import marks, outbox
from notify_app.tests.receivers import a_recipient

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
NIGHT = datetime(2026, 11, 30, 23, tzinfo=UTC)
MORNING = datetime(2026, 12, 1, 7, tzinfo=UTC)
LIMITS = Limits()
MINUTE = timedelta(minutes=1)


def recipient(**changes: Any) -> Recipient:
    tables = {"recipients": {"team": a_recipient(**changes)}}
    return NotifyPolicy.from_mapping(tables, file="notify.toml").recipients["team"]


TEAM = recipient()
SLEEPER = recipient(quiet={"from": "22:00", "to": "07:00", "zone": "UTC"})


def event(key: str, subject: str = "group:a", **changes: Any) -> Event:
    fields: dict[str, Any] = {
        "kind": Kind.GROUP_NEW, "severity": Severity.WARNING, "key": key, "subject": subject, "title": f"about {key}",
        "window": HOUR, **changes,
    }  # fmt: skip
    return Event(**fields)


def record(one: Event, at: datetime = NOON, to: Recipient = TEAM) -> int:
    return outbox.record(one, [to], LIMITS, at)


def claimed(at: datetime) -> Notification:
    found = outbox.claim("team", at)
    assert found is not None
    return found


def states() -> list[str]:
    return list(Notification.objects.order_by("pk").values_list("state", flat=True))


def test_an_event_is_recorded_once() -> None:
    assert [record(event("a")), record(event("a")), record(event("a"), NOON + 2 * HOUR)] == [1, 0, 0]
    assert Notification.objects.count() == 1


def test_one_notification_per_group_and_hour_has_the_count_of_the_rest() -> None:
    record(event("1"))
    outbox.note(claimed(NOON), outbox.SENT, NOON)
    for minute in (10, 20, 30):
        record(event(f"later {minute}"), NOON + minute * MINUTE)

    assert outbox.claim("team", NOON + 59 * MINUTE) is None
    second = claimed(NOON + HOUR)
    assert (second.count, second.title) == (3, "about later 30")
    outbox.note(second, outbox.SENT, NOON + HOUR)
    # Created before the hour began, sent within it: it counts.
    record(event("again"), NOON + HOUR + 20 * MINUTE)
    assert outbox.claim("team", NOON + 2 * HOUR - MINUTE) is None
    assert claimed(NOON + 2 * HOUR).title == "about again"


def test_other_groups_do_not_wait() -> None:
    record(event("1"))
    record(event("2", subject="group:b"))

    assert claimed(NOON).title == "about 1"
    assert claimed(NOON).title == "about 2"


def test_of_many_only_one_claims_a_notification() -> None:
    record(event("1"))

    assert outbox.claim("team", NOON) is not None
    assert outbox.claim("team", NOON) is None
    assert outbox.claim("another", NOON) is None


def test_a_refused_notification_is_tried_again_for_a_limited_time() -> None:
    record(event("1"))
    at, attempts = NOON, 0
    while (found := outbox.claim("team", at)) is not None:
        attempts += 1
        outbox.note(found, outbox.refused("answered 500"), at)
        at = outbox.next_due("team") or at

    (left,) = Notification.objects.all()
    assert (left.state, left.error, left.attempts) == (State.FAILED, "answered 500", attempts)
    assert timedelta(hours=5) < at - NOON <= timedelta(hours=6)
    assert outbox.figures(at).totals == {"sent": 0, "failed": 1, "uncertain": 0}


def test_what_a_killed_notifier_was_sending_is_uncertain_and_never_sent_again() -> None:
    record(event("1"))
    killed = claimed(NOON)

    assert outbox.end_lost("team", NOON + LEASE, repeatable=False) == 0
    assert outbox.end_lost("team", NOON + LEASE + MINUTE, repeatable=False) == 1
    assert outbox.claim("team", NOON + 5 * HOUR) is None
    assert outbox.figures(NOON).uncertain == 1
    # It was only slow: what it knows counts.
    assert outbox.note(killed, outbox.SENT, NOON + 5 * MINUTE)
    assert states() == [State.SENT]


def test_what_a_receiver_recognises_is_sent_again_with_the_same_id() -> None:
    record(event("1"))
    killed = claimed(NOON)

    assert outbox.end_lost("team", NOON + LEASE + MINUTE, repeatable=True) == 1
    again = claimed(NOON + LEASE + MINUTE)

    assert again.uid == killed.uid
    assert not outbox.note(killed, outbox.refused("late"), NOON + 5 * MINUTE)
    assert states() == [State.SENDING]


def test_quiet_hours_hold_back_and_end_in_one_summary() -> None:
    for number in range(25):
        record(event(f"{number}", subject=f"group:{number}"), NIGHT, SLEEPER)
    record(event("urgent", subject="breaker:x", severity=Severity.CRITICAL), NIGHT, SLEEPER)

    assert claimed(NIGHT).title == "about urgent"
    assert outbox.release_held(SLEEPER, LIMITS, NIGHT) == 0
    assert outbox.release_held(SLEEPER, LIMITS, MORNING) == 25
    assert outbox.release_held(SLEEPER, LIMITS, MORNING) == 0
    summary = claimed(MORNING)
    assert summary.title == "25 notifications during quiet hours"
    assert summary.text.count("\n") == 20
    assert summary.text.endswith("And 5 more.")
    assert states().count(State.MERGED) == 25


def test_a_single_held_notification_is_sent_as_it_is() -> None:
    record(event("1"), NIGHT, SLEEPER)

    assert outbox.release_held(SLEEPER, LIMITS, MORNING) == 1
    assert claimed(MORNING).title == "about 1"


def test_a_critical_event_does_not_wait_with_the_held_one_that_it_joins() -> None:
    record(event("1"), NIGHT, SLEEPER)
    record(event("2", severity=Severity.CRITICAL), NIGHT + MINUTE, SLEEPER)

    assert claimed(NIGHT + MINUTE).count == 2


def test_a_notification_that_nothing_sends_fails_in_the_end() -> None:
    record(event("1"))

    assert outbox.give_up(NOON + timedelta(hours=6)) == 0
    assert outbox.figures(NOON + MINUTE).waiting_since == NOON
    assert outbox.give_up(NOON + timedelta(hours=7)) == 1
    assert Notification.objects.get().error == "It was not sent in time."


def test_users_retry_or_dismiss_only_what_needs_a_decision() -> None:
    for key in ("1", "2", "3"):
        record(event(key, subject=key))
    first, second = claimed(NOON), claimed(NOON)
    outbox.note(first, outbox.uncertain("no answer"), NOON)
    outbox.note(second, outbox.SENT, NOON)
    third = Notification.objects.exclude(pk__in=(first.pk, second.pk)).get()

    assert outbox.retry([first.pk, second.pk, third.pk], LIMITS, NOON) == 1
    assert outbox.retry([first.pk], LIMITS, NOON) == 0
    assert outbox.dismiss([first.pk, second.pk]) == 0
    assert Notification.objects.get(pk=first.pk).attempts == 0


def test_old_notifications_are_deleted_but_none_that_waits() -> None:
    record(event("1", subject="1"))
    outbox.note(claimed(NOON), outbox.SENT, NOON)
    record(event("2", subject="2"))

    assert outbox.delete_old(timedelta(days=30), NOON + timedelta(days=31)) == 1
    assert states() == [State.WAITING]
    assert outbox.figures(NOON).totals["sent"] == 1


def test_a_mark_moves_with_its_events_or_not_at_all() -> None:
    first, second = marks.read("groups"), marks.read("groups")

    def broken() -> None:
        record(event("1"))
        raise RuntimeError("killed here")

    with pytest.raises(RuntimeError):
        marks.move(first, {"a": 1}, broken)
    assert (marks.read("groups").value, Notification.objects.count()) == (None, 0)
    assert marks.move(first, {"a": 1}, lambda: record(event("1")))
    # Another notifier saw the same events.
    assert not marks.move(second, {"a": 1}, lambda: record(event("2")))
    assert marks.read("groups").value == {"a": 1}
    assert Notification.objects.count() == 1
