"""A batch of many letters, while the processes that carry it out are killed: every letter is replayed once."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from pymongo import MongoClient

from dlq_app.testing import a_death, a_document
from dlqsite.tests.journeys.rig import Rig
from dlqsite.tests.patience import eventually

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]

LETTERS = 1500
#: How often a process is killed; what is left then has to end by itself.
KILLS = 4


def letters_of(rig: Rig) -> Any:
    connection = rig.connection
    return MongoClient(connection["mongodbUrl"])[connection["database"]]["dead_letters"]


def load(rig: Rig, count: int, prefix: str) -> None:
    """Letters of messages that intake has long forgotten; every tenth fails once more."""
    died_at = datetime.now(UTC) - timedelta(days=2)
    documents = []
    for number in range(count):
        body = b'{"simulateError": true, "errorType": "VALIDATION_ERROR"}' if number % 10 == 0 else b'{"n": 1}'
        death = a_death(f"{prefix}-{number}", type="demo", body=body, attempts=[], died_at=died_at)
        documents.append(a_document(death=death, status="dlq_manual", nextRetryAt=None))
    letters_of(rig).insert_many(documents)


def start(rig: Rig, **order: Any) -> str:
    answer = rig.call("POST", "/api/dlq/replay-batch", {"filter": {"search": order.pop("search")}, **order})
    assert answer.status == 202, answer.raw
    return str(answer.data["batchId"])


def batch_of(rig: Rig, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = rig.get(f"/api/dlq/replay-batches/{batch_id}").data
    return found


def test_killed_again_and_again_it_replays_every_letter_once(rig: Rig) -> None:
    load(rig, LETTERS, "kill")
    batch_id = start(rig, search="kill-", reason="the bank is back", ratePerSecond=100)
    eventually(lambda: batch_of(rig, batch_id)["counts"]["sent"] > 0, seconds=30, what="it has begun")
    for role in ("dlq_worker", "worker") * (KILLS // 2):
        time.sleep(1.5)
        old = rig.kill(role)
        eventually(partial(rig.is_replaced, role, old), seconds=30, what=f"another {role}")

    done = eventually(lambda: _over(rig, batch_id), seconds=90, every=0.5, what="the batch is over")

    assert done["stage"] == "finished"
    counts = done["counts"]
    assert (counts["sent"], counts["skipped"], counts["remaining"]) == (LETTERS, 0, 0)
    assert (counts["succeeded"], counts["failed"]) == (LETTERS * 9 // 10, LETTERS // 10)
    for letter in letters_of(rig).find({"messageId": {"$regex": "^kill-"}}):
        mine = [one for one in letter["replayAttempts"] if one["batchId"] == batch_id]
        assert len(mine) == 1, "one replay of a letter in one batch"
        # A run that a killed worker took with it is listed as lost and runs again; an outcome is recorded once.
        ends = [one["outcome"] for one in letter["attempts"] if one["epoch"] == mine[0]["epoch"]]
        assert ends.count("succeeded") + ends.count("failed") == 1
        failed = letter["originalMessage"].startswith('{"simulate')
        assert (mine[0]["outcome"] in ("failed_same", "failed_new")) == failed
        assert letter["status"] == ("dlq_manual" if failed else "dlq_resolved")


def test_the_rate_of_a_batch_is_kept(rig: Rig) -> None:
    load(rig, 120, "rate")
    begun = time.monotonic()
    batch_id = start(rig, search="rate-", ratePerSecond=40)
    eventually(lambda: batch_of(rig, batch_id)["counts"]["sent"] >= 40, seconds=30)

    done = eventually(lambda: _over(rig, batch_id), seconds=60, every=0.2, what="the batch is over")

    assert time.monotonic() - begun >= 2.4, "120 letters at 40 a second"
    assert done["counts"]["sent"] == 120


def _over(rig: Rig, batch_id: str) -> dict[str, Any]:
    """The batch once its last letter has its outcome; until then nothing."""
    found = batch_of(rig, batch_id)
    return found if found["finishedAt"] else {}
