"""Events are found in the stores: once, by any number of notifiers, and also after a pause."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from breaker_app import conf as breaker_conf
from breaker_app import services as breakers
from breaker_app.states import Outcome
from dlq_app.domain.group_states import GroupState
from dlq_app.domain.replay_batch import BatchOrder
from dlq_app.services import batches, groups
from dlq_app.services.dead_letters import resolve_by_hand
from dlqsite.tests import scenes
from notify_app.collecting.collector import Collector
from notify_app.collecting.sources import HealthSeen
from notify_app.domain.events import Kind
from notify_app.models import Mark, Notification, State
from notify_app.store import outbox
from notify_app.tests.receivers import a_recipient, policy
from wire.instants import iso

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]


@pytest.fixture(autouse=True)
def _policy(redis_client: Any, mongo_db: Any) -> Iterator[None]:
    scenes.forget()
    with policy(recipients={"team": a_recipient()}):
        yield


def look(at: datetime | None = None, health: Any = None) -> list[Notification]:
    """What one look adds or changes, oldest first."""
    before = {one.pk: one.count for one in Notification.objects.all()}
    Collector(health).look(at)
    return [one for one in Notification.objects.order_by("pk") if before.get(one.pk) != one.count]


def kinds(found: list[Notification]) -> list[str]:
    return [one.event for one in found]


def later(**time: float) -> datetime:
    return datetime.now(UTC) + timedelta(**time)


def test_the_first_look_reports_nothing_old_and_the_next_a_new_group_once() -> None:
    scenes.letters(3)
    assert look() == []

    scenes.letters(2, error_type="PARSE_ERROR", error_reason="bad <b>token=hunter2</b> https://evil.example")
    (found,) = look()

    assert found.event == Kind.GROUP_NEW
    assert "2 open letters" in found.text
    assert found.page.startswith("dlq_app/lettergroup/")
    assert not {"<", ">"} & set(found.title)
    assert "hunter2" not in found.title + found.text + str(found.facts)
    assert "://" not in found.title
    assert look() == []


def test_a_notifier_that_was_killed_before_its_mark_moved_reports_the_group_once() -> None:
    look()
    scenes.letters(1)
    (found,) = look()
    # As if the transaction had been lost: the event is found again, with the same key.
    Mark.objects.filter(pk="groups").update(value={})

    assert look() == []
    assert Notification.objects.get().pk == found.pk


def test_a_resolved_group_that_fails_again_is_reported_once() -> None:
    scenes.letters(1)
    look()
    (group,) = groups.page().groups
    groups.set_state(group.fingerprint, GroupState.RESOLVED, actor="user:ann", reason="fixed")
    assert look() == []

    # The instant of the resolution is MongoDB's, as estimated; on a busy machine it can be a little late.
    scenes.letters(2, later_s=5)
    assert kinds(look()) == [Kind.GROUP_REGRESSED]
    assert look() == []
    groups.set_state(group.fingerprint, GroupState.IGNORED, actor="user:ann")
    assert look() == []


def test_a_group_that_was_resolved_before_a_look_is_new_when_it_fails_again() -> None:
    look()
    scenes.letters(1)
    resolve_by_hand("time-0", actor="user:ann")
    assert look() == []

    scenes.letters(2)
    assert kinds(look()) == [Kind.GROUP_NEW]


def test_of_many_new_groups_the_rest_shares_a_notification() -> None:
    with policy(recipients={"team": a_recipient()}, limits={"groups_at_once": 2}):
        look()
        for name in ("TIMEOUT_ERROR", "PARSE_ERROR", "NETWORK_ERROR", "AUTHENTICATION_ERROR"):
            scenes.letters(1, error_type=name)
        found = look()

    assert len(found) == 3
    assert found[-1].title == "2 more new groups"


def test_a_recipient_gets_what_its_filters_let_through() -> None:
    with policy(recipients={"shop": a_recipient(sources=["shop"]), "erp": a_recipient(sources=["erp"])}):
        look()
        scenes.letters(1)
        assert [one.recipient for one in look()] == ["shop"]


def test_a_breaker_that_opens_and_closes_is_reported() -> None:
    breaker_conf.announce(["payments-api"])
    assert look() == []

    scenes.call("payments-api", Outcome.FAILURE)
    (opened,) = look()
    assert (opened.event, opened.severity) == (Kind.BREAKER_OPENED, "critical")
    assert "10 of 10 calls failed" in opened.text
    since = breakers.card("payments-api").since
    assert since is not None
    assert f"Not closed since {iso(since)}." in opened.text
    outbox.note(outbox.claim("team", later()) or opened, outbox.SENT, later())
    breakers.order("payments-api", "reset", actor="user:ann", reason="works <again>")
    (closed,) = look()
    assert closed.event == Kind.BREAKER_CLOSED
    assert "By user:ann: works {again}" in closed.text
    # Ten minutes after the first: a breaker that flaps does not flood anyone.
    assert closed.due_at > later(minutes=9)
    assert look() == []


def test_a_breaker_that_is_open_at_the_first_look_and_one_that_lost_its_changes_are_reported(redis_client: Any) -> None:
    breaker_conf.announce(["payments-api"])
    breakers.order("payments-api", "force-open", actor="user:ann", reason="maintenance")
    assert kinds(look()) == [Kind.BREAKER_OPENED]

    redis_client.flushall()
    (joined,) = look()
    assert (joined.event, joined.count) == (Kind.BREAKER_CLOSED, 2)


def test_an_old_letter_is_reported_once_until_none_is_old() -> None:
    scenes.letters(1)
    assert kinds(look(later(hours=23))) == []
    (found,) = look(later(hours=25))
    assert found.title == "The oldest open dead letter is 1 d 1 h old"
    assert look(later(hours=30)) == []

    resolve_by_hand("time-0", actor="user:ann")
    assert look(later(hours=31)) == []
    scenes.letters(2)
    assert kinds(look(later(hours=60))) == [Kind.LETTER_OLD]


def test_a_batch_that_finishes_is_reported_once() -> None:
    look()
    batch = batches.start(BatchOrder(criteria=None, ids=("none",), name="again"), actor="user:ann")
    batches.executor().tick()
    assert batches.get(batch.id).is_final

    (found,) = look()
    assert (found.event, found.title) == (Kind.BATCH_FINISHED, "Replay batch again finished")
    assert look() == []
    assert look(later(minutes=5)) == []


def test_accounts_that_differ_are_reported_when_they_change(redis_client: Any) -> None:
    today = f"{later():%Y%m%d}"
    scenes.account(redis_client, today, "demo", accepted=3, done=2)
    (found,) = look()
    assert (found.event, found.title) == (Kind.ACCOUNTING_OFF, "1 message not accounted for")
    assert look() == []

    scenes.account(redis_client, today, "demo", accepted=4, done=2)
    (joined,) = look()
    assert (joined.pk, joined.count) == (found.pk, 2)


def test_accounts_of_earlier_days_are_not_read_at_each_look(redis_client: Any) -> None:
    for day in range(200):
        scenes.account(redis_client, f"{later(days=-day):%Y%m%d}", "demo", accepted=1, done=1)
    look()

    redis_client.config_resetstat()
    for _ in range(3):
        look()

    assert redis_client.info("commandstats")["cmdstat_hgetall"]["calls"] < 100


def test_health_is_reported_after_its_time_and_when_it_is_well_again() -> None:
    now = datetime.now(UTC)
    ill = HealthSeen("unhealthy", {"redis": "No answer.", "breakers": "Open: x."})
    only_ours = HealthSeen("degraded", {"notifications": "1 failed.", "breakers": "Open: x."})

    def at(minutes: float, health: HealthSeen) -> list[Notification]:
        return look(now + timedelta(minutes=minutes), lambda: health)

    assert at(0, ill) == []
    assert at(4, ill) == []
    (found,) = at(6, ill)
    assert (found.title, found.severity) == ("The dead-letter queue is unhealthy", "critical")
    assert "redis: No answer." in found.text
    assert at(7, ill) == []
    (well,) = at(20, only_ours)
    assert well.title == "The dead-letter queue is healthy again"
    assert at(21, only_ours) == []


def test_a_store_that_is_away_keeps_no_other_source_silent(settings: Any) -> None:
    look()
    scenes.letters(1)

    with scenes.away(settings, "redis"):
        assert kinds(look()) == [Kind.GROUP_NEW]


def test_a_look_that_is_stopped_ends_before_its_next_source() -> None:
    answers = iter([False, True])

    Collector(is_stopping=lambda: next(answers, True)).look()

    assert [mark.pk for mark in Mark.objects.all()] == ["groups"]


def test_the_digest_comes_once_a_day_and_not_before_its_time() -> None:
    scenes.letters(2)
    digest = {"recipients": ["team"], "time": "08:00", "zone": "UTC"}
    day = datetime.now(UTC).replace(hour=7, minute=59)
    with policy(recipients={"team": a_recipient(events=["health"])}, digest=digest):
        assert look(day) == []
        # The role came back in the afternoon: the missed morning is made up for.
        (found,) = look(day.replace(hour=15))
        assert found.event == Kind.DIGEST
        assert found.due_at == day.replace(hour=15)
        assert look(day.replace(hour=16)) == []
        assert kinds(look(day.replace(hour=16) + timedelta(days=1))) == [Kind.DIGEST]

    assert found.title.endswith("2 open, 2 new, 0 resolved")
    assert "New groups: 1" in found.text
    assert "payment.capture from shop, no owner" in found.text
    assert found.state == State.WAITING
