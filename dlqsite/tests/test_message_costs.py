"""What a message costs the stores on each way, counted: the numbers may fall, not rise.

Counted for many messages at once, as a busy system treats them; a single submission has a test of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from dlqsite.tests.patience import eventually
from messages_app.attempt import report
from messages_app.domain.records import Claimed, Completed, Failed, RateLimit, Verdict
from messages_app.failures import ErrorKind, Failure
from messages_app.store.ledger import ledger
from messages_app.tests.handling import an_acceptance
from messages_app.tests.ledgers import token
from messages_app.work.draining import drain, record_outcomes
from messages_app.work.ended import Ended
from messages_app.work.letter_writer import LetterWriter

pytestmark = [pytest.mark.redis]

MESSAGES = 100
#: About 300 bytes, the message of the benchmark.
PAYLOAD = {"orderId": "ord-000123456", "items": [{"sku": "AB-1", "qty": 2, "price": 19.9}] * 6, "currency": "EUR"}
LIMIT = RateLimit(client="key:test", limit=1_000_000)
FAILURE = Failure("VALIDATION_ERROR", ErrorKind.PERMANENT, "the order has no customer", "a stack")


def submit(count: int, first: int = 0) -> None:
    requests = [(an_acceptance(PAYLOAD, message_id=f"m-{n:04}"), LIMIT) for n in range(first, first + count)]
    answers: Sequence[Any] = ledger().accept_group(requests)
    assert [answer.status for answer in answers] == ["accepted"] * count


def claim() -> Sequence[Claimed]:
    return ledger().claim(token=token(), limit=MESSAGES, owner="w", holding=0).records


def complete(claimed: Sequence[Claimed]) -> None:
    outcomes = [
        Completed(
            message_id=one.message_id,
            fence=one.fence,
            result="null",
            attempt_json=report.succeeded(one.attempt + 1, one.claimed_at_ms, one.claimed_at_ms + 5, "w"),
        )
        for one in claimed
    ]
    assert set(ledger().flush(outcomes)) == {Verdict.APPLIED}


def fail(claimed: Sequence[Claimed]) -> list[Ended]:
    outcomes = [
        Failed(
            message_id=one.message_id,
            fence=one.fence,
            delay_ms=None,
            error=report.last_error(FAILURE, one.claimed_at_ms + 5, "w", '{"host":"h","cpu":1.5}'),
            attempt_json=report.failed(one.attempt + 1, one.claimed_at_ms, one.claimed_at_ms + 5, "w", FAILURE, None),
            claimed=one,
        )
        for one in claimed
    ]
    answers = ledger().flush_for_letters(outcomes)
    return [
        Ended(one, outcome, answer, time.monotonic())
        for one, outcome, answer in zip(claimed, outcomes, answers, strict=True)
    ]


class Costs:
    """Commands of Redis since the beginning, those of scripts included, and bytes in its append-only file."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client
        self._begun = self._read()

    def of_each(self, count: int = MESSAGES) -> tuple[float, float]:
        commands, written = self._read()
        return (commands - self._begun[0]) / count, (written - self._begun[1]) / count

    def _read(self) -> tuple[int, int]:
        commands = self._client.info("commandstats")
        written = self._client.info("persistence")["aof_current_size"]
        return sum(one["calls"] for name, one in commands.items() if name != "cmdstat_info"), written


def documents(database: Any) -> dict[str, int]:
    """Documents that MongoDB inserted and changed so far, and commands that read or write documents."""
    metrics = database.client.admin.command("serverStatus")["metrics"]
    commands = ("insert", "update", "delete", "findAndModify", "find", "aggregate", "count")
    return {
        "inserted": metrics["document"]["inserted"],
        "updated": metrics["document"]["updated"],
        "commands": sum(metrics["commands"][name]["total"] for name in commands),
    }


@pytest.fixture
def costs(redis_client: redis.Redis) -> Iterator[Callable[[], Costs]]:
    client: Any = redis_client
    before = client.config_get("appendonly")["appendonly"]

    def is_written() -> bool:
        found = client.info("persistence")
        return bool(found["aof_enabled"] and not found["aof_rewrite_in_progress"] and "aof_current_size" in found)

    client.config_set("appendonly", "yes")
    eventually(is_written, what="an append-only file")
    # Scripts are sent once, and this worker's tables are written.
    submit(1, first=9000)
    complete(claim())
    yield lambda: Costs(redis_client)
    client.config_set("appendonly", before)


def test_accepting_a_single_message_stays_as_cheap(costs: Callable[[], Costs]) -> None:
    cost = costs()
    submit(1)
    commands, written = cost.of_each(1)
    assert commands <= 19
    assert written <= 1560


def test_accepting_in_company_stays_as_cheap(costs: Callable[[], Costs]) -> None:
    cost = costs()
    submit(MESSAGES)
    commands, written = cost.of_each()
    assert commands <= 2.3
    assert written <= 1040


def test_running_a_message_stays_as_cheap(costs: Callable[[], Costs]) -> None:
    submit(MESSAGES)
    cost = costs()
    claimed = claim()
    assert len(claimed) == MESSAGES
    commands, written = cost.of_each()
    assert commands <= 3.4
    assert written <= 260

    complete(claimed)

    # Both together.
    commands, written = cost.of_each()
    assert commands <= 9.5
    assert written <= 810


@pytest.mark.mongo
@pytest.mark.parametrize("from_memory", [True, False], ids=["from memory", "by a drainer"])
def test_a_dead_letter_stays_as_cheap(costs: Callable[[], Costs], mongo_db: Any, from_memory: bool) -> None:
    submit(MESSAGES)
    claimed = claim()
    cost, before = costs(), documents(mongo_db)

    ended = fail(claimed)

    commands, written = cost.of_each()
    assert commands <= 4.2
    assert written <= 750
    if from_memory:
        writer = LetterWriter(ledger())
        writer.start()
        writer.add(ended)
        assert writer.finish(30)
        assert writer.written == MESSAGES
    else:
        while drain(ledger(), record_outcomes, MESSAGES):
            pass
    # The failure, the letter and its acknowledgement; a drainer also reads the record.
    commands, written = cost.of_each()
    assert commands <= (9.4 if from_memory else 13.4)
    assert written <= 1060
    # One document each and nothing else, in one command for all.
    after = documents(mongo_db)
    assert {name: after[name] - before[name] for name in after} == {"inserted": MESSAGES, "updated": 0, "commands": 1}
