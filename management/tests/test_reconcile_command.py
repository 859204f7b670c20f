"""``manage.py reconcile``: what it prints, what its exit code says, and that repairs are in the audit log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError

from audit_app.models import AuditLine
from dlq_app.domain.differences import KINDS
from management.tests.commands import run
from messages_app.store.ledger import ledger
from messages_app.tests.test_reconciliation import bury

pytestmark = [pytest.mark.redis, pytest.mark.mongo, pytest.mark.django_db]


@pytest.fixture(autouse=True)
def _message(redis_client: Any, mongo_db: Any) -> None:
    bury(ledger(), "m")


def test_it_says_that_all_agree() -> None:
    told = run("reconcile")

    assert told.splitlines()[-2:] == ["Under way: nothing.", "No differences."]
    assert json.loads(run("reconcile", "--json", "--since", "1h"))["agree"] is True


def test_it_explains_differences_and_repairs_them(
    redis_client: Any, mongo_db: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    mongo_db.dead_letters.delete_many({})
    redis_client.delete("dlq:body:other")
    redis_client.hset("dlq:msg:odd", mapping={"state": "lost\x1b[2J"})

    with pytest.raises(SystemExit) as left:
        run("reconcile", "--json")
    assert left.value.code == 2

    with pytest.raises(SystemExit) as left:
        run("reconcile", "--fix")
    assert left.value.code == 2
    line = AuditLine.objects.get()
    assert (line.what, line.why, line.count) == ("reconcile", "death_without_letter 1", 1)

    redis_client.delete("dlq:msg:odd")
    assert json.loads(run("reconcile", "--fix", "--json"))["differences"] == []


def test_a_time_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(CommandError, match="--since"):
        run("reconcile", "--since", "yesterday")


def test_the_page_on_operations_explains_every_kind() -> None:
    page = (Path(settings.BASE_DIR) / "docs/operations.md").read_text()

    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (yes|no): (.*) \|$", page, re.MULTILINE)

    assert rows == [(one.name, one.meaning, "yes" if one.is_repairable else "no", one.fix) for one in KINDS.values()]
