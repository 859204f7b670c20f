"""The audit log over REST, its file, its retention, and the lines of commands and of the system."""

from __future__ import annotations

import csv
import io
import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client
from pytest_django import Settings

from audit_app import lines as audit_lines
from audit_app import search
from audit_app.lines import delete_older_than, record
from audit_app.models import AuditLine
from dlq_app.services import dead_letters
from dlq_app.services.dead_letters import DueRound
from dlq_app.testing import MemoryIntake, a_death
from dlqsite.checks import check_audit_retention
from dlqsite.tests.people import member, signed_in, staff, with_key
from management import cron, preparation
from management.terminal import actor

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo, pytest.mark.usefixtures("redis_client")]
URL = "/api/audit"


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch, mongo_db: Any) -> MemoryIntake:
    port = MemoryIntake()
    monkeypatch.setattr("dlq_app.conf._load", lambda path: port)
    return port


@pytest.fixture
def auditor() -> Client:
    return with_key("audit")


def fill() -> None:
    record("user:ann", "resolved", kind="deadletter", object_id="l-1", name="m-1", why="the bank is back")
    record("key:ci", "replay of 20 letters started", kind="replaybatch", object_id="b-1", name="b-1", count=20)
    record("cli:bo", "forced open", kind="breaker", object_id="orders-db", name="orders-db", why="deploy")
    record("system", "automatic replays started", kind="deadletter", name="3 dead letters", count=3)


def what(client: Client, query: str = "") -> list[str]:
    answer = client.get(f"{URL}{query}")
    assert answer.status_code == 200, answer.content
    return [line["what"] for line in answer.json()["data"]]


def test_lines_come_newest_first_with_all_that_they_say(auditor: Client) -> None:
    fill()

    newest, *_, oldest = auditor.get(URL).json()["data"]

    assert (newest["who"], newest["count"], newest["objectId"]) == ("system", 3, "")
    assert {name: value for name, value in oldest.items() if name != "at"} == {
        "who": "user:ann",
        "what": "resolved",
        "kind": "deadletter",
        "objectId": "l-1",
        "name": "m-1",
        "why": "the bank is back",
        "count": None,
    }
    assert oldest["at"].endswith("Z")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("?who=user:ann", ["resolved"]),
        ("?actor=system", ["automatic replays started"]),
        ("?actor=cli", ["forced open"]),
        ("?kind=deadletter", ["automatic replays started", "resolved"]),
        ("?kind=deadletter&object=l-1", ["resolved"]),
        ("?to=2020-01-01T00:00:00Z", []),
        ("?from=2999-01-01T00:00:00Z", []),
    ],
)
def test_lines_are_filtered(auditor: Client, query: str, expected: list[str]) -> None:
    fill()

    assert what(auditor, query) == expected


def test_pages_neither_repeat_nor_skip_a_line(auditor: Client) -> None:
    moment = datetime(2026, 11, 1, tzinfo=UTC)
    AuditLine.objects.bulk_create(AuditLine(at=moment, who="user:ann", what=f"{n}") for n in range(7))
    found, cursor = [], ""

    while True:
        answer = auditor.get(f"{URL}?limit=3{cursor}").json()
        found += [line["what"] for line in answer["data"]]
        record("user:bo", "later")
        if answer["pagination"]["nextCursor"] is None:
            break
        cursor = f"&cursor={answer['pagination']['nextCursor']}"

    assert found == [f"{n}" for n in reversed(range(7))]


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?limit=0&cursor=x&actor=me", {"limit", "cursor", "actor"}),
        ("?limit=1001&from=yesterday", {"limit", "from"}),
        ("?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", {"to"}),
        ("?who=", {"who"}),
        ("?user=ann", {"user"}),
        ("?cursor=WzEsMl0", {"cursor"}),
        ("/export?format=xls", {"format"}),
        ("/export?limit=3", {"limit"}),
    ],
)
def test_a_bad_request_names_each_field(auditor: Client, query: str, fields: set[str]) -> None:
    answer = auditor.get(f"{URL}{query}")

    assert answer.status_code == 400
    assert {one["field"] for one in answer.json()["errors"]} == fields


def test_the_log_is_exported_as_json_lines_and_as_a_table(auditor: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_LIMIT", 3)
    fill()
    record("user:=1+1", "a\nb", why='=HYPERLINK("http://evil/")')

    *rows, end = [json.loads(line) for line in auditor.get(f"{URL}/export").getvalue().decode().splitlines()]
    table = auditor.get(f"{URL}/export?format=csv&kind=breaker").getvalue().decode("utf-8-sig")
    everything = auditor.get(f"{URL}/export?format=csv").getvalue().decode("utf-8-sig")

    assert end == {"end": {"count": 5, "complete": True}}
    assert [row["who"] for row in rows] == ["user:=1+1", "system", "cli:bo", "key:ci", "user:ann"]
    header, line = csv.reader(io.StringIO(table))
    assert header == ["at", "who", "what", "kind", "objectId", "name", "why", "count"]
    assert line[1:] == ["cli:bo", "forced open", "breaker", "orders-db", "orders-db", "deploy", ""]
    assert list(csv.reader(io.StringIO(everything)))[1][6].startswith("'=HYPERLINK")


def test_secrets_are_hidden_by_the_policy_of_today(auditor: Client) -> None:
    AuditLine.objects.create(who="user:ann", what="note", why="password=hunter2")

    assert "hunter2" not in auditor.get(URL).content.decode()
    assert "hunter2" not in auditor.get(f"{URL}/export").getvalue().decode()


def test_only_those_who_may_read_it_do() -> None:
    assert signed_in(member("operator")).get(URL).status_code == 200
    assert signed_in(member("viewer")).get(URL).status_code == 403
    assert with_key("admin").get(URL).status_code == 200
    assert with_key("read", "replay").get(f"{URL}/export").status_code == 403
    assert with_key("audit").get("/api/dlq").status_code == 403


def test_a_permission_for_the_log_alone_shows_nothing_else() -> None:
    someone = staff("someone")
    from django.contrib.auth.models import Permission, User

    User.objects.get(username="someone").user_permissions.add(Permission.objects.get(codename="view_logentry"))

    assert someone.get(URL).status_code == 200
    assert someone.get("/api/dlq").status_code == 403


def test_the_page_offers_its_lines_as_a_file() -> None:
    fill()

    page = signed_in(member("operator")).get("/admin/audit_app/auditline/?kind=breaker&by=cli").content.decode()

    assert 'href="/api/audit/export?kind=breaker&amp;actor=cli&amp;format=csv"' in page


# --- the system and commands ---


def test_a_round_of_automatic_replays_is_one_line() -> None:
    dead_letters.record_round(DueRound(due=3, replayed=2, postponed=1))
    dead_letters.record_round(DueRound(due=1, left=1))

    line = AuditLine.objects.get()
    assert (line.who, line.name, line.count) == ("system", "2 dead letters", 2)


def test_cron_writes_down_the_replays_that_it_starts(intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])

    cron.replay_what_is_due()

    assert AuditLine.objects.get().what == "automatic replays started"


def test_a_change_stands_when_its_line_cannot_be_written(
    intake: MemoryIntake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    dead_letters.record_outcomes([a_death()], [])

    def away(**fields: Any) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(AuditLine.objects, "create", away)
    with caplog.at_level(logging.ERROR):
        answer = with_key("replay", name="olga").post("/api/dlq/m-1/discard", "{}", content_type="application/json")

    assert answer.status_code == 200
    (line,) = [one for one in caplog.records if one.message == "audit_line_unwritten"]
    assert (line.who, line.what, line.target) == ("key:olga", "discard", "m-1")  # type: ignore[attr-defined]


def test_the_person_at_the_terminal_can_be_named(settings: Settings) -> None:
    assert actor().startswith("cli")
    settings.OPERATOR = " ann\nlee\u202e "

    assert actor() == "cli:ann lee\\u202e"


def test_a_changed_policy_is_written_down_once(settings: Settings, tmp_path: Any) -> None:
    policy = tmp_path / "delivery.toml"
    policy.write_text("a = 1\n")
    settings.DELIVERY_POLICY_FILE = str(policy)
    for _ in range(2):
        preparation.record_policies()
    policy.write_text("a = 2\n")
    for _ in range(2):
        preparation.record_policies()

    said = AuditLine.objects.filter(kind="policy", name=str(policy)).order_by("pk")
    assert [line.what for line in said] == ["policy in use", "policy changed"]
    assert AuditLine.objects.filter(kind="policy", object_id__startswith="breaker@").count() == 1


# --- retention ---


def test_old_lines_are_deleted_and_the_rest_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_lines, "_CHUNK", 2)
    now = datetime.now(UTC)
    ages = [800, 790, 780, 731, 729, 1]
    AuditLine.objects.bulk_create(AuditLine(at=now - timedelta(days=age), who="u", what=str(age)) for age in ages)

    cron.delete_old_audit_lines()

    assert [line.what for line in AuditLine.objects.order_by("at")] == ["729", "1", "deleted lines older than 730 days"]
    assert AuditLine.objects.order_by("-at")[0].count == 4
    assert delete_older_than(timedelta(days=730)) == 0


def test_without_retention_nothing_is_deleted(settings: Settings) -> None:
    settings.AUDIT_KEEP_DAYS = 0
    AuditLine.objects.create(at=datetime(2001, 1, 1, tzinfo=UTC), who="u", what="old")

    cron.delete_old_audit_lines()

    assert AuditLine.objects.count() == 1


@pytest.mark.parametrize(("days", "is_valid"), [(0, True), (36_500, True), (-1, False), (36_501, False)])
def test_the_retention_is_checked(settings: Settings, days: int, is_valid: bool) -> None:
    settings.AUDIT_KEEP_DAYS = days

    assert ([one.id for one in check_audit_retention(None)] == []) is is_valid


def test_a_key_for_the_log_is_created_by_the_command() -> None:
    out = io.StringIO()
    call_command("create_api_key", "siem", "--scope", "audit", "--json", stdout=out)

    assert json.loads(out.getvalue())["scopes"] == ["audit"]
