"""Health tells how every part is, tells strangers no more than the word, and never waits for what hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from dlqsite.health import report
from dlqsite.health.findings import Finding, Status
from dlqsite.health.report import Doctor, overall
from dlqsite.tests import scenes
from dlqsite.tests.people import member, signed_in, with_key
from dlqsite.version import read_version
from messages_app.domain.errors import StoreUnavailable
from messages_app.store import presence

HEALTHY = Finding(Status.HEALTHY)
DOWN = Finding(Status.UNHEALTHY)


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    scenes.forget()
    report.gatekeeper.cache_clear()
    yield
    scenes.forget()
    report.gatekeeper.cache_clear()


@pytest.mark.parametrize(
    ("down", "status"),
    [
        ((), Status.HEALTHY),
        (("redis",), Status.UNHEALTHY),
        (("database",), Status.UNHEALTHY),
        (("mongodb",), Status.DEGRADED),
        (("workers", "scheduler", "dlqWorker", "queues", "breakers"), Status.DEGRADED),
    ],
)
def test_only_without_redis_or_the_database_it_is_unhealthy(down: tuple[str, ...], status: Status) -> None:
    assert overall({name: DOWN if name in down else HEALTHY for name in report.CHECKS}) is status


def test_what_hangs_is_down_and_holds_up_nothing_else() -> None:
    release = threading.Event()

    def hang() -> Finding:
        release.wait(30)
        return HEALTHY

    try:
        found = Doctor({"redis": hang, "database": lambda: HEALTHY}, timeout_s=0.5).look()
    finally:
        release.set()

    assert found.status is Status.UNHEALTHY
    assert found.checks["redis"].detail == "No answer within 0.5 s."
    assert found.checks["database"].status is Status.HEALTHY


def test_a_store_that_is_away_is_told_by_its_kind_only() -> None:
    def away() -> Finding:
        raise StoreUnavailable("redis://:secret@10.0.0.1 refused")

    found = Doctor({"redis": away, "database": lambda: HEALTHY}).look().checks["redis"]

    assert found.status is Status.UNHEALTHY
    assert found.detail == "No answer (StoreUnavailable)."


def test_many_askers_cost_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "KEEP_S", 60.0)  # on a busy machine some come late
    rounds: list[int] = []

    def slow() -> Finding:
        rounds.append(1)
        time.sleep(0.02)
        return HEALTHY

    doctor = Doctor({"redis": slow, "database": lambda: HEALTHY})
    threads = [threading.Thread(target=doctor.look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(rounds) == 1


@pytest.mark.redis
@pytest.mark.mongo
@pytest.mark.django_db(transaction=True)
class TestTheEndpoints:
    @pytest.fixture(autouse=True)
    def _stores(self, redis_client: Any, mongo_db: Any) -> None:
        """Real ones, empty."""
        scenes.indexed()

    def test_live_depends_on_nothing(self, django_assert_num_queries: Any) -> None:
        with django_assert_num_queries(0):
            answer = Client().get("/api/system/live")
        assert (answer.status_code, answer.json()) == (200, {"data": {"status": "alive"}})

    def test_ready_when_redis_and_the_database_answer(self) -> None:
        assert Client().get("/api/system/ready").json() == {"data": {"status": "ready"}}

    def test_strangers_see_the_word_alone(self) -> None:
        answer = Client().get("/api/system/health")

        assert answer.status_code == 200
        assert answer.json() == {"data": {"status": "degraded"}}

    def test_who_may_read_sees_every_part(self) -> None:
        presence.announce("w-1", "worker", started_at_ms=1)

        data = with_key("read").get("/api/system/health").json()["data"]

        assert list(data["checks"]) == [
            "redis", "intake", "mongodb", "database", "disk", "workers", "scheduler", "dlqWorker", "queues", "breakers",
            "accounting", "losses", "letters", "clocks", "notifications",
        ]  # fmt: skip
        assert {name: check["status"] for name, check in data["checks"].items()} == {
            "redis": "healthy", "intake": "healthy", "mongodb": "healthy", "database": "healthy", "disk": "healthy",
            "workers": "healthy", "scheduler": "degraded", "dlqWorker": "degraded", "queues": "healthy",
            "breakers": "healthy", "accounting": "healthy", "losses": "healthy", "letters": "healthy",
            "clocks": "healthy", "notifications": "healthy",
        }  # fmt: skip
        assert data["checks"]["workers"]["alive"] == 1
        assert data["checks"]["redis"]["latencyMs"] > 0
        assert data["uptimeSeconds"] >= 0
        assert data["version"]

    def test_staff_see_every_part_and_a_key_without_read_does_not(self) -> None:
        assert "checks" in signed_in(member("viewer")).get("/api/system/health").json()["data"]
        assert "checks" not in with_key("submit").get("/api/system/health").json()["data"]

    def test_everything_alive_is_healthy(self) -> None:
        for role in ("worker", "cron", "dlq_worker"):
            presence.announce(role, role, started_at_ms=1)

        assert Client().get("/api/system/health").json() == {"data": {"status": "healthy"}}

    def test_a_count_below_zero_is_alarmed_although_the_row_adds_up(self, redis_client: Any) -> None:
        redis_client.hset("dlq:acct:20991231:demo", mapping={"done": 50, "dead": -50})
        redis_client.sadd("dlq:acct:index", "20991231:demo")

        found = report.check_accounting()

        assert (found.status, found.facts) == (Status.DEGRADED, {"differences": 1, "messages": 50})

    def test_without_redis_it_is_unhealthy_and_not_ready(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def away() -> Finding:
            raise StoreUnavailable

        monkeypatch.setattr(report, "CHECKS", {**report.CHECKS, "redis": away})

        answers = [Client().get(f"/api/system/{path}") for path in ("health", "ready")]

        assert [answer.status_code for answer in answers] == [503, 503]
        assert [answer.json()["data"]["status"] for answer in answers] == ["unhealthy", "not_ready"]


def test_the_version_is_the_newest_heading(tmp_path: Any) -> None:
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## v1.4.0 - 2026-12-01\n\n## v1.3.9\n", encoding="utf-8")

    assert read_version(changelog) == "1.4.0"
    assert read_version(tmp_path / "none") == "0.0.0"
