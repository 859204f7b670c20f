"""What a message costs Redis: commands and bytes of the append-only file. A number that rises needs a reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from messages_app.domain.records import Completed, Failed
from messages_app.store.ledger import Ledger
from messages_app.tests.ledgers import acceptance, token

pytestmark = pytest.mark.redis

N = 100
_LINE = '{"number":1,"startedAt":"2027-01-15T08:00:00.000Z","endedAt":"2027-01-15T08:00:00.001Z","outcome":"succeeded"}'
#: Commands of the measurement itself.
_OURS = ("info", "config|resetstat")


@dataclass(frozen=True)
class Cost:
    #: Commands a message, those of the call included.
    commands: float
    #: Bytes of the append-only file a message.
    bytes: float


def written(client: redis.Redis) -> int:
    """Bytes of the append-only file. The server may hold back a write while it waits for the disk."""
    while True:
        found: Any = client.info("persistence")
        if not found["aof_buffer_length"]:
            return int(found["aof_current_size"])
        time.sleep(0.01)


def cost(client: redis.Redis, act: Callable[[], Any]) -> Cost:
    """The cost of ``act``, which handles N messages."""
    before = written(client)
    client.config_resetstat()
    act()
    stats: Any = client.info("commandstats")
    commands = sum(one["calls"] for name, one in stats.items() if name.removeprefix("cmdstat_") not in _OURS)
    return Cost(commands / N, (written(client) - before) / N)


def claim(book: Ledger) -> list[Any]:
    return list(book.claim(token=token(), limit=N, owner="w1", holding=0).records)


def accepted(book: Ledger) -> None:
    answers = book.accept_many([acceptance(f"m{number}") for number in range(N)])
    assert {answer.status for answer in answers} == {"accepted"}


@pytest.fixture(autouse=True)
def warm(book: Ledger) -> None:
    """The first calls load the scripts and make the accounts."""
    book.accept(acceptance("first"))
    (first,) = claim(book)
    book.flush([Completed(message_id="first", fence=first.fence, result="true", attempt_json=_LINE)])
    book.accept(acceptance("second"))
    (second,) = claim(book)
    book.flush([Failed(message_id="second", fence=second.fence, delay_ms=None, error="{}", attempt_json=_LINE)])


def test_accepting_one_by_one(redis_client: redis.Redis, book: Ledger) -> None:
    found = cost(redis_client, lambda: [book.accept(acceptance(f"m{number}")) for number in range(N)])

    assert found.commands <= 11
    assert found.bytes <= 960


def test_accepting_a_group(redis_client: redis.Redis, book: Ledger) -> None:
    found = cost(redis_client, lambda: accepted(book))

    assert found.commands <= 2.2
    assert found.bytes <= 680


def test_claiming(redis_client: redis.Redis, book: Ledger) -> None:
    accepted(book)

    found = cost(redis_client, lambda: claim(book))

    assert found.commands <= 3.3
    assert found.bytes <= 250


def test_completing(redis_client: redis.Redis, book: Ledger) -> None:
    accepted(book)
    outcomes = [
        Completed(
            message_id=one.message_id, fence=one.fence, result="true", ran=f"{one.claimed_at_ms} {one.claimed_at_ms}"
        )
        for one in claim(book)
    ]

    found = cost(redis_client, lambda: book.flush(outcomes))

    assert found.commands <= 3.2
    assert found.bytes <= 250


def test_failing(redis_client: redis.Redis, book: Ledger) -> None:
    accepted(book)
    outcomes = [
        Failed(message_id=one.message_id, fence=one.fence, delay_ms=1000, error="{}", attempt_json=_LINE)
        for one in claim(book)
    ]

    found = cost(redis_client, lambda: book.flush(outcomes))

    assert found.commands <= 4.2
    assert found.bytes <= 430
