"""What is true before the roles start, and stays as it is when prepared again."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.services import dead_letters
from dlq_app.store import indexes
from dlq_app.store.mongo import LETTERS
from dlqsite.models import SCOPES, ApiKey
from management import preparation
from management.management.commands import prepare


@pytest.mark.django_db
def test_a_ready_key_and_an_administrator_are_made_once(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"

    preparation.ensure_credentials(path)
    first = json.loads(path.read_text())
    preparation.ensure_credentials(path)

    assert json.loads(path.read_text()) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ApiKey.objects.is_valid(first["apiKey"])
    assert [key.scopes for key in ApiKey.objects.all()] == [list(SCOPES)]
    assert get_user_model().objects.get().check_password(first["adminPassword"])


@pytest.mark.django_db
def test_a_revoked_key_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    preparation.ensure_credentials(path)
    first = json.loads(path.read_text())["apiKey"]
    ApiKey.objects.update(revoked=True)

    preparation.ensure_credentials(path)

    assert json.loads(path.read_text())["apiKey"] != first


@pytest.mark.django_db
def test_a_changed_password_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    preparation.ensure_credentials(path)
    user = get_user_model().objects.get()
    user.set_password("chosen by a person")
    user.save()

    preparation.ensure_credentials(path)

    assert "adminPassword" not in json.loads(path.read_text())


@pytest.mark.django_db
def test_an_administrator_who_is_there_stays_alone(tmp_path: Path) -> None:
    get_user_model().objects.create_superuser("olga", password="correct horse battery")

    preparation.ensure_credentials(tmp_path / "credentials.json")

    assert "adminPassword" not in json.loads((tmp_path / "credentials.json").read_text())
    assert [user.username for user in get_user_model().objects.all()] == ["olga"]


@pytest.mark.django_db
def test_the_environment_may_name_the_first_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    preparation.ensure_named_administrator()
    assert not get_user_model().objects.exists()
    monkeypatch.setenv("DJANGO_SUPERUSER_USERNAME", "olga")
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "correct horse battery")

    preparation.ensure_named_administrator()
    preparation.ensure_named_administrator()

    assert get_user_model().objects.get().check_password("correct horse battery")


@pytest.mark.redis
def test_an_unsafe_redis_is_refused_with_the_fix(redis_client: Any) -> None:
    preparation.require_safe_redis()
    redis_client.config_set("maxmemory-policy", "volatile-ttl")
    try:
        with pytest.raises(CommandError, match="Set maxmemory-policy noeviction"):
            preparation.require_safe_redis()
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.mongo
def test_indexes_are_built_and_building_again_changes_nothing(mongo_db: Any) -> None:
    mongo_db.drop_collection("dead_letters")

    preparation.ensure_indexes()
    preparation.ensure_indexes()

    assert indexes.missing(mongo_db) == []


@pytest.mark.mongo
def test_messages_with_two_letters_are_named_by_their_later_ones(mongo_db: Any) -> None:
    mongo_db.dead_letters.drop_index(indexes.UNIQUE)
    ids = mongo_db.dead_letters.insert_many([{"messageId": name} for name in ("once", "twice", "twice")]).inserted_ids
    try:
        with pytest.raises(CommandError, match=r"^1 message has more than one letter") as refused:
            preparation.ensure_indexes()
        assert str(refused.value).endswith(f"'twice': {ids[2]}.")
    finally:
        mongo_db.dead_letters.delete_many({})
        preparation.ensure_indexes()


def test_a_mongodb_that_is_away_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def away() -> None:
        raise StoreUnavailable("MongoDB does not answer.")

    monkeypatch.setattr(dead_letters, "build_indexes", away)
    with pytest.raises(CommandError, match=r"does not answer\. Start MongoDB, or set MONGODB_URL\."):
        preparation.ensure_indexes()


def test_static_files_are_collected_only_when_they_changed(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = str(tmp_path / "collected")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.css").write_text("a { color: red }")
    settings.STATICFILES_DIRS = [tmp_path / "source"]
    settings.STATICFILES_FINDERS = ["django.contrib.staticfiles.finders.FileSystemFinder"]

    counts = [preparation.collect_static_files(), preparation.collect_static_files()]
    (tmp_path / "source" / "a.css").write_text("a { color: blue; margin: 0 }")
    counts.append(preparation.collect_static_files())

    assert counts == [1, 0, 1]
    manifest = json.loads((tmp_path / "collected" / "staticfiles.json").read_text())
    assert "blue" in (tmp_path / "collected" / manifest["paths"]["a.css"]).read_text()


@pytest.mark.django_db
def test_a_role_waits_until_the_indexes_are_built(
    mongo_db: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mongo_db[LETTERS].drop_indexes()
    assert "indexes are missing" in preparation.unprepared()
    # Another run of prepare finishes while this one waits.
    monkeypatch.setattr(prepare, "time", SimpleNamespace(sleep=lambda _: preparation.ensure_indexes()))

    call_command("prepare", "--wait")

    assert preparation.unprepared() == ""
    told = capsys.readouterr().out
    assert told.count("Waiting for prepare") == 1
    assert told.endswith("Prepared.\n")


@pytest.mark.django_db(transaction=True)
def test_a_role_waits_for_migrations(mongo_db: Any) -> None:
    preparation.ensure_indexes()
    MigrationRecorder(connection).record_unapplied("audit_app", "0001_initial")
    try:
        assert "migrations are not applied" in preparation.unprepared()
    finally:
        MigrationRecorder(connection).record_applied("audit_app", "0001_initial")


def test_a_store_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise OperationalError("the database does not answer")

    monkeypatch.setattr(preparation, "MigrationExecutor", away)

    assert preparation.unprepared() == "the database does not answer"


def test_a_waiting_role_ends_on_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def unprepared() -> str:
        signal.raise_signal(signal.SIGTERM)
        return "nothing is prepared"

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(preparation, "unprepared", unprepared)

    with pytest.raises(SystemExit):
        call_command("prepare", "--wait")

    assert signal.getsignal(signal.SIGTERM) is before
