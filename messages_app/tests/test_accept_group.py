"""Many acceptances in one call: the same answers and the same data as one after another."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from messages_app.domain.errors import LedgerRefused
from messages_app.domain.records import Acceptance, RateLimit
from messages_app.store import ledger as ledger_module
from messages_app.tests.ledgers import START_MS, Desk, acceptance, order

pytestmark = pytest.mark.redis

Request = tuple[Acceptance, RateLimit | None]

ids = st.sampled_from(["a", "b", "c", "d", "wrong record", "bad-record", "x" * 65, "replayed"])
acceptances = st.builds(
    acceptance,
    ids,
    accept_token=st.sampled_from(["t1", "t2", "t3", ""]),
    sha256=st.sampled_from(["1" * 64, "2" * 64]),
    body=st.sampled_from([b"{}", b"[]"]),
    type=st.sampled_from(["demo", "demo", "other", ""]),
    priority=st.sampled_from(["normal", "normal", "high", "low", "alone"]),
    not_before_ms=st.sampled_from([None, None, START_MS, START_MS + 500, -1]),
    max_retries=st.sampled_from([0, 3, -1]),
)
limits = st.none() | st.builds(
    RateLimit,
    client=st.sampled_from(["c", "d", "bad"]),
    limit=st.sampled_from([1, 2, 3]),
    window_ms=st.sampled_from([60_000, 60_000, 30_000]),
)
requests = st.lists(st.tuples(acceptances, limits), min_size=1, max_size=12)


def told(desk: Desk, group: list[Request]) -> list[Any]:
    return [str(answer) if isinstance(answer, LedgerRefused) else answer for answer in desk.ledger.accept_group(group)]


def everything(desk: Desk) -> dict[bytes, Any]:
    """All keys. The bell may ring more often for single requests, which only saves time."""
    kinds = {b"string": "get", b"list": "lrange", b"zset": "zrange", b"set": "smembers", b"hash": "hgetall"}
    stands = {}
    for key in desk.client.scan_iter():
        kind = kinds[desk.client.type(key)]
        more = {"lrange": (0, -1), "zrange": (0, -1, False, True)}.get(kind, ())
        stands[key] = (getattr(desk.client, kind)(key, *more), desk.client.pttl(key) > 0)
    stands.pop(b"dlq:bell", None)
    return stands


def prepared(client: redis.Redis) -> Desk:
    """A ledger with a known message, requests of 40 s ago, a replay without a digest, and keys of wrong kinds."""
    client.flushall()
    desk = Desk.open(client)
    desk.at(START_MS - 40_000)
    desk.accept("d", accept_token="t1", sha256="1" * 64)
    desk.ledger.forward(order("replayed", 5, body=b"{}"))
    for name in ("c", "d"):
        desk.ledger.throttle(RateLimit(client=name, limit=5, window_ms=600_000))
    desk.at(START_MS)
    client.set("dlq:msg:bad-record", "not a hash")
    client.set("dlq:rate:bad", "not a list")
    return desk


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(group=requests)
def test_a_group_does_what_its_requests_do_one_after_another(redis_client: redis.Redis, group: list[Request]) -> None:
    desk = prepared(redis_client)
    expected = [answer for request in group for answer in told(desk, [request])]
    alone = everything(desk)

    desk = prepared(redis_client)
    assert told(desk, group) == expected
    assert everything(desk) == alone


def test_a_repeated_group_gets_its_answers_and_changes_nothing(desk: Desk) -> None:
    limit = RateLimit(client="c", limit=3)
    group: list[Request] = [(acceptance(name), limit) for name in ("a", "b")]
    desk.ledger.accept_group(group)
    stands = everything(desk)

    again = desk.ledger.accept_group(group)

    assert [answer.status for answer in again if not isinstance(answer, LedgerRefused)] == ["accepted"] * 2
    assert everything(desk) == stands


def test_what_is_stored_in_the_way_of_one_refuses_only_this_one(desk: Desk) -> None:
    desk.client.set("dlq:msg:b", "not a hash")
    desk.client.set("dlq:rate:bad", "not a list")

    answers = desk.ledger.accept_group(
        [
            (acceptance("a"), None),
            (acceptance("b"), None),
            (acceptance("c"), None),
            (acceptance("d"), RateLimit(client="bad", limit=1)),
            (acceptance("e"), None),
        ]
    )

    assert [isinstance(answer, LedgerRefused) for answer in answers] == [False, True, False, True, False]
    assert all("another kind" in str(answer) for answer in answers if isinstance(answer, LedgerRefused))
    assert [claimed.message_id for claimed in desk.claim()] == ["a", "c", "e"]
    assert desk.account() == (3, 0, 0, 3)
    assert not desk.client.exists("dlq:story:b", "dlq:body:b", "dlq:story:d", "dlq:body:d", "dlq:msg:d")
    with pytest.raises(LedgerRefused, match="another kind"):
        desk.accept("b")


def test_a_group_of_any_size_is_answered_in_order(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "ACCEPT_BYTES", 5000)
    group: list[Request] = [
        (acceptance(f"m{number}", body=b"0" * (5001 if number % 100 == 0 else 1)), None) for number in range(450)
    ]

    answers = desk.ledger.accept_group(group)

    ids = [f"m{number}" for number in range(450)]
    assert [answer.message_id for answer in answers if not isinstance(answer, LedgerRefused)] == ids
    assert [job.decode().split("-")[1] for job in desk.lane()] == ids
    assert desk.record("m400").body == b"0" * 5001


def test_what_all_share_is_written_once_a_call(desk: Desk) -> None:
    def calls(group: list[Request]) -> dict[str, int]:
        desk.client.config_resetstat()
        desk.ledger.accept_group(group)
        stats = desk.client.info("commandstats")
        return {name: stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("hmget", "hset", "evalsha")} | {
            "others": sum(
                entry["calls"]
                for name, entry in stats.items()
                if name.removeprefix("cmdstat_") not in ("hmget", "hset", "evalsha", "config|resetstat", "info")
            )
        }

    limit = RateLimit(client="c", limit=1000)
    desk.ledger.accept_group([(acceptance("first"), limit)])
    one = calls([(acceptance("one"), limit)])
    many = calls([(acceptance(f"m{number}"), limit) for number in range(100)])

    assert one["evalsha"] == many["evalsha"] == 1
    assert (many["hmget"], many["hset"]) == (100, 100)
    assert many["others"] <= one["others"] + 1
