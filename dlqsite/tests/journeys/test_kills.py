"""Nothing accepted is lost: one process after the other is killed in the middle of hundreds of messages."""

from __future__ import annotations

import os
import signal
import threading
from datetime import UTC, datetime

import pytest

from dlqsite.tests.journeys.rig import Rig
from dlqsite.tests.patience import eventually

MESSAGES = 400

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]


def payload_of(number: int) -> dict[str, object]:
    """Every tenth message is dead at once; each takes a few milliseconds, so that a kill finds work under way."""
    if number % 10 == 0:
        return {"simulateError": True, "errorType": "VALIDATION_ERROR"}
    return {"delayMs": 20}


@pytest.mark.parametrize("role", ["web", "worker", "mongod", "redis", "dlq_worker"])
def test_a_killed_process_loses_nothing(rig: Rig, role: str) -> None:
    ids = [f"{role}-{number}" for number in range(MESSAGES)]
    half = threading.Event()

    def submit(part: int) -> None:
        for number in range(part, MESSAGES, 4):
            rig.submit_surely(payload_of(number), ids[number])
            if number > MESSAGES * 4 // 10:
                half.set()

    threads = [threading.Thread(target=submit, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    assert half.wait(60)
    long = rig.submit({"delayMs": 6000}, priority="high") if role == "worker" else ""
    if long:
        rig.until(long, "running")
    old, killed = rig.kill(role), datetime.now(UTC)
    for thread in threads:
        thread.join()

    ended = {"done": MESSAGES * 9 // 10, "dead": MESSAGES // 10}
    eventually(lambda: rig.statuses(ids) == ended, seconds=75, every=1, what="all ended")
    eventually(lambda: rig.is_replaced(role, old), seconds=30, what=f"another {role}")
    for number in range(0, MESSAGES, MESSAGES // 10):
        letter = rig.letter(ids[number])
        assert letter["errorType"] == "VALIDATION_ERROR"
        assert letter["messageId"] == ids[number]
    if long:
        ran_again_within_forty_seconds(rig, long, killed)


def ran_again_within_forty_seconds(rig: Rig, message_id: str, killed: datetime) -> None:
    message = rig.until(message_id, "done", seconds=75)
    again = datetime.fromisoformat(message["attempts"][-1]["startedAt"])
    assert (again - killed).total_seconds() < 40
    assert [attempt["outcome"] for attempt in message["attempts"]] == ["lost", "succeeded"]
    assert message["retryCount"] == 0


def test_dying_messages_wait_for_mongodb_and_drain_by_themselves(rig: Rig) -> None:
    mongod = rig.pid("mongod")
    os.kill(mongod, signal.SIGSTOP)
    try:
        dying = [rig.submit({"simulateError": True, "errorType": "VALIDATION_ERROR"}) for _ in range(20)]
        good = [rig.submit({"n": number}) for number in range(50)]
        eventually(lambda: rig.statuses(good) == {"done": 50}, seconds=20, what="processing goes on")
        eventually(lambda: rig.statuses(dying) == {"dead_pending": 20}, seconds=20, what="deaths wait visibly")
        health = eventually(
            lambda: (seen := rig.get("/api/system/health")).data["status"] == "degraded" and seen, seconds=15
        )  # fmt: skip
        assert health.status == 200
    finally:
        os.kill(mongod, signal.SIGCONT)

    eventually(lambda: rig.statuses(dying) == {"dead": 20}, seconds=60, every=0.5, what="drained")
    assert all(rig.letter(message_id)["status"] == "dlq_manual" for message_id in dying)


def test_a_stop_hands_work_back_unspent(rig: Rig) -> None:
    message_id = rig.submit({"delayMs": 8000})
    rig.until(message_id, "running")

    old = rig.kill("worker", signal.SIGTERM)

    eventually(lambda: rig.is_replaced("worker", old), seconds=25, what="a new worker")
    message = rig.until(message_id, "done", seconds=60)
    assert message["retryCount"] == 0
    assert "lost" not in [attempt["outcome"] for attempt in message["attempts"]]
