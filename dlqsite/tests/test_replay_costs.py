"""What a letter of a replay batch costs the stores, counted: the numbers may fall, not rise.

Counted for many letters at once, with the real parts: executor, ledger, drainer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from dlq_app.domain.replay_batch import BatchCounts, BatchOrder
from dlq_app.services import batches, dead_letters
from dlq_app.services.batch_executor import Executor
from dlq_app.store import repository
from messages_app.domain.records import Completed, Failed
from messages_app.services import IntakePort
from messages_app.store.ledger import ledger
from messages_app.tests.handling import an_acceptance
from messages_app.tests.ledgers import token
from messages_app.work.draining import drain

pytestmark = [pytest.mark.redis, pytest.mark.mongo]

LETTERS = 200
ERROR = '{"errorType":"VALIDATION_ERROR","errorKind":"permanent","errorReason":"n is missing"}'


def bury(count: int) -> None:
    """Accept messages, let them die, and store their letters."""
    book = ledger()
    book.accept_many([an_acceptance(message_id=f"m-{n:04}") for n in range(count)])
    run(
        lambda claimed: Failed(
            message_id=claimed.message_id, fence=claimed.fence, delay_ms=None, error=ERROR, attempt_json="{}"
        )
    )
    settle()


def run(end: Callable[[Any], Completed | Failed]) -> None:
    """Run all waiting messages, as a worker does."""
    book = ledger()
    while claimed := book.claim(token=token(), limit=100, owner="w", holding=0).records:
        book.flush([end(one) for one in claimed])


def settle() -> None:
    while drain(ledger(), dead_letters.record_outcomes, 200):
        pass


class Batch:
    """A batch of all letters, and an executor on a clock that stands still until its letters are sent."""

    def __init__(self) -> None:
        self.id = batches.start(BatchOrder.parse({"all": True}), actor="key:olga").id
        self.clock_s = 0.0
        stores = repository.letters(), repository.items(), repository.batches()
        self.executor = Executor(*stores, IntakePort(), monotonic=lambda: self.clock_s)

    def send(self) -> None:
        for _ in range(20):
            self.executor.tick()
            found = repository.batches().get(self.id)
            if found is not None and found.next_seq == LETTERS:
                return
        raise AssertionError("not sent")

    def finish(self) -> BatchCounts:
        for _ in range(20):
            self.clock_s += 20
            self.executor.tick()
            found = batches.get(self.id)
            if found.finished_at is not None:
                return found.counts
        raise AssertionError("not finished")


class Costs:
    """Commands of Redis, and documents that MongoDB inserted, changed and read."""

    def __init__(self, redis_client: redis.Redis, mongo_db: Any) -> None:
        self._redis: Any = redis_client
        self._mongo = mongo_db
        self._begun = self._read()

    def each(self) -> dict[str, float]:
        """What was done since the beginning, for each letter."""
        now = self._read()
        return {name: (now[name] - self._begun[name]) / LETTERS for name in now}

    def _read(self) -> dict[str, float]:
        commands = self._redis.info("commandstats")
        metrics = self._mongo.client.admin.command("serverStatus")["metrics"]
        documents = metrics["document"]
        return {
            "redis": sum(one["calls"] for name, one in commands.items() if name != "cmdstat_info"),
            "inserted": float(documents["inserted"]),
            "updated": float(documents["updated"]),
            "read": float(metrics["queryExecutor"]["scannedObjects"]),
        }


def test_sending_a_letter_of_a_batch_stays_as_cheap(redis_client: redis.Redis, mongo_db: Any) -> None:
    bury(LETTERS)
    costs = Costs(redis_client, mongo_db)

    Batch().send()

    each = costs.each()
    # Each: read the record, write it, drop fields of the former epoch, keep the key.
    assert each["redis"] <= 4.6
    # The item of the plan.
    assert each["inserted"] <= 1.05
    # The claim.
    assert each["updated"] <= 1.1


def test_letters_in_flight_are_read_once_for_each_look(redis_client: redis.Redis, mongo_db: Any) -> None:
    bury(LETTERS)
    batch = Batch()
    batch.send()
    costs = Costs(redis_client, mongo_db)

    for _ in range(4):
        batch.clock_s += 0.2
        batch.executor.tick()

    # At each look the letter, not its item of the plan as well; and all items once, to count them.
    assert costs.each()["read"] <= 4 + 1.1


@pytest.mark.parametrize("good", [True, False], ids=["succeeds", "fails"])
def test_the_outcome_of_a_letter_of_a_batch_stays_as_cheap(
    redis_client: redis.Redis, mongo_db: Any, good: bool
) -> None:
    def end(claimed: Any) -> Completed | Failed:
        if good:
            return Completed(message_id=claimed.message_id, fence=claimed.fence, result="null", attempt_json="{}")
        return Failed(message_id=claimed.message_id, fence=claimed.fence, delay_ms=None, error=ERROR, attempt_json="{}")

    bury(LETTERS)
    batch = Batch()
    batch.send()
    run(end)
    costs = Costs(redis_client, mongo_db)

    settle()
    counts = batch.finish()

    each = costs.each()
    assert (counts.succeeded, counts.failed) == ((LETTERS, 0) if good else (0, LETTERS))
    # Each, on the way of recovery: four reads of the outbox; then read the record, mark it, let its three keys expire.
    assert each["redis"] <= 9.5
    assert each["inserted"] <= 0.05
    # The letter, and its item of the plan.
    assert each["updated"] <= 2.1
