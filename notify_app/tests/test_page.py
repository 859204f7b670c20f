"""The page of notifications, the check of health, and the command."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from dlqsite.health.findings import Status
from dlqsite.health.notifications import notification_finding
from dlqsite.tests import scenes
from dlqsite.tests.people import audited
from dlqsite.tests.receiver import Receiver
from management.management.commands.run_notifier import _reason_not_to_start
from messages_app.store import presence
from notify_app.models import Notification, State
from notify_app.tests.receivers import SECRET, a_recipient, policy

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]

LIST = "admin:notify_app_notification_changelist"


@pytest.fixture(autouse=True)
def _policy(redis_client: Any, mongo_db: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    scenes.forget()
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    with policy(recipients={"hook": a_recipient()}):
        yield


def a_notification(state: State = State.FAILED, **changes: Any) -> Notification:
    now = datetime.now(UTC)
    number = Notification.objects.count()
    fields = {
        "recipient": "hook", "key": f"k{number}", "subject": f"s{number}", "event": "group_new", "severity": "warning",
        "title": f"New: <script>{number}", "give_up_at": now + timedelta(hours=6), "error": "answered 500", **changes,
    }  # fmt: skip
    return Notification.objects.create(state=state, **fields)


def test_a_viewer_sees_state_recipient_and_error_and_may_change_nothing(viewer: Client) -> None:
    one = a_notification()

    page = viewer.get(reverse(LIST)).content.decode()
    detail = viewer.get(reverse("admin:notify_app_notification_change", args=[one.pk])).content.decode()

    for part in ("New: &lt;script&gt;0", "hook", "answered 500", "Failed"):
        assert part in page
        assert part in detail
    assert 'name="action"' not in page
    assert viewer.get(reverse(LIST), {"facts__contains": "x"}).status_code in (302, 400)
    assert viewer.get(reverse(LIST), {"state__exact": "failed"}).status_code == 200


def test_it_names_the_recipients_or_that_there_are_none(viewer: Client) -> None:
    with policy(recipients={}):
        assert "names no recipient" in viewer.get(reverse(LIST)).content.decode()
    with policy(recipients={"team": a_recipient()}):
        assert "Recipients: team." in viewer.get(reverse(LIST)).content.decode()


@pytest.mark.parametrize(
    ("what", "state", "done"), [("retry", State.WAITING, "queued"), ("dismiss", State.DISMISSED, "dismissed")]
)
def test_an_administrator_decides_with_a_reason_which_is_audited(
    administrator: Client, what: str, state: State, done: str
) -> None:
    failed, sent = a_notification(), a_notification(State.SENT)
    asked = administrator.post(reverse(LIST), {"action": what, "_selected_action": [failed.pk, sent.pk]})
    address = asked.headers["Location"]

    assert "1 notification" in administrator.get(address).content.decode()
    assert administrator.post(address).status_code == 400
    answer = administrator.post(address, {"reason": "the hook is back"}, follow=True)

    assert f"1 notification {done}." in answer.content.decode()
    assert list(Notification.objects.order_by("pk").values_list("state", flat=True)) == [state, State.SENT]
    (line,) = audited().filter(kind="notification")
    assert (line.object_id, line.why) == (str(failed.pk), "the hook is back")
    assert administrator.post(address, {"reason": "again"}).status_code == 302
    assert audited().filter(kind="notification").count() == 1


def test_without_a_selection_that_needs_a_decision_nothing_is_asked(administrator: Client) -> None:
    sent = a_notification(State.SENT)

    answer = administrator.post(reverse(LIST), {"action": "retry", "_selected_action": [sent.pk]}, follow=True)

    assert "none is selected" in answer.content.decode()


def test_health_is_degraded_without_a_notifier_and_for_each_kind_of_trouble() -> None:
    now = datetime.now(UTC)
    assert "No notifier is alive" in notification_finding(now).detail
    scenes.processes("notifier")
    assert notification_finding(now).status is Status.HEALTHY

    a_notification()
    a_notification(State.UNCERTAIN)
    a_notification(State.WAITING, due_at=now - timedelta(minutes=11))
    a_notification(State.WAITING, attempts=3, due_at=now + timedelta(minutes=1))
    found = notification_finding(now)

    assert found.status is Status.DEGRADED
    for part in (
        "1 notification could not be sent.",
        "1 notification may not",
        "cannot be sent at the moment",
        "11 min",
    ):
        assert part in found.detail
    Notification.objects.all().delete()
    with policy():
        presence.withdraw("notifier-0")
        assert notification_finding(now).status is Status.HEALTHY


def test_the_role_names_what_keeps_it_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_URL", raising=False)
    assert "HOOK_URL is not set" in _reason_not_to_start()
    monkeypatch.setenv("HOOK_URL", "https://hooks.example.org/")
    assert _reason_not_to_start() == ""
    with policy():
        assert "no recipients" in _reason_not_to_start()
    with policy(limits={"keep_days": 0}):
        assert "keep_days" in _reason_not_to_start()


def test_the_command_tries_a_recipient_and_lists(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    a_notification()
    with Receiver(secret=SECRET) as receiver:
        monkeypatch.setenv("HOOK_URL", receiver.url)
        call_command("notify", test="hook")
        receiver.mode = "error"
        with pytest.raises(CommandError, match="was not accepted"):
            call_command("notify", test="hook")
        call_command("notify", list=True)
    with pytest.raises(CommandError, match="known are hook"):
        call_command("notify", test="team")
    said = capsys.readouterr().out

    assert [one.signed for one in receiver.seen] == [True, True]
    assert "hook accepted the sample" in said
    assert "hook: webhook by HOOK_URL; group_new" in said
    assert "0 waiting, 1 failed, 0 uncertain." in said
    assert "New: <script>0  answered 500" in said
