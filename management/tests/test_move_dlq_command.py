"""``move_dlq``: operators' moves of many letters, and their undoing, from a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.management import CommandError
from pymongo.database import Database

from audit_app.models import AuditLine
from dlq_app.services import bulk, dead_letters
from dlq_app.testing import a_death
from management.tests.commands import run
from messages_app.store.ledger import ledger
from messages_app.tests.test_reconciliation import bury

pytestmark = [
    pytest.mark.mongo,
    pytest.mark.redis,
    pytest.mark.django_db,
    pytest.mark.usefixtures("redis_client", "mongo_db", "intake"),
]
WHY = ("--reason", "the bank is back")


def die(*ids: str, **changes: Any) -> None:
    dead_letters.record_outcomes([a_death(message_id, **changes) for message_id in ids], [])


def statuses(mongo_db: Database[dict[str, Any]]) -> set[str]:
    return {row["status"] for row in mongo_db.dead_letters.find()}


def test_letters_are_moved_and_the_move_is_undone(mongo_db: Database[dict[str, Any]]) -> None:
    die("m-1", "m-2")

    first = run("move_dlq", "discard", "--error-type", "TIMEOUT_ERROR", "--yes", *WHY)
    assert (first.strip(), statuses(mongo_db)) == ("2 dead letters discarded.", {"dlq_resolved"})
    run("move_dlq", "reopen", "--yes", *WHY, "--", "m-1", "m-2")
    assert statuses(mongo_db) == {"dlq_manual"}
    run("move_dlq", "resume", "--all", "--yes", *WHY)
    assert statuses(mongo_db) == {"dlq_pending"}

    lines = AuditLine.objects.order_by("pk")
    assert [(line.what, line.count, line.why) for line in lines] == [
        ("discarded 2", 2, WHY[1]),
        ("reopened 2", 2, WHY[1]),
        ("resumed 2", 2, WHY[1]),
    ]
    assert all(line.who.startswith("cli") for line in lines)
    assert lines[0].name == "2 dead letters: errorType=TIMEOUT_ERROR"


def test_letters_that_were_moved_and_back_agree_with_the_ledger(mongo_db: Database[dict[str, Any]]) -> None:
    bury(ledger(), "m")
    for move in ("resolve", "reopen", "discard", "reopen"):
        run("move_dlq", move, "--all", "--yes", *WHY)
        assert json.loads(run("reconcile", "--json"))["agree"] is True

    assert dead_letters.stats()["open"] == 1


def test_a_dry_run_changes_nothing(mongo_db: Database[dict[str, Any]]) -> None:
    die("m-1")

    assert run("move_dlq", "resolve", "--all", "--dry-run").strip() == "1 dead letter would be resolved."
    assert json.loads(run("move_dlq", "resolve", "--all", "--dry-run", "--json")) == {
        "move": "resolve",
        "count": 0,
        "asked": 1,
        "leftOut": 0,
        "dryRun": True,
    }
    assert statuses(mongo_db) == {"dlq_pending"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("resolve", "--yes", *WHY), "--all"),
        (("resolve", "--all", "--yes"), "--reason"),
        (("resolve", "--all", *WHY), "use --yes"),
        (("resolve", "--all", "--yes", *WHY, "--", "m-1"), "ids or a filter"),
        (("resolve", "--status", "dead", "--yes", *WHY), "--status"),
    ],
)
def test_wrong_arguments_are_named(mongo_db: Database[dict[str, Any]], arguments: tuple[str, ...], why: str) -> None:
    die("m-1")

    with pytest.raises(CommandError, match=why):
        run("move_dlq", *arguments)

    assert statuses(mongo_db) == {"dlq_pending"}


def test_too_many_letters_are_not_moved(mongo_db: Database[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "MAX_LETTERS", 1)
    die("m-1", "m-2")

    with pytest.raises(CommandError, match="More than 1 dead letter match"):
        run("move_dlq", "discard", "--all", "--yes", *WHY)

    assert statuses(mongo_db) == {"dlq_pending"}
