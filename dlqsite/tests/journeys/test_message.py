"""A message's whole path, from outside: accepted, processed, retried, dead, replayed, resolved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from dlqsite.tests.journeys.rig import Rig
from dlqsite.tests.patience import eventually

pytestmark = [pytest.mark.journey, pytest.mark.redis, pytest.mark.mongo, pytest.mark.timeout(300)]


def seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


def test_a_good_message_is_done_and_read_back_unchanged(rig: Rig) -> None:
    payload = {
        "order": 7,
        "price": 1.10,
        "note": "žluťoučký \U0001f40e",
        "nested": [[], {}, None, True, 9223372036854775807],
    }

    message_id = rig.submit(payload, source="shop", tags=["a", "b"], priority="high")

    message = rig.until(message_id, "done")
    assert message["payload"] == payload
    assert (message["source"], message["tags"], message["priority"]) == ("shop", ["a", "b"], "high")
    assert [attempt["outcome"] for attempt in message["attempts"]] == ["succeeded"]
    assert message["finishedAt"]


@pytest.fixture(scope="module")
def failing(rig: Rig) -> dict[str, str]:
    """The ids of messages that fail, by error type: all at once, since each waits for its retries."""
    kinds = ("TIMEOUT_ERROR", "VALIDATION_ERROR", "SOMETHING_NOBODY_KNOWS")
    return {kind: rig.submit({"simulateError": True, "errorType": kind}) for kind in kinds}


def test_a_transient_error_is_retried_with_growing_waits_then_dead(rig: Rig, failing: dict[str, str]) -> None:
    message_id = failing["TIMEOUT_ERROR"]
    message = rig.until(message_id, "dead", seconds=30)

    attempts = message["attempts"]
    assert [attempt["errorType"] for attempt in attempts] == ["TIMEOUT_ERROR"] * 4
    waits = [seconds_between(before["endedAt"], after["startedAt"]) for before, after in pairwise(attempts)]
    delays = [attempt["retryDelayMs"] / 1000 for attempt in attempts[:3]]
    for nominal, delay, wait in zip((1, 2, 4), delays, waits, strict=True):
        assert nominal * 0.8 <= delay <= nominal * 1.2
        assert wait >= delay - 0.002, "a retry started early"
    # One of them may meet a moment in which the machine is busy; all three are late only when what moves them is.
    assert min(wait - delay for delay, wait in zip(delays, waits, strict=True)) <= 0.25, waits
    letter = rig.letter(message_id)
    assert letter["status"] == "dlq_pending"
    assert len(letter["attempts"]) == 4
    assert "TIMEOUT_ERROR" in letter["explanation"]


@pytest.mark.parametrize(
    ("error_type", "runs", "status"),
    [("VALIDATION_ERROR", 1, "dlq_manual"), ("SOMETHING_NOBODY_KNOWS", 4, "dlq_manual")],
)
def test_other_errors_end_as_their_kind_says(
    rig: Rig, failing: dict[str, str], error_type: str, runs: int, status: str
) -> None:  # fmt: skip
    message_id = failing[error_type]
    message = rig.until(message_id, "dead", seconds=30)

    assert len(message["attempts"]) == runs
    assert rig.letter(message_id)["status"] == status


def test_a_message_that_fails_twice_is_done_at_the_third_attempt(rig: Rig) -> None:
    message_id = rig.submit({"failTimes": 2})

    message = rig.until(message_id, "done", seconds=20)

    assert [attempt["outcome"] for attempt in message["attempts"]] == ["failed", "failed", "succeeded"]
    assert rig.get(f"/api/dlq/{message_id}").status == 404


def test_a_scheduled_message_does_not_start_before_its_time(rig: Rig) -> None:
    not_before = datetime.now().astimezone() + timedelta(seconds=2)

    message_id = rig.submit({"x": 1}, notBefore=not_before.isoformat())

    assert rig.status(message_id) == "scheduled"
    message = rig.until(message_id, "done", seconds=15)
    late = (datetime.fromisoformat(message["attempts"][0]["startedAt"]) - not_before).total_seconds()
    assert 0 <= late <= 1


def test_fifty_simultaneous_submits_of_one_id_make_one_run(rig: Rig) -> None:
    def submit(_: int) -> int:
        return rig.post("/api/messages", {"messageId": "fifty-at-once", "payload": {"delayMs": 200}}).status

    with ThreadPoolExecutor(50) as pool:
        codes = sorted(pool.map(submit, range(50)))

    assert codes == [200] * 49 + [202]
    assert len(rig.until("fifty-at-once", "done")["attempts"]) == 1


def test_a_letter_is_replayed_and_found_resolved(rig: Rig) -> None:
    message_id = rig.submit({"failTimes": 1, "errorType": "VALIDATION_ERROR"})
    rig.until(message_id, "dead", seconds=30)

    reply = rig.post(f"/api/dlq/{message_id}/replay", {"reason": "the supplier is back"})

    assert reply.status == 202, reply.raw
    assert reply.data["messageId"] == message_id
    letter = resolved(rig, message_id)
    assert letter["resolution"] == "replayed"
    assert [replay["outcome"] for replay in letter["replayAttempts"]] == ["succeeded"]
    assert rig.post(f"/api/dlq/{message_id}/replay").status == 409


def resolved(rig: Rig, message_id: str) -> dict[str, Any]:
    """The letter once it is resolved."""
    eventually(lambda: rig.letter(message_id)["status"] == "dlq_resolved", seconds=10, what="resolved")
    return rig.letter(message_id)


def test_two_simultaneous_replays_of_one_letter_make_one(rig: Rig) -> None:
    message_id = rig.submit({"simulateError": True, "errorType": "VALIDATION_ERROR"})
    rig.until(message_id, "dead")

    with ThreadPoolExecutor(8) as pool:
        codes = sorted(pool.map(lambda _: rig.post(f"/api/dlq/{message_id}/replay").status, range(8)))

    letter = eventually(
        lambda: (found := rig.letter(message_id))["status"] != "dlq_processing" and found, seconds=10, what="settled"
    )
    assert len(letter["replayAttempts"]) == codes.count(202) >= 1
    assert set(codes) <= {202, 409}


def test_an_edited_replay_runs_the_edited_version_and_keeps_the_original(rig: Rig) -> None:
    message_id = rig.submit({"simulateError": True, "errorType": "VALIDATION_ERROR", "amount": -1})
    rig.until(message_id, "dead")

    reply = rig.post(f"/api/dlq/{message_id}/replay", {"payload": {"amount": 1}, "reason": "amount was negative"})

    assert reply.status == 202, reply.raw
    letter = resolved(rig, message_id)
    assert letter["payload"]["amount"] == -1
    assert len(letter["versions"]) == 1


def test_a_batch_of_a_thousand_is_done(rig: Rig) -> None:
    messages = [{"messageId": f"batch-{number}", "payload": {"n": number}} for number in range(1000)]
    # The failures of the tests before can have opened it.
    assert rig.post("/api/breakers/demo/reset", {"reason": "a batch of good messages"}).status == 200

    reply = rig.post("/api/messages/batch", {"messages": messages})

    assert reply.status == 202
    assert [result["status"] for result in reply.data["results"]] == ["accepted"] * 1000
    eventually(lambda: rig.statuses(f"batch-{number}" for number in (0, 499, 999)) == {"done": 3}, seconds=20)
    assert rig.statuses(f"batch-{number}" for number in range(1000)) == {"done": 1000}
