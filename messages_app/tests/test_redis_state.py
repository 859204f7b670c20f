"""What is wrong with Redis is named as what it is: asked of a real server, made wrong in each way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import redis

from breaker_app.sentinels import NoPrimary
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Completed, Deferred, Failed, Outcome, Verdict
from messages_app.domain.redis_replicas import Sentinels, replica_problems, sentinel_problems, unguarded
from messages_app.domain.redis_state import refusal_problem, reported_problems
from messages_app.store.ledger import Ledger
from messages_app.store.ledger_server import Terms
from messages_app.tests.handling import an_acceptance
from messages_app.tests.redis_states import State, configured, demoted, full, without_replicas, without_snapshot


@pytest.mark.redis
@pytest.mark.parametrize(
    ("state", "code", "is_reported"),
    [
        (full, "memory_full", True),
        (demoted, "read_only", True),
        (without_snapshot, "snapshot_failed", True),
        (without_replicas, "too_few_replicas", False),
    ],
)
def test_a_server_that_refuses_writes_is_named(redis_client: Any, state: State, code: str, is_reported: bool) -> None:
    ledger = Ledger(redis_client)
    assert ledger.try_write() > 0
    assert list(reported_problems(ledger.server_info())) == []

    with state(redis_client):
        with pytest.raises(StoreUnavailable) as refused:
            ledger.try_write()
        reported = [problem.code for problem in reported_problems(ledger.server_info())]

    assert refusal_problem(refused.value).code == code
    assert refusal_problem(refused.value).stops
    assert reported == ([code] if is_reported else [])
    assert ledger.try_write() > 0


@pytest.mark.redis
@pytest.mark.parametrize("state", [full, demoted, without_snapshot, without_replicas])
@pytest.mark.parametrize("kind", ["completed", "failed", "deferred"])
def test_outcomes_wait_while_redis_refuses_writes(redis_client: Any, state: State, kind: str) -> None:
    """A refusal that seems to be about the outcome would drop it: its message would run again."""
    ledger = Ledger(redis_client)
    ledger.accept_many([an_acceptance(), an_acceptance()])
    claimed = ledger.claim(token="t", limit=2, owner="w", holding=0).records
    whose = [{"message_id": one.message_id, "fence": one.fence, "attempt_json": "{}"} for one in claimed]
    make: dict[str, Callable[..., Outcome]] = {
        "completed": partial(Completed, result="1"),
        "failed": partial(Failed, error="{}", delay_ms=1000),
        "deferred": partial(Deferred, delay_ms=1000, why="breaker"),
    }
    outcomes = [make[kind](**one) for one in whose]

    with state(redis_client):
        for sent in (outcomes, outcomes[:1]):
            with pytest.raises(StoreUnavailable):
                ledger.flush(sent)

    assert set(ledger.flush(outcomes)) == {Verdict.APPLIED}


@pytest.mark.redis
def test_a_write_that_is_not_confirmed_is_named(redis_client: Any) -> None:
    with configured(redis_client, "appendonly", "no"), pytest.raises(StoreUnavailable) as refused:
        Ledger(redis_client, terms=Terms(fsync_timeout_ms=50)).try_write()

    assert refusal_problem(refused.value).stops


@pytest.mark.redis
def test_a_user_who_may_not_ask_can_still_write(redis_client: Any, redis_url: str) -> None:
    redis_client.execute_command(
        "ACL", "SETUSER", "modest", "on", ">secret", "~dlq:*", "+@all", "-@admin", "-@dangerous"
    )
    try:
        ledger = Ledger(redis.Redis.from_url(redis_url, username="modest", password="secret"))
        assert ledger.try_write() > 0
        assert ledger.server_info() == {}
        assert ledger.require_safe_redis() == []

        redis_client.execute_command("ACL", "SETUSER", "modest", "-@write")
        with pytest.raises(StoreUnavailable) as refused:
            ledger.try_write()
        assert refusal_problem(refused.value).code == "no_permission"

        stranger = Ledger(redis.Redis.from_url(redis_url, username="modest", password="wrong"))
        with pytest.raises(StoreUnavailable) as refused:
            stranger.try_write()
        assert refusal_problem(refused.value).code == "no_access"
    finally:
        redis_client.execute_command("ACL", "DELUSER", "modest")


def test_a_server_that_says_nothing_is_away() -> None:
    with pytest.raises(StoreUnavailable) as refused:
        Ledger(redis.Redis(host="127.0.0.1", port=1)).try_write()

    assert refusal_problem(refused.value).what == "Redis does not answer."


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("MISCONF Errors writing to the AOF file: No space left on device", "aof_write_failed"),
        ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist", "snapshot_failed"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", "busy_script"),
        ("LOADING Redis is loading the dataset in memory", "loading"),
        ("UNBLOCKED force unblock from blocking operation, instance state changed", "read_only"),
        ("max number of clients reached", "clients_full"),
        ("CLUSTERDOWN Hash slot not served", "cluster"),
    ],
)
def test_a_refusal_is_read(said: str, code: str) -> None:
    error = StoreUnavailable("Redis refuses")
    error.__cause__ = redis.ResponseError(said)

    assert refusal_problem(error).code == code


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ({"aof_last_write_status": "err"}, ["aof_write_failed"]),
        ({"aof_last_bgrewrite_status": "err"}, ["aof_rewrite_failed"]),
        ({"master_failover_state": "failover-in-progress"}, ["paused"]),
        ({"loading": "1"}, ["loading"]),
        ({"used_memory": "801", "maxmemory": "1000"}, ["memory_high"]),
        ({"used_memory": "1000", "maxmemory": "1000"}, ["memory_full"]),
        ({"used_memory": "1000", "maxmemory": "0"}, []),
        ({"connected_clients": "81", "maxclients": "100"}, ["clients_high"]),
        ({"connected_clients": "100", "maxclients": "100"}, ["clients_full"]),
        ({"role": "slave", "master_link_status": "down"}, ["read_only"]),
    ],
)
def test_a_report_is_read(said: dict[str, str], codes: list[str]) -> None:
    assert [problem.code for problem in reported_problems(said)] == codes


PRIMARY = {
    "role": "master", "connected_slaves": "2",
    "slave0": "ip=10.0.0.2,port=6379,state=online,offset=9,lag=0,type=replica",
    "slave1": "ip=2001:db8::3,port=6380,state=online,offset=9,lag=1,type=replica",
}  # fmt: skip
ALONE = {"role": "master", "connected_slaves": "0"}


def of_replicas(info: dict[str, str], *, is_required: bool = False, is_watched: bool = False) -> list[tuple[str, bool]]:
    found = replica_problems(info, is_required=is_required, is_watched=is_watched)
    return [(problem.code, problem.stops) for problem in found]


def test_a_missing_replica_counts_where_one_is_needed() -> None:
    assert of_replicas(ALONE) == []
    assert of_replicas(ALONE, is_watched=True) == [("no_replica", False)]
    assert of_replicas(ALONE, is_required=True, is_watched=True) == [("no_replica", True)]
    assert of_replicas(PRIMARY, is_required=True, is_watched=True) == []
    assert of_replicas({}, is_required=True, is_watched=True) == [], "this user may not run INFO"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ip=10.0.0.2,port=6379,state=online,offset=9,lag=10", "10.0.0.2:6379 (silent for 10 s)"),
        ("ip=2001:db8::3,port=6380,state=wait_bgsave,offset=0,lag=0", "[2001:db8::3]:6380 (copying the data)"),
    ],
)
def test_a_replica_that_is_behind_is_named(line: str, said: str) -> None:
    (problem,) = replica_problems({**PRIMARY, "slave0": line}, is_required=False, is_watched=False)
    assert (problem.code, problem.stops, said in problem.what) == ("replica_behind", False, True)


def test_writes_of_a_primary_that_is_cut_off_are_named_as_a_risk() -> None:
    assert "min-replicas-to-write is 0" in unguarded(PRIMARY, is_watched=False)
    assert "min-replicas-to-write is 0" in unguarded(ALONE, is_watched=True)
    assert unguarded({**PRIMARY, "min_slaves_good_slaves": "2"}, is_watched=True) == ""
    assert unguarded(ALONE, is_watched=False) == "", "one server alone"


@pytest.mark.parametrize(
    ("answering", "with_quorum", "codes"),
    [
        (3, 3, []),
        (2, 2, ["sentinels_missing"]),
        (2, 1, ["no_quorum"]),
        (1, 0, ["no_quorum"]),
        (0, 0, ["sentinels_away"]),
    ],
)
def test_missing_sentinels_are_named(answering: int, with_quorum: int, codes: list[str]) -> None:
    troubles = [(f"10.0.0.{n}:26379", "no answer") for n in range(3 - answering)]
    seen = Sentinels(
        service="dlq", primary="10.0.0.1:6379", of=3, answering=answering, with_quorum=with_quorum, troubles=troubles
    )
    found = list(sentinel_problems(seen))
    assert [problem.code for problem in found] == codes
    assert all(address in problem.what for problem in found for address, _ in troubles)
    assert not any(problem.stops for problem in found)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoPrimary("None of 3 Sentinels answers"), "sentinels_away"),
        (NoPrimary("Sentinel knows no service dlq"), "service_unknown"),
        (NoPrimary("Sentinel refuses: NOAUTH Authentication required."), "sentinel_no_access"),
        (NoPrimary("The Sentinels that answer name an earlier primary than was known"), "sentinels_outdated"),
    ],
)
def test_the_reason_why_there_is_no_primary_is_named(error: Exception, code: str) -> None:
    refused = StoreUnavailable(f"{error}.")
    refused.__cause__ = error
    assert refusal_problem(refused).code == code
