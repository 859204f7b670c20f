"""A part that cannot do its work is named by health, the verdict and doctor alike, made so for real."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django_rq.queues import get_queue
from rq.suspension import resume, suspend
from rq.worker import Worker

from dlq_app.services import figures as letter_figures
from dlq_app.store.figures import SNAPSHOTS
from dlq_app.testing import a_document
from dlqsite.health import report, store_checks
from dlqsite.health.findings import Finding, Status
from dlqsite.health.report import Doctor
from dlqsite.overview.verdict import verdict_of
from dlqsite.tests import scenes
from dlqsite.tests.patience import eventually
from management import doctor as doctoring
from messages_app.store import presence
from messages_app.store.lane_workers import MarkedWorker
from messages_app.store.ledger import ledger
from messages_app.store.presence import Register
from messages_app.store.series import EVERY_MS, Sample
from messages_app.tests.redis_states import State, demoted, full, without_replicas, without_snapshot

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db(transaction=True)]


@pytest.fixture(autouse=True)
def _afresh(redis_client: Any, mongo_db: Any) -> Iterator[None]:
    scenes.indexed()
    forget()
    yield
    forget()


def forget() -> None:
    scenes.forget()
    report.gatekeeper.cache_clear()


def check(name: str) -> Finding:
    """What a check finds, on a thread of its own as always: it closes that thread's connections."""
    return Doctor({name: report.CHECKS[name]}).look().checks[name]


@contextmanager
def changed(there: str, back: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute(there)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(back)


def headlines() -> list[str]:
    """What the overview says, the worst first."""
    forget()
    verdict = verdict_of(scenes.settle())
    return [verdict.worst.headline, *(trouble.headline for trouble in verdict.also)]


def failures(look: Callable[[], Iterator[doctoring.Finding]]) -> list[str]:
    return [found.detail for found in look() if found.status is doctoring.Status.FAIL]


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (full, "Redis is full: "),
        (demoted, "REDIS_URL leads to a replica, which takes no writes."),
        (without_snapshot, "The last snapshot of Redis failed."),
        (without_replicas, "Redis refuses writes: fewer replicas are connected"),
    ],
)
def test_a_redis_that_takes_no_writes_is_named_and_nobody_is_blamed(redis_client: Any, state: State, what: str) -> None:
    with state(redis_client):
        checks = report.doctor().look().checks
        ready, said = Client().get("/api/system/ready"), headlines()
        told, roles = failures(doctoring.check_redis), failures(doctoring.check_roles)

    assert checks["intake"].status is Status.UNHEALTHY
    assert checks["workers"].detail == "Not known: Redis rejects writes, so no process can report itself."
    assert (ready.status_code, ready.json()["data"]["status"]) == (503, "not_ready")
    assert said[0].startswith(what)
    assert not [line for line in said if "is alive" in line]
    assert [line for line in told if line.startswith(what)]
    assert roles == []

    forget()
    assert Client().get("/api/system/ready").status_code == 200


def test_paused_writes_are_told_from_a_server_that_is_away(redis_client: Any) -> None:
    doctor = Doctor({name: report.CHECKS[name] for name in ("redis", "intake", "workers")}, timeout_s=0.5)
    doctor.look()
    redis_client.client_pause(30_000, all=False)
    try:
        found = Doctor(doctor._checks, timeout_s=0.5).look()
    finally:
        redis_client.client_unpause()

    assert found.checks["redis"].status is Status.HEALTHY
    assert found.checks["intake"].detail.startswith("Redis answers but takes no writes: ")
    assert [problem.code for problem, _ in found.problems] == ["paused"]


def test_processes_get_time_to_report_themselves_again() -> None:
    intake, absent = Finding(Status.UNHEALTHY), Finding(Status.DEGRADED, "No message worker is alive.", {"alive": 0})
    doctor = Doctor({"intake": lambda: intake, "workers": lambda: absent})
    doctor.look()
    doctor._kept, intake = None, Finding(Status.HEALTHY)

    assert doctor.look().checks["workers"].detail.startswith("Not known yet: ")


def test_workers_that_are_suspended_are_not_healthy(redis_client: Any) -> None:
    scenes.processes("worker", "cron", "dlq_worker")
    suspend(redis_client, ttl=100)

    found = store_checks.check_workers()

    assert (found.status, found.facts) == (Status.UNHEALTHY, {"alive": 1})
    assert found.detail.endswith("no message is started. Run manage.py rqresume.")
    assert headlines()[0].startswith("Workers are suspended by rqsuspend for ")
    assert failures(doctoring.check_roles)[0].startswith("Workers are suspended")
    assert Client().get("/api/system/ready").status_code == 200

    resume(redis_client)
    assert store_checks.check_workers().status is Status.HEALTHY


@pytest.mark.filterwarnings("ignore:CLIENT SETNAME")  # RQ expects an address with a port
def test_a_foreign_worker_on_the_lanes_is_named() -> None:
    scenes.processes("worker", "cron", "dlq_worker")
    queue = get_queue("normal")
    ours: Any = MarkedWorker([queue], connection=queue.connection, name="ours")
    foreign: Any = Worker([queue], connection=queue.connection, name="rogue\x1b")
    ours.register_birth()
    assert store_checks.check_workers().status is Status.HEALTHY

    foreign.register_birth()
    found = store_checks.check_workers()
    foreign.register_death()

    assert found.status is Status.DEGRADED
    assert "so messages are late: rogue\\x1b (pid " in found.detail
    assert store_checks.check_workers().status is Status.HEALTHY


@contextmanager
def stepped_down(admin: Any) -> Iterator[None]:
    admin.command({"replSetStepDown": 60, "force": True, "secondaryCatchUpPeriodSecs": 0})
    try:
        yield
    finally:
        admin.command({"replSetFreeze": 0})
        eventually(lambda: admin.command("hello")["isWritablePrimary"], seconds=30)


@contextmanager
def locked(admin: Any) -> Iterator[None]:
    admin.command("fsync", lock=True)
    try:
        yield
    finally:
        admin.command("fsyncUnlock")


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (stepped_down, "MongoDB has no primary: it takes no writes."),
        (locked, "MongoDB is locked against writes (fsync)"),
    ],
)
def test_a_mongodb_that_takes_no_writes_is_named(mongo_db: Any, state: Any, what: str) -> None:
    with state(mongo_db.client.admin):
        found, said = store_checks.check_mongodb(), headlines()
        told = failures(doctoring.check_mongodb)
        ready = Client().get("/api/system/ready")

    assert found.status is Status.UNHEALTHY
    assert found.detail.startswith(what)
    assert [line for line in said if line.startswith(what)]
    assert not [line for line in said if line.startswith("MongoDB does not answer")]
    assert told[0].startswith(what)
    assert ready.status_code == 200
    eventually(lambda: store_checks.check_mongodb().status is Status.HEALTHY, seconds=20)


def test_a_replica_set_without_a_primary_is_not_called_away(settings: Any, mongo_db: Any) -> None:
    host = mongo_db.client.admin.command("hello")["me"]
    settings.MONGODB_URL = f"mongodb://{host.replace('/', '%2F')}/?replicaSet=rs0"
    with stepped_down(mongo_db.client.admin):
        assert [problem.code for problem in store_checks.check_mongodb().problems] == ["no_primary"]


def test_a_mongodb_that_is_away_is_said_to_be(settings: Any) -> None:
    with scenes.away(settings, "mongodb"):
        found = store_checks.check_mongodb()

    assert found.status is Status.UNHEALTHY
    assert found.detail.startswith("MongoDB does not answer. Start it, or correct MONGODB_URL.")


def test_figures_that_no_worker_renews_are_named(mongo_db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_figures, "MAX_INLINE_LETTERS", 0)
    mongo_db["dead_letters"].insert_one(a_document("m-1"))
    letter_figures.renew()
    assert store_checks.check_mongodb().status is Status.HEALTHY

    forget()
    mongo_db[SNAPSHOTS].update_one({}, [{"$set": {"asOf": {"$subtract": ["$asOf", 720_000]}}}])

    found = store_checks.check_mongodb()
    assert found.status is Status.DEGRADED
    assert found.detail.startswith("The figures of dead letters are 12 min old. Start a DLQ worker;")
    assert any(line.startswith("The figures of dead letters are 12 min old") for line in headlines())
    forget()


def test_a_missing_unique_index_is_named(mongo_db: Any) -> None:
    mongo_db["dead_letters"].drop_index("message_id")

    found = store_checks.check_mongodb()

    assert found.status is Status.DEGRADED
    assert found.detail.startswith("MongoDB is missing the unique index message_id: a message can get two letters.")
    assert verdict_of(scenes.settle()).worst.level == "bad"
    mongo_db.drop_collection("dead_letters")
    assert "other indexes are missing too. Run manage.py prepare." in store_checks.check_mongodb().detail
    scenes.indexed()
    assert store_checks.check_mongodb().status is Status.HEALTHY


def test_outcomes_that_mongodb_does_not_take_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    scenes.processes("worker", "cron", "dlq_worker")
    scenes.accept("a")
    scenes.fail("a", scenes.claim()["a"], None)
    assert report.check_queues().status is Status.HEALTHY
    monkeypatch.setattr(store_checks, "OUTBOX_S", -1.0)

    assert report.check_queues().detail.startswith("1 outcome waits for MongoDB, the oldest for ")
    assert headlines()[0].startswith("1 outcome waits for MongoDB")


def test_outcomes_that_wait_for_redis_are_not_blamed_on_mongodb(
    redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.accept("a")
    scenes.fail("a", scenes.claim()["a"], None)
    monkeypatch.setattr(store_checks, "OUTBOX_S", -1.0)
    with full(redis_client):
        queues, said = report.doctor().look().checks["queues"], headlines()
        told = [found.detail for found in doctoring.check_work() if found.name == "outbox"]

    assert queues.detail == "Outcomes wait: Redis rejects writes, so none can be noted as recorded."
    assert not [line for line in said if "waits for MongoDB" in line]
    assert told == ["outcomes wait (1): Redis rejects writes"]


@pytest.mark.parametrize(
    ("table", "status", "ready"),
    [("django_session", Status.DEGRADED, 200), ("dlqsite_apikey", Status.UNHEALTHY, 503)],
)
def test_missing_tables_are_named(table: str, status: Status, ready: int) -> None:
    with changed(f"ALTER TABLE {table} RENAME TO elsewhere", f"ALTER TABLE elsewhere RENAME TO {table}"):
        found = check("database")
        answer = Client().get("/api/system/ready").status_code
        told = failures(doctoring.check_database)

    assert (found.status, answer) == (status, ready)
    assert found.detail.startswith(f"Tables are missing in the database: {table}.")
    assert told[0].startswith("Tables are missing in the database")


def test_a_migration_that_is_not_applied_is_named() -> None:
    with changed(
        "UPDATE django_migrations SET name = name || '_' WHERE app = 'sessions'",
        "UPDATE django_migrations SET name = rtrim(name, '_') WHERE app = 'sessions'",
    ):
        found = check("database")

    assert found.detail.startswith("Tables are from an earlier version: migration sessions 0001_initial")
    assert check("database").status is Status.HEALTHY


def test_a_process_whose_clock_is_off_is_named(redis_client: Any) -> None:
    assert check("clocks").status is Status.HEALTHY
    register = Register(redis_client, wall=lambda: time.time() - 30)
    for _ in range(2):
        register.announce("worker-7", "worker", started_at_ms=1)

    found = check("clocks")
    assert found.status is Status.DEGRADED
    assert "worker-7" in found.detail
    assert "s behind" in found.detail
    assert {one["role"]: round(one["clockOffMs"] / 1000) for one in found.facts["processes"]} == {
        "worker": -30,
        "web": 0,
    }
    assert any("worker-7" in what for what in failures(doctoring.check_roles))


def test_memory_that_will_be_full_is_said_before_it_is(redis_client: Any) -> None:
    scenes.processes("worker", "dlq_worker", "cron")
    assert check("redis").status is Status.HEALTHY
    now_ms = ledger().now_ms()
    nothing = [0] * (len(Sample._fields) - 2)
    for at in range(61):  # ten minutes of a million a second: more than any host has memory for
        sample = Sample(now_ms - (60 - at) * EVERY_MS, at * 1_000_000 * EVERY_MS // 1000, *nothing)
        redis_client.rpush(f"{scenes.PREFIX}series:fine", ",".join(map(str, sample)))
    # The next sample counts on from here.
    redis_client.hset(f"{scenes.PREFIX}series", mapping={"accepted": sample.accepted, "slot": now_ms // EVERY_MS})
    forget()

    found = check("redis")
    assert found.status is Status.DEGRADED
    assert "1,000,000.0 messages/s for RECORD_TTL_S" in found.detail
    assert "lower RECORD_TTL_S" in found.detail
    assert any(line.startswith("Redis will run out of memory at the message rate") for line in headlines())
    assert report.can_accept()


def test_a_web_process_whose_clock_is_off_names_itself(redis_client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = Register(redis_client, wall=lambda: time.time() + 3600)
    monkeypatch.setattr(presence, "_register", lambda: ahead)

    found = check("clocks")
    assert found.status is Status.DEGRADED
    assert f"web-{socket.gethostname()}-{os.getpid()} on {socket.gethostname()} is 3" in found.detail
    assert "s ahead" in found.detail
