"""Eight real processes, one breaker: probes, events and generations stay exact."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from redis import Redis

from breaker_app.states import State, Transition, is_legal
from breaker_app.store import RedisBreakerStore

pytestmark = pytest.mark.redis

#: One process: ask until time is over, of a downstream that is down in every other period; some probers die.
CALLER = """
import json, random, sys, time
from redis import Redis
from breaker_app.breaker import BreakerPolicy, CircuitBreaker, Outcome, State
from breaker_app.store import RedisBreakerStore

url, seed, seconds, lease_ms, dying = sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:])
dice = random.Random(seed)
policy = BreakerPolicy(open_timeout_ms=60, permit_lease_ms=int(lease_ms))
breaker = CircuitBreaker("shared", policy, RedisBreakerStore(Redis.from_url(url), timeout_s=5))
probes, end = [], time.monotonic() + seconds
while time.monotonic() < end:
    permit = breaker.acquire()
    if not permit.allowed:
        time.sleep(0.002)
        continue
    probing, used = permit.state is State.HALF_OPEN, False
    if not (probing and dice.random() < dying):
        time.sleep(dice.random() * 0.003)
        down = not probing or (permit.generation // 97) % 2
        used = breaker.record(permit, Outcome.FAILURE if down else Outcome.SUCCESS)
    if probing:
        probes.append((permit.generation, used))
print(json.dumps(probes))
"""


def play(redis_url: str, *, lease_ms: int, dying: float, seconds: float = 2.5) -> list[tuple[int, bool]]:
    """(generation, whether its outcome was used) of every probe that eight processes were admitted for."""
    arguments = [str(seconds), str(lease_ms), str(dying)]
    callers = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER, redis_url, str(seed), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for seed in range(8)
    ]
    probes: list[tuple[int, bool]] = []
    for caller in callers:
        out, err = caller.communicate(timeout=60)
        assert caller.returncode == 0, err.decode()
        probes += [(generation, used) for generation, used in json.loads(out)]
    return probes


def story(redis_client: Redis) -> list[Transition]:
    return RedisBreakerStore(redis_client, timeout_s=5).transitions("shared", 2_000)[::-1]


def test_eight_processes_never_admit_more_than_ten_probes(redis_client: Redis, redis_url: str) -> None:
    admitted = Counter(generation for generation, _ in play(redis_url, lease_ms=60_000, dying=0))

    assert len(admitted) >= 4
    assert max(admitted.values()) <= 10


def test_lost_probes_are_replaced_and_every_transition_is_one_event(redis_client: Redis, redis_url: str) -> None:
    probes = play(redis_url, lease_ms=400, dying=0.1)

    # A permit is given again only for a probe that was lost.
    admitted = Counter(generation for generation, _ in probes)
    unanswered = Counter(generation for generation, used in probes if not used)
    assert len(admitted) >= 2
    for generation, number in admitted.items():
        assert number - unanswered[generation] <= 10
        assert number < 20

    # A transition is one event and one generation.
    told = story(redis_client)
    assert set(admitted) <= {one.generation for one in told if one.to is State.HALF_OPEN}
    assert [one.generation for one in told] == sorted({one.generation for one in told})
    assert all(is_legal(one.source, one.to, one.why) for one in told)
    assert told[0].source is State.CLOSED
    assert all(before.to is after.source for before, after in pairwise(told))
