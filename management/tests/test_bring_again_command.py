"""``manage.py bring_again``: records letters that MongoDB lacks again; the exit code says whether some are left."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import CommandError

from dlqsite.health import findings, report
from management.doctor import Status, check_letters
from management.tests.commands import run
from messages_app.store.ledger import ledger
from messages_app.tests.test_reconciliation import bury, statuses
from messages_app.work import reconciliation

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _letters(redis_client: Any, mongo_db: Any) -> None:
    for name in ("a", "b", "c"):
        bury(ledger(), name)


def test_a_dry_run_counts_and_changes_nothing(mongo_db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    mongo_db.dead_letters.delete_many({"messageId": {"$in": ["a", "b"]}})

    with pytest.raises(SystemExit) as left:
        run("bring_again", "--since", "1h", "--dry-run")

    assert left.value.code == 2
    assert set(statuses(mongo_db)) == {"c"}


def test_it_brings_what_is_missing_and_can_be_repeated(mongo_db: Any) -> None:
    mongo_db.dead_letters.delete_many({"messageId": {"$in": ["a", "b"]}})
    reconciliation.check()
    assert report.check_letters().status is findings.Status.DEGRADED
    assert "bring_again --since 20" in report.check_letters().detail
    assert [told.status for told in check_letters()] == [Status.FAIL]

    first = json.loads(run("bring_again", "--since", "1h", "--json"))
    second = run("bring_again", "--since", "1h", "--yes")

    assert first == {
        "compared": 3, "missing": 2, "broughtAgain": 2, "stillMissing": 0, "dryRun": False, "examples": ["a", "b"],
    }  # fmt: skip
    assert second == "3 outcomes compared, 0 recorded again, 0 still missing.\n"
    assert set(statuses(mongo_db)) == {"a", "b", "c"}
    assert report.check_letters() == findings.Finding(findings.Status.HEALTHY, "", {"lacking": 0})
    assert [told.status for told in check_letters()] == [Status.OK]


@pytest.mark.parametrize("since", ["yesterday", "2026-11-24T03:12:00", "0x", "-1h"])
def test_a_time_that_cannot_be_read_is_refused(since: str) -> None:
    with pytest.raises(CommandError, match="--since"):
        run("bring_again", f"--since={since}", "--yes")


def test_a_time_before_what_redis_remembers_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    told = run("bring_again", "--since", "2026-01-01T00:00:00Z", "--yes")

    assert "3 outcomes compared" in told
