"""The audit log: every sort of change is one line, with who, what and why; lines stay."""

from __future__ import annotations

import importlib
import io
import json
from types import SimpleNamespace
from typing import Any

import pytest
from django.apps import apps
from django.contrib.admin.models import ADDITION, CHANGE, LogEntry
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection
from django.test import Client
from django.urls import reverse

from audit_app.lines import record
from audit_app.models import AuditLine
from dlq_app.models import DeadLetter
from dlq_app.services import dead_letters
from dlq_app.testing import a_death
from dlqsite.models import ApiKey
from dlqsite.tests.people import member, signed_in, with_key

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]


def said() -> list[tuple[str, str, str]]:
    return [(line.who.partition(":")[0], line.what, line.name) for line in AuditLine.objects.order_by("pk")]


@pytest.fixture(autouse=True)
def _stores(redis_client: Any, mongo_db: Any) -> None:
    """Pages count what is in the stores."""


def test_signing_in_and_out_and_failing_to_are_lines() -> None:
    User.objects.create_user("ada", password="correct horse 1", is_staff=True)
    client = Client()
    client.post("/admin/login/", {"username": "ada", "password": "wrong"})
    client.post("/admin/login/", {"username": "ada", "password": "correct horse 1"})
    change = {"old_password": "correct horse 1", "new_password1": "staple 22 xy", "new_password2": "staple 22 xy"}
    client.post("/admin/password_change/", change)
    client.post("/admin/logout/")

    assert said() == [
        ("address", "failed sign-in", "ada"),
        ("user", "signed in", "ada"),
        ("user", "password changed", "ada"),
        ("user", "signed out", "ada"),
    ]
    assert "wrong" not in str(list(AuditLine.objects.values()))


def test_keys_and_users_made_in_forms_are_lines_without_a_hash() -> None:
    root = signed_in(member("superuser", "root"))
    root.post("/admin/dlqsite/apikey/add/", {"name": "shop", "scopes": ["read"]})
    user = User.objects.create_user("eve")
    root.post(f"/admin/auth/user/{user.pk}/delete/", {"post": "yes"})
    call_command("create_api_key", "till", "--scope", "read", stdout=io.StringIO())

    lines = list(AuditLine.objects.exclude(what="signed in").order_by("pk"))
    assert [(line.kind, line.name) for line in lines] == [("apikey", "shop"), ("user", "eve"), ("apikey", "till")]
    assert len(lines[0].object_id) == 8
    assert lines[2].who.startswith("cli")


def test_users_deleted_together_are_a_line_each() -> None:
    root = signed_in(member("superuser", "root"))
    gone = [User.objects.create_user(name) for name in ("eve", "mallory")]
    chosen = {"action": "delete_selected", "_selected_action": [user.pk for user in gone], "post": "yes"}
    root.post("/admin/auth/user/", chosen)

    lines = [line for line in said() if line[1] != "signed in"]
    assert sorted(lines) == [("user", "Deletion", "eve"), ("user", "Deletion", "mallory")]


def test_users_made_by_commands_and_their_passwords_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "correct horse 1")
    call_command("createsuperuser", "--noinput", "--username", "ada", "--email", "", stdout=io.StringIO())
    monkeypatch.setattr("getpass.getpass", lambda prompt="": "staple 22 xy")
    call_command("changepassword", "ada", stdout=io.StringIO())

    assert said() == [("cli", "user made", "ada"), ("cli", "password changed", "ada")]
    assert "staple" not in str(list(AuditLine.objects.values()))


def test_lines_of_the_last_version_are_copied() -> None:
    migration = importlib.import_module("audit_app.migrations.0001_initial")
    ada = member("operator", "ada")
    long = "INC-7 " * 50
    for model, object_id, name, said_then in (
        (DeadLetter, "l-1", "m-1", "discard: INC-1"),
        (ApiKey, "abcdefgh.hash", "shop", json.dumps([{"added": {}}])),
        (DeadLetter, "", "3 letters", long),
    ):
        entry = LogEntry(
            user=ada,
            content_type=ContentType.objects.get_for_model(model),
            object_id=object_id,
            object_repr=name,
            action_flag=ADDITION if model is ApiKey else CHANGE,
            change_message=said_then,
        )
        LogEntry.objects.bulk_create([entry])  # no signal: as they stand after an update

    migration.copy(apps, SimpleNamespace(connection=connection))

    lines = AuditLine.objects.order_by("pk").values_list("who", "what", "kind", "object_id", "name", "why")
    assert list(lines) == [
        ("user:ada", "discard: INC-1", "deadletter", "l-1", "m-1", ""),
        ("user:ada", "Added.", "apikey", "abcdefgh", "shop", ""),
        ("user:ada", "see why", "deadletter", "", "3 letters", long),
    ]


def test_pages_of_queues_are_lines() -> None:
    signed_in(member("administrator", "ada")).post("/admin/django_rq/dashboard/queues/0/empty/")

    assert said()[-1] == ("user", "queue page: clear", "alone")


def test_lines_are_never_changed_and_stay_without_their_user() -> None:
    ada = member("operator", "ada")
    signed_in(ada)
    ada.delete()

    line = AuditLine.objects.get()
    assert (line.who, line.what) == ("user:ada", "signed in")
    with pytest.raises(TypeError, match="cannot be changed"):
        line.save()
    with pytest.raises(TypeError, match="cannot be deleted"):
        line.delete()


def test_the_page_hides_secrets_and_escapes(client: Client) -> None:
    record("key:<b>x</b>", "note", name="<script>alert(1)</script>", why="token=hunter2 <i>")

    page = signed_in(member("operator")).get("/admin/audit_app/auditline/?q=note&by=key").content.decode()

    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<script>alert" not in page
    assert "hunter2" not in page


def test_a_line_that_the_database_refuses_is_in_the_programs_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("read-only")

    monkeypatch.setattr(AuditLine, "save", refuse)
    record("key:shop", "discard", object_id="1", why="INC-7")
    with pytest.raises(DatabaseError):
        record("key:shop", "reveal", must=True)

    told = [line for line in caplog.records if line.message == "audit_line_unwritten"]
    assert [(line.levelname, vars(line)["who"], vars(line)["what"]) for line in told] == [
        ("ERROR", "key:shop", "discard"),
        ("ERROR", "key:shop", "reveal"),
    ]


def test_nothing_is_revealed_while_the_database_takes_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    dead_letters.record_outcomes([a_death("m-1", body=b'{"token": "tok_1"}')], [])
    client, root = with_key("admin"), signed_in(member("superuser", "root"))
    address = reverse("admin:dlq_app_deadletter_reveal", args=["m-1"])

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OperationalError("database is locked")

    monkeypatch.setattr(AuditLine, "save", refuse)
    asked = {"reason": "INC-7"}
    rest = client.post("/api/dlq/m-1/reveal", asked, content_type="application/json")
    export = client.get("/api/dlq/export?reveal=true&reason=INC-7")
    page = root.post(address, asked)

    for answer in (rest, export, page):
        assert answer.status_code == 503
        assert "tok_1" not in answer.content.decode()
    assert rest.json()["code"] == export.json()["code"] == "store_unavailable"
    with pytest.raises(CommandError, match="audit log"):
        call_command("export_dlq", "--reveal", "--reason", "INC-7", stdout=io.StringIO(), stderr=io.StringIO())


@pytest.mark.parametrize(
    "address",
    [
        "audit_app/auditline/?at__year=99999999999", "audit_app/auditline/?who__regex=(a%2B)%2B%24",
        "audit_app/auditline/?at__year__gte=99999999999", "auth/user/?date_joined__year=99999999999",
        "auth/user/?username__regex=(a%2B)%2B%24", "auth/group/?name__iregex=x",
        "axes/accessattempt/?attempt_time__year=99999999999",
    ],
)  # fmt: skip
def test_lists_compare_fields_as_their_own_filters_do(address: str) -> None:
    browser = signed_in(member("administrator"))

    assert browser.get(f"/admin/{address}").status_code == 400
    for plain in (
        "audit_app/auditline/?at__gte=2026-01-01+00%3A00%3A00%2B00%3A00&at__lt=2027-01-01+00%3A00%3A00%2B00%3A00",
        "auth/user/?groups__id__exact=1&is_active__exact=1", "auth/user/?is_staff__exact=0",
    ):  # fmt: skip
        assert browser.get(f"/admin/{plain}").status_code == 200


@pytest.mark.parametrize("edge", ["0001-01-01 00:00:00+14:00", "9999-12-31 23:59:59-12:00", "x", "\0"])
def test_dates_at_the_edge_of_the_calendar_break_no_list(edge: str) -> None:
    answer = signed_in(member("administrator")).get("/admin/audit_app/auditline/", {"at__gte": edge})

    assert answer.status_code in (302, 400)
