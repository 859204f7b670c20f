"""A loss of a store is shown by health, overview, REST and console until a person acknowledges it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError
from django.test import Client

from dlq_app.domain.loss import Loss
from dlq_app.store import repository
from dlqsite.health import findings, report
from dlqsite.tests import scenes
from dlqsite.tests.people import audited, member, signed_in, with_key
from management.doctor import Status, check_losses
from management.tests.commands import run

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]
PAGE = "/admin/messages_app/message/"
UNTIL = datetime(2026, 11, 30, 7, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _seen_afresh(redis_client: Any, mongo_db: Any) -> Iterator[None]:
    scenes.forget()
    yield
    scenes.forget()


@pytest.fixture
def loss() -> Loss:
    lost = Loss(
        id="a1b2", store="redis", since=UNTIL - timedelta(seconds=2), until=UNTIL, seen_at=UNTIL, missing=104, moves=9,
        open=3,
    )  # fmt: skip
    repository.losses().note("dlq:", lost)
    return lost


def test_health_is_degraded_and_the_overview_says_so_first(loss: Loss) -> None:
    found = report.check_losses()

    assert found.status is findings.Status.DEGRADED
    assert "state of 2026-11-30 06:59:58 UTC" in found.detail
    assert "about 104 accepted messages" in found.detail
    assert found.facts["losses"][0]["from"] == "2026-11-30T06:59:58.000Z"
    page = with_key("read").get("/api/system/overview").json()["data"]
    scenes.settle()
    page = with_key("read").get("/api/system/overview").json()["data"]
    assert page["verdict"]["headline"].startswith("Redis fell back to an earlier state: about 104 accepted messages")
    (told,) = check_losses()
    assert told.status is Status.FAIL


def test_health_tells_what_it_knows_while_mongodb_is_away(settings: Any) -> None:
    settings.MONGODB_URL = "mongodb://127.0.0.1:1/?replicaSet=rs0"  # nobody listens there

    found = report.Doctor({"losses": report.check_losses}).look().checks["losses"]

    assert not found.is_silent
    assert found.facts["incomplete"] == "MongoDB does not answer: it may have more."


def test_without_a_loss_all_is_well() -> None:
    assert report.check_losses() == findings.Finding(findings.Status.HEALTHY, "", {"losses": [], "unacknowledged": 0})
    assert [told.status for told in check_losses()] == [Status.OK]
    assert run("losses", "list") == "There are no losses.\n"
    assert 'id="losses"' not in signed_in(member("viewer")).get(PAGE).content.decode()


def test_rest_lists_and_acknowledges(loss: Loss) -> None:
    admin = with_key("admin")
    path = "/api/system/losses/a1b2/acknowledge"

    for body in ({}, {"reason": " "}, {"reason": 5}, {"reason": "x", "by": "me"}):
        refused = admin.post(path, body, content_type="application/json")
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    unknown = admin.post("/api/system/losses/none/acknowledge", {"reason": "x"}, content_type="application/json")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "loss_not_found")
    told = admin.post(path, {"reason": "fail-over"}, content_type="application/json").json()["data"]
    again = admin.post(path, {"reason": "another"}, content_type="application/json").json()["data"]

    assert told["acknowledged"]["reason"] == again["acknowledged"]["reason"] == "fail-over"
    assert told["acknowledged"]["by"].startswith("key:")
    assert with_key("read").get("/api/system/losses").json()["data"] == [told]
    assert report.check_losses().status is findings.Status.HEALTHY


def test_staff_acknowledge_on_the_console_and_it_is_in_the_audit_log(loss: Loss) -> None:
    viewer, administrator = signed_in(member("viewer")), signed_in(member("administrator"))
    page = viewer.get(PAGE).content.decode()
    assert "about 104 accepted messages" in page
    assert "needs the role administrator" in page
    assert viewer.post(PAGE + "acknowledge/", {"loss": ["a1b2"], "reason": "x"}).status_code == 403

    refused = administrator.post(PAGE + "acknowledge/", {"loss": ["a1b2"], "reason": ""}, follow=True)
    assert "say in 1 to 1000 characters" in refused.content.decode()
    told = administrator.post(PAGE + "acknowledge/", {"loss": ["a1b2"], "reason": "power cut"}, follow=True)

    assert "1 loss acknowledged." in told.content.decode()
    (entry,) = audited()
    assert (entry.object_id, entry.said) == ("a1b2", "acknowledge loss: power cut")
    assert Client().get(PAGE + "acknowledge/").status_code == 302


def test_the_command_lists_and_acknowledges(loss: Loss) -> None:
    assert "NOT ACKNOWLEDGED" in run("losses", "list", "--open")
    with pytest.raises(CommandError, match="--all"):
        run("losses", "acknowledge", "--reason", "x")
    with pytest.raises(CommandError, match="No loss is called"):
        run("losses", "acknowledge", "none", "--reason", "x")

    assert run("losses", "acknowledge", "--all", "--reason", "we \u202e know") == "1 acknowledged.\n"

    assert run("losses", "list", "--open") == "There are no losses.\n"
    (line,) = run("losses", "list").splitlines()
    assert "acknowledged by cli:" in line
    assert "\u202e" not in line


def test_retry_due_keeps_the_mark_where_no_role_does() -> None:
    run("retry_due")

    assert repository.losses().mark("dlq:") is not None
