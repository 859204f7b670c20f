"""What a dead letter costs the stores, counted: the numbers may fall, not rise.

Counted for many messages at once, as a busy system treats them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
import redis

from messages_app.attempt import report
from messages_app.domain.records import Claimed, Failed
from messages_app.failures import ErrorKind, Failure
from messages_app.store.ledger import ledger
from messages_app.tests.handling import an_acceptance
from messages_app.tests.ledgers import token
from messages_app.work.draining import drain, record_outcomes
from messages_app.work.ended import Ended
from messages_app.work.letter_writer import LetterWriter

pytestmark = [pytest.mark.redis, pytest.mark.mongo]

LETTERS = 100
FAILURE = Failure("VALIDATION_ERROR", ErrorKind.PERMANENT, "the order has no customer", "a stack")


def claim(count: int, first: int = 0) -> Sequence[Claimed]:
    """Accept messages and claim them."""
    ledger().accept_many([an_acceptance({"n": 1}, message_id=f"m-{n:04}") for n in range(first, first + count)])
    return ledger().claim(token=token(), limit=count, owner="w", holding=0).records


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


def write_from_memory(ended: Sequence[Ended]) -> None:
    writer = LetterWriter(ledger())
    writer.start()
    writer.add(ended)
    assert writer.finish(30)
    assert writer.written == len(ended)


def drain_all(ended: Sequence[Ended]) -> None:
    while drain(ledger(), record_outcomes, LETTERS):
        pass


def of_redis(client: Any) -> tuple[int, int]:
    """Commands so far, those of scripts included, and bytes for the append-only file, written or held back."""
    commands, file = client.info("commandstats"), client.info("persistence")
    calls = sum(one["calls"] for name, one in commands.items() if name != "cmdstat_info")
    return calls, file["aof_current_size"] + file["aof_buffer_length"]


def of_mongo(database: Any) -> dict[str, int]:
    """Documents that MongoDB inserted and changed so far, and commands that read or write documents."""
    metrics = database.client.admin.command("serverStatus")["metrics"]
    commands = ("insert", "update", "delete", "findAndModify", "find", "aggregate", "count")
    return {
        "inserted": metrics["document"]["inserted"],
        "updated": metrics["document"]["updated"],
        "commands": sum(metrics["commands"][name]["total"] for name in commands),
    }


@pytest.mark.parametrize(("write", "commands"), [(write_from_memory, 9.4), (drain_all, 13.4)])
def test_a_dead_letter_stays_as_cheap(redis_client: redis.Redis, mongo_db: Any, write: Any, commands: float) -> None:
    # Scripts are sent once, and this worker's tables are written.
    write(fail(claim(1, first=9000)))
    claimed = claim(LETTERS)
    redis_before, mongo_before = of_redis(redis_client), of_mongo(mongo_db)

    write(fail(claimed))

    each = [(now - before) / LETTERS for now, before in zip(of_redis(redis_client), redis_before, strict=True)]
    # The failure, the letter and its acknowledgement. A drainer also reads the record.
    assert each[0] <= commands
    assert each[1] <= 1060
    # One document each and nothing else, in one command for all.
    mongo_after = of_mongo(mongo_db)
    costs = {name: mongo_after[name] - mongo_before[name] for name in mongo_after}
    assert costs == {"inserted": LETTERS, "updated": 0, "commands": 1}
