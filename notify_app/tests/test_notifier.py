"""The notifier as it runs: threads, several at once, killed, and with a receiver that hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from dlqsite.tests import scenes
from dlqsite.tests.patience import eventually
from dlqsite.tests.receiver import Receiver
from notify_app import conf
from notify_app.domain.events import HOUR, Event, Kind, Severity
from notify_app.domain.policy import Limits
from notify_app.models import Notification, State
from notify_app.store import outbox
from notify_app.tests.receivers import SECRET, Smtp, a_recipient, policy, text_of
from notify_app.worker import Notifier

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis, pytest.mark.mongo]


@pytest.fixture(autouse=True)
def _stores(redis_client: Any, mongo_db: Any) -> None:
    scenes.forget()


@contextmanager
def running(number: int = 1) -> Iterator[list[Notifier]]:
    notifiers = [Notifier(look_s=0.1, send_s=0.1) for _ in range(number)]
    threads = [Thread(target=one.run, args=(10.0,)) for one in notifiers]
    for thread in threads:
        thread.start()
    try:
        yield notifiers
    finally:
        for one in notifiers:
            one.stop()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)


def record(key: str, recipient: str = "hook", at: datetime | None = None) -> None:
    event = Event(
        kind=Kind.GROUP_NEW, severity=Severity.WARNING, key=key, subject=f"group:{key}", title=f"about {key}",
        lines=("details",), page="dlq_app/lettergroup/", window=HOUR,
    )  # fmt: skip
    outbox.record(event, [conf.policy().recipients[recipient]], Limits(), at or datetime.now(UTC))


def count(state: State) -> int:
    return Notification.objects.filter(state=state).count()


def test_two_notifiers_send_each_notification_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(secret=SECRET) as receiver, policy(recipients={"hook": a_recipient()}):
        monkeypatch.setenv("HOOK_URL", receiver.url)
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        for number in range(30):
            record(str(number))
        with running(2):
            eventually(lambda: count(State.SENT) == 30, seconds=60)

    assert sorted(receiver.keys().values()) == [1] * 30
    assert all(one.signed for one in receiver.seen)


def test_a_receiver_that_hangs_delays_no_one_else_and_a_new_group_arrives_by_mail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = {"hook": a_recipient(), "mail": {"channel": "apprise", "url_env": "MAIL_URL"}}
    with Receiver(mode="silent") as hanging, Smtp() as smtp, policy(recipients=tables):
        monkeypatch.setenv("HOOK_URL", hanging.url)
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        monkeypatch.setenv("MAIL_URL", smtp.url)
        record("hangs")
        with running():
            eventually(lambda: hanging.seen, seconds=30)
            scenes.letters(2)
            eventually(lambda: smtp.mails, seconds=30)
            assert count(State.SENDING) >= 1
            hanging.closing.set()

    (mail,) = smtp.mails
    assert str(mail["Subject"]).startswith("New: ")
    assert "https://dlq.example.org/admin/dlq_app/lettergroup/" in text_of(mail)


_SEND_ONE = """
import django, sys
django.setup()
from notify_app import conf
from notify_app.worker import Notifier, Sender
Sender(conf.policy().recipients["team"], Notifier()).turn()
"""


@pytest.mark.skipif("sqlite" not in django_settings.DATABASES["default"]["ENGINE"], reason="the child needs the file")
def test_a_notifier_that_is_killed_while_it_sends_leaves_an_uncertain_notification(tmp_path: Path) -> None:
    file = tmp_path / "notify.toml"
    file.write_text('[recipients.team]\nchannel = "apprise"\nurl_env = "TEAM_URL"\n')
    with (
        Receiver(mode="silent") as receiver,
        policy(recipients={"team": {"channel": "apprise", "url_env": "TEAM_URL"}}),
    ):
        record("1", "team")
        environment = {
            **os.environ, "DJANGO_SETTINGS_MODULE": "dlqsite.settings", "NOTIFY_POLICY": str(file),
            "TEAM_URL": f"json://127.0.0.1:{receiver.port}/", "DATABASE_URL": f"sqlite:///{connection.settings_dict['NAME']}",
        }  # fmt: skip
        child = subprocess.Popen([sys.executable, "-c", _SEND_ONE], env=environment, cwd=django_settings.BASE_DIR)
        try:
            eventually(lambda: receiver.seen, seconds=60)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert count(State.SENDING) == 1

        later = datetime.now(UTC) + timedelta(minutes=3)
        assert outbox.end_lost("team", later, repeatable=False) == 1
        assert outbox.claim("team", later) is None
        assert count(State.UNCERTAIN) == 1
        assert json.loads(receiver.seen[0].body)["title"] == "about 1"
