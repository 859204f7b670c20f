"""What operators run about dead letters, as they run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import redis
from django.conf import settings
from django.core.management import CommandError
from pymongo.database import Database

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.services import dead_letters, figures
from dlq_app.store import repository
from dlq_app.testing import MemoryIntake, a_death
from dlqsite.tests.patience import eventually
from management.tests.commands import run
from messages_app.store import presence
from messages_app.store.ledger import ledger

pytestmark = [pytest.mark.mongo, pytest.mark.django_db, pytest.mark.usefixtures("mongo_db")]


def test_retry_due_replays_what_is_due(intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(3)], [])

    assert json.loads(run("retry_due", "--json")) == {
        "due": 3,
        "replayed": 3,
        "postponed": 0,
        "left": 0,
        "released": 0,
    }
    assert run("retry_due").startswith("0 due")


def test_retry_due_looks_at_no_more_than_it_is_told(intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(3)], [])

    assert json.loads(run("retry_due", "--json", "--limit", "2"))["replayed"] == 2


def test_retry_due_renews_the_figures(intake: MemoryIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    dead_letters.record_outcomes([a_death()], [])
    run("retry_due")
    monkeypatch.setattr(figures, "MAX_INLINE_LETTERS", 0)
    dead_letters.record_outcomes([a_death("m-2")], [])

    assert dead_letters.stats()["total"] == 1, "from the snapshot"


def test_retry_due_exits_1_when_a_store_is_away(intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death()], [])
    intake.fail["before_now_ms"] = StoreUnavailable("intake is away")

    with pytest.raises(CommandError) as caught:
        run("retry_due")

    assert caught.value.returncode == 1
    assert "intake is away" in str(caught.value)


def test_show_dead_letter_prints_it_whole_without_its_secrets(intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(body=b'{"orderId": 1, "token": "tok_123"}')], [])

    shown = run("show_dead_letter", "m-1")

    assert json.loads(shown)["payload"]["orderId"] == 1
    assert "tok_123" not in shown
    assert run("show_dead_letter", "m-1", "--why").startswith("TIMEOUT_ERROR is transient; 4 of 4 attempts failed")
    with pytest.raises(CommandError, match="no dead letter nobody"):
        run("show_dead_letter", "nobody")


def test_dlq_stats_prints_figures(intake: MemoryIntake) -> None:
    dead_letters.record_outcomes(
        [a_death("m-1"), a_death("m-2", error_kind="permanent", error_type="VALIDATION_ERROR")], []
    )

    assert json.loads(run("dlq_stats", "--json"))["byStatus"]["dlq_manual"] == 1
    shown = run("dlq_stats")
    assert "2 dead letters, 2 open" in shown
    assert "1  VALIDATION_ERROR" in shown
    assert "24 hours: 2 in " in shown
    assert "open by group, 2 in all" in shown
    assert "payments-api did not answer within # s" in shown


@pytest.mark.redis
@pytest.mark.journey
def test_the_dlq_worker_replays_says_that_it_lives_and_ends_on_sigterm(
    redis_client: redis.Redis, mongo_db: Database[dict[str, Any]]
) -> None:
    dead_letters.record_outcomes([a_death(type="demo", body=b"{}")], [])
    process = subprocess.Popen(
        [sys.executable, str(settings.BASE_DIR / "manage.py"), "run_dlq_worker"],
        env={**os.environ, "DEBUG": "1"},
        stderr=subprocess.PIPE,
    )
    try:

        def has_begun() -> bool:
            assert process.poll() is None
            return ledger().get("m-1") is not None and bool(presence.present("dlq_worker"))

        eventually(has_begun, seconds=60)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0, log.decode()
    record, letter = ledger().get("m-1"), repository.letters().find("m-1")
    assert record is not None
    assert letter is not None
    assert (record.epoch, record.state, record.max_retries) == (letter.fence, "queued", 0)
    assert letter.status == "dlq_processing"
    assert presence.present("dlq_worker") == [], "it said good-bye"
