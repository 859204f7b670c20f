"""The doctor: what is well is said to be, what is not comes with its fix, and one part away hides no other."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command

from dlq_app import conf
from dlq_app.store import indexes, mongo
from dlqsite.models import ApiKey
from management import doctor
from management.doctor import Check, Finding, Status, check_remembered, diagnose
from messages_app.domain.errors import StoreUnavailable
from messages_app.store import presence
from messages_app.store.series import History, Sample


def by_name(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def a_look(*names: str) -> Any:
    return lambda: iter([Finding(name, Status.OK, "well") for name in names])


def away() -> Iterator[Finding]:
    yield from _nothing()


def _nothing() -> list[Finding]:
    raise StoreUnavailable("Redis does not answer")


def test_a_part_that_is_away_hides_only_what_needs_it() -> None:
    looks = [
        Check("redis", away),
        Check("roles", a_look("worker"), needs="redis"),
        Check("database", a_look("database")),
    ]

    found = by_name(diagnose(looks))

    assert {name: one.status for name, one in found.items()} == {
        "redis": Status.FAIL,
        "roles": Status.WARN,
        "database": Status.OK,
    }
    assert (found["redis"].detail, found["redis"].fix) == ("Redis does not answer", "Start it, or set REDIS_URL.")


def test_whatever_is_not_well_has_a_fix(
    redis_client: Any, mongo_db: Any, db: None, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path / "absent"
    settings.RQ_QUEUES = {"high": {"URL": settings.REDIS_URL}}
    settings.STATIC_ROOT = tmp_path
    mongo_db.drop_collection("dead_letters")

    found = by_name(diagnose())

    assert [one for one in found.values() if one.status is not Status.OK and not one.fix] == []
    assert found["letters"].status is Status.OK
    failing = {name for name, one in found.items() if one.status is Status.FAIL}
    assert {"data directory", "serializer", "indexes", "worker", "dlq_worker", "cron"} <= failing
    assert {"administrator", "api keys", "static files"} <= {n for n, f in found.items() if f.status is Status.WARN}


@pytest.mark.redis
@pytest.mark.mongo
def test_a_sound_installation_has_nothing_to_mend(
    redis_client: Any, mongo_db: Any, db: None, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    indexes.ensure(mongo.database(), keep_resolved_days=conf.replay_policy().keep_resolved_days)
    get_user_model().objects.create_superuser("olga", password="correct horse battery")
    ApiKey.objects.create_key(name="orders", scopes=["submit"])
    for role in ("worker", "dlq_worker", "cron"):
        presence.announce(f"{role}-1", role, started_at_ms=0)

    found = by_name(diagnose())

    assert {name: one.detail for name, one in found.items() if one.status is Status.FAIL} == {}
    assert found["redis"].detail.endswith("append-only file on, no eviction")
    assert found["indexes"].status is Status.OK


@pytest.mark.redis
def test_an_unsafe_redis_is_found(redis_client: Any) -> None:
    redis_client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        found = by_name(doctor.check_redis())
    finally:
        redis_client.config_set("maxmemory-policy", "noeviction")

    assert found["redis"] == Finding(
        "redis",
        Status.FAIL,
        "Redis may evict accepted messages (maxmemory-policy allkeys-lru).",
        "Set maxmemory-policy noeviction.",
    )


@pytest.mark.parametrize(
    ("theirs_ms", "status"),
    [(100_000.0, Status.OK), (99_500.0, Status.OK), (102_400.0, Status.FAIL), (98_900.0, Status.FAIL)],
)
def test_a_clock_may_differ_by_less_than_a_second(theirs_ms: float, status: Status) -> None:
    (finding,) = doctor._clock("clock", theirs_ms, 100.0, 100.2)

    assert finding.status is status


def test_json_lists_every_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("a", Status.OK, "well"), Finding("b", Status.FAIL, "ill", "Mend it.")]
    monkeypatch.setattr("management.management.commands.doctor.diagnose", lambda: iter(findings))
    out = io.StringIO()

    with pytest.raises(SystemExit) as ended:
        call_command("doctor", "--json", stdout=out)

    assert ended.value.code == 1
    assert json.loads(out.getvalue()) == {
        "healthy": False,
        "findings": [
            {"name": "a", "status": "ok", "detail": "well", "fix": ""},
            {"name": "b", "status": "FAIL", "detail": "ill", "fix": "Mend it."},
        ],
    }


def test_text_has_a_line_a_finding_and_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding("a", Status.OK, "well"), Finding("b", Status.WARN, "poorly", "Rest.")]
    monkeypatch.setattr("management.management.commands.doctor.diagnose", lambda: iter(findings))
    out = io.StringIO()

    call_command("doctor", stdout=out, no_color=True)

    assert out.getvalue().splitlines() == [
        "ok    a: well",
        "warn  b: poorly",
        "      fix: Rest.",
        "1 ok, 1 warn, 0 FAIL",
    ]


@pytest.mark.redis
def test_alive_means_that_a_role_here_has_reported(redis_client: Any) -> None:
    with pytest.raises(CommandError, match="no role on this host"):
        call_command("doctor", "--alive")

    presence.announce("worker-1", "worker", started_at_ms=0)

    call_command("doctor", "--alive")


@pytest.mark.redis
def test_alive_names_a_process_that_runs_and_says_nothing(redis_client: Any) -> None:
    for name, pid, host in (("mute", 1, ""), ("gone", 2**22 + 1, ""), ("elsewhere", 1, "other")):
        about = {"role": "worker", "pid": pid, "host": host or socket.gethostname()}
        redis_client.hset("dlq:presence:about", name, json.dumps(about))
        redis_client.zadd("dlq:presence", {name: (time.time() - 20) * 1000})
    presence.announce("well", "cron", started_at_ms=0)

    with pytest.raises(CommandError, match=r"silent: worker \(pid 1\)\."):
        call_command("doctor", "--alive")

    about = {"role": "worker", "pid": 1, "host": socket.gethostname()}  # started again, with the same id
    redis_client.hset("dlq:presence:about", "next", json.dumps(about))
    redis_client.zadd("dlq:presence", {"next": time.time() * 1000})
    call_command("doctor", "--alive")


@pytest.mark.redis
@pytest.mark.mongo
def test_a_document_that_is_no_letter_is_named(redis_client: Any, mongo_db: Any, db: None) -> None:
    mongo_db["dead_letters"].insert_one({"_id": "stray\u202e", "note": "by hand"})

    finding = by_name(diagnose())["documents"]

    assert finding.status is Status.FAIL
    assert "1 documents in the collection" in finding.detail
    assert "stray" in finding.detail


def test_simulated_work_outside_development_is_worth_a_warning(settings: Any) -> None:
    settings.ENVIRONMENT = "production"
    for taken, status in ((True, Status.WARN), (False, Status.OK)):
        settings.DEMO_HANDLER = taken

        assert by_name(doctor.check_settings())["demo"].status is status


@pytest.mark.parametrize(
    ("per_s", "limits", "status"),
    [
        (10, {"maxmemory": "800000000"}, Status.OK),
        (10, {"maxmemory": "700000000"}, Status.WARN),
        (10, {"maxmemory": "600000000"}, Status.FAIL),
        (10, {"maxmemory": "0", "total_system_memory": "600000000"}, Status.FAIL),
    ],
)
def test_memory_is_projected_from_the_rate_of_the_last_hour(
    settings: Any, per_s: int, limits: dict[str, str], status: Status
) -> None:
    settings.RECORD_TTL_S, settings.BODY_TTL_S = 86_400, 3600  # 10/s: 616 MB
    nothing = [0] * (len(Sample._fields) - 2)
    history = History(tuple(Sample(at * 10_000, at * 10 * per_s, *nothing) for at in range(361)))

    (found,) = check_remembered(limits, history)

    assert found.status is status
    assert "10.0 messages/s" in found.detail


def test_memory_is_not_projected_from_a_few_minutes() -> None:
    nothing = [0] * (len(Sample._fields) - 2)
    history = History(tuple(Sample(at * 10_000, at * 1_000_000, *nothing) for at in range(30)))

    (found,) = check_remembered({"maxmemory": "1000"}, history)

    assert (found.status, found.detail[:9]) == (Status.OK, "not known")
