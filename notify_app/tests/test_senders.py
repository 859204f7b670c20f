"""Sending for real: to an HTTP receiver that verifies the signature, a JSON service of apprise, and an SMTP server."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterator

import pytest
from django.test import override_settings

from dlqsite.tests.receiver import Receiver
from notify_app import conf
from notify_app.domain.policy import Recipient
from notify_app.domain.wording import Content, plain
from notify_app.models import State
from notify_app.senders import addresses, by_apprise, sending
from notify_app.services import send_sample
from notify_app.tests.receivers import SECRET, Smtp, a_recipient, policy, text_of

HOSTILE = "Boom <http://evil.example|click> [x](http://evil.example) <!channel> @here \x1b[31m\u202e <script>x</script>"


def content(**changes: object) -> Content:
    fields: dict[str, object] = {
        "id": "ntf_1", "kind": "group_new", "severity": "warning", "title": f"New: {plain(HOSTILE)}",
        "text": plain(HOSTILE), "link": "https://dlq.example.org/admin/", "at": "2026-11-30T08:00:00.000Z", **changes,
    }  # fmt: skip
    return Content(**fields)  # type: ignore[arg-type]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with Receiver(secret=SECRET) as receiver, policy(recipients={"hook": a_recipient()}):
        monkeypatch.setenv("HOOK_URL", receiver.url)
        monkeypatch.setenv("HOOK_SECRET", SECRET)
        yield receiver


def recipient(name: str = "hook") -> Recipient:
    return conf.policy().recipients[name]


def test_a_webhook_is_signed_and_has_the_same_id_each_time(hook: Receiver) -> None:
    for _ in range(2):
        assert sending.send(recipient(), content(facts={"open": 3})).state == State.SENT

    assert [one.signed for one in hook.seen] == [True, True]
    assert [one.key for one in hook.seen] == ["ntf_1", "ntf_1"]
    body = json.loads(hook.seen[0].body)
    assert body["type"] == "dlq.group_new"
    assert body["data"]["open"] == 3
    assert body["data"]["link"] == "https://dlq.example.org/admin/"


@pytest.mark.parametrize("mode", ["error", "reset", "hang_up", "redirect", "garbage"])
def test_a_webhook_that_is_not_accepted_is_refused_without_its_address(hook: Receiver, mode: str) -> None:
    hook.mode = mode

    result = sending.send(recipient(), content())

    assert result.state == State.FAILED
    assert "/hook" not in result.error


def test_a_missing_address_or_secret_is_named_by_its_variable(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses.problems(recipient()) == []
    monkeypatch.setenv("HOOK_URL", "ftp://token@example.org/secret")
    monkeypatch.setenv("HOOK_SECRET", "whsec_short")

    problems = " ".join(addresses.problems(recipient()))

    assert "HOOK_URL must begin with http" in problems
    assert "HOOK_SECRET must" in problems
    assert "token" not in problems
    monkeypatch.delenv("HOOK_URL")
    assert "HOOK_URL is not set" in sending.send(recipient(), content()).error


def test_apprise_sends_json_and_nothing_in_it_is_markup() -> None:
    with Receiver() as service:
        result = by_apprise.send(f"json://127.0.0.1:{service.port}/", content(count=3))

    assert result.state == State.SENT
    body = json.loads(service.seen[0].body)
    assert "3 events" in body["message"]
    assert body["message"].endswith("https://dlq.example.org/admin/")
    said = body["title"] + body["message"].removesuffix("https://dlq.example.org/admin/")
    assert not set("<>[]|`@\x1b\u202e") & set(said)
    assert "://" not in said


def test_apprise_sends_a_plain_mail() -> None:
    with Smtp() as smtp:
        result = by_apprise.send(smtp.url, content(title="One line\nBcc: evil@example.org"))

    assert result.state == State.SENT, result.error
    (mail,) = smtp.mails
    assert mail["To"] == "ops@example.org"
    assert mail["Bcc"] is None
    assert mail.get_content_type() == "text/plain"
    assert "https://dlq.example.org/admin/" in text_of(mail)


def test_a_subject_from_outside_is_not_decoded_by_mail_programs() -> None:
    with Smtp() as smtp:
        by_apprise.send(smtp.url, content(title=plain("=?us-ascii?q?http=3A//evil.example?=")))

    assert "http://" not in smtp.mails[0]["Subject"]
    assert "http=3A//evil.example" in smtp.mails[0]["Subject"]


@pytest.mark.parametrize(
    ("reply", "state"), [("", State.UNCERTAIN), ("554 not here", State.FAILED), ("451 later", State.FAILED)]
)
def test_a_mail_without_an_answer_is_uncertain_and_one_with_an_error_is_not(reply: str, state: State) -> None:
    with Smtp(reply) as smtp:
        result = by_apprise.send(smtp.url, content())

    assert result.state == state, result.error


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("mailto://user:hunter2hunter2@127.0.0.1:{port}/a@example.org?from=b@example.org&mode=insecure", "AUTH"),
        ("mailto://127.0.0.1:{port}/a@example.org?from=b@example.org&mode=starttls", "STARTTLS"),
        ("mailtos://127.0.0.1:{port}/a@example.org?from=b@example.org&mode=ssl", "WRONG_VERSION_NUMBER"),
    ],
)
def test_a_mail_server_without_sign_in_or_encryption_is_named_and_tried_again(url: str, cause: str) -> None:
    with Smtp() as smtp:
        result = by_apprise.send(url.format(port=smtp.port), content())

    assert result.state == State.FAILED, result.error
    assert cause in result.error
    assert "hunter2" not in result.error
    assert smtp.mails == []


def test_the_answer_of_a_mail_server_is_part_of_the_error() -> None:
    with Smtp("554 too large") as smtp:
        assert "too large" in by_apprise.send(smtp.url, content()).error


@pytest.mark.parametrize(
    ("mode", "state"), [("error", State.FAILED), ("reset", State.UNCERTAIN), ("hang_up", State.UNCERTAIN)]
)
def test_a_service_that_answers_with_an_error_refused_it_and_one_that_hangs_up_did_not(mode: str, state: State) -> None:
    with Receiver(mode=mode) as service:
        result = by_apprise.send(f"json://user:hunter2hunter2@127.0.0.1:{service.port}/t0k3nt0k3n", content())

    assert result.state == state, result.error
    assert "hunter2" not in result.error
    assert "t0k3n" not in result.error


def test_a_service_that_cannot_be_reached_refused_it() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    assert by_apprise.send(f"json://127.0.0.1:{port}/", content()).state == State.FAILED
    assert (
        by_apprise.send(f"mailto://127.0.0.1:{port}/a@example.org?from=b@example.org", content()).state == State.FAILED
    )


def test_a_silent_service_is_given_up_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_apprise, "TIMEOUT_S", 0.3)
    with Receiver(mode="silent") as service:
        result = by_apprise.send(f"json://127.0.0.1:{service.port}/?rto=3600", content())

    assert result.state == State.UNCERTAIN


def test_nothing_of_an_address_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Receiver(mode="error") as service:
        by_apprise.send(f"json://user:hunter2hunter2@127.0.0.1:{service.port}/", content())

    assert "hunter2" not in caplog.text


def test_a_url_that_apprise_does_not_know_is_named_without_its_text() -> None:
    wrong = by_apprise.problem("nosuch://hunter2@example.org")

    assert "appriseit.com" in wrong
    assert "hunter2" not in wrong
    assert by_apprise.problem("mailto://127.0.0.1:25/a@example.org?from=b@example.org") == ""


@override_settings(CONSOLE_URL="")
def test_a_sample_arrives(hook: Receiver) -> None:
    assert send_sample(recipient()).state == State.SENT
    assert json.loads(hook.seen[0].body)["type"] == "dlq.test"
