"""What is measured. Each function starts a contestant, measures it once, stops it and returns the row's figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from . import machine
from .contestants import STARTS, Consumer, Intake, Site, System, Work
from .load import PAYLOAD, payload_of, post_many, post_paced
from .processes import Child

Row = dict[str, Any]


@dataclass(frozen=True)
class Waiting:
    """Messages that wait in a queue which nothing consumes."""

    consumer: Consumer
    messages: int


#: The clock of a queue starts when this share of its messages has ended: by then every process is up and warm.
_WARM = 0.05
_POLL_S = 0.01
#: A worker that has not ended a single message after this long is broken.
_START_LIMIT_S = 60.0


@contextmanager
def running(*groups: list[Child]) -> Iterator[list[Child]]:
    children = [child for group in groups for child in group]
    try:
        yield children
    finally:
        for child in children:
            child.stop()


def account(site: Site, children: list[Child]) -> machine.CpuAccount:
    return machine.CpuAccount(children, site.stores.redis_server, site.stores.mongod)


def intake(
    site: Site, contestant: Intake, *, connections: int, seconds: int, size: int = 0, waiting: Waiting | None = None
) -> Row:
    """Accepted requests per second with this number of keep-alive connections, after one second of warm-up.

    ``size``: bytes of the payload, 0 for the usual one. ``waiting``: messages to put into the queue first.
    """
    site.stores.empty()
    if waiting is not None and waiting.messages:
        waiting.consumer.fill(site, Work.NOOP, waiting.messages)
    with running(contestant.start(site)) as children:
        request = contestant.request(site, Work.NOOP, payload_of(size))
        post_many(site.http_port, request, connections=connections, seconds=1)
        cpu = account(site, children)
        row: Row = dict(post_many(site.http_port, request, connections=connections, seconds=seconds))
        row |= cpu.close(int(row["requests"]) * request.messages)
        row["messages_per_s"] = row["rps"] * request.messages
        row["memory_mb"] = machine.memory_mb(children)
        return row


def drain(site: Site, contestant: Consumer, *, work: Work, seconds: int) -> Row:
    """Messages ended per second from a queue that was filled before the workers started.

    With ``FAIL`` a message has ended when its dead letter is in MongoDB. The clock runs from 5 % to the end, or for
    ``seconds``; start-up is reported separately (``startup_s``).
    """
    site.stores.empty()
    total = max(100, int(contestant.expected[work] * seconds * 1.2))
    contestant.fill(site, work, total)

    def ended() -> int:
        return site.stores.letters(contestant.database) if work is Work.FAIL else contestant.ended(site, work, total)

    started = time.monotonic()
    with running(contestant.start(site, work)) as children:
        until(lambda: ended() > 0, _START_LIMIT_S, children)
        startup = time.monotonic() - started
        until(lambda: ended() >= total * _WARM, _START_LIMIT_S, children)
        cpu, begin, before = account(site, children), time.monotonic(), ended()
        end, after = begin, before
        while after < total and end - begin < seconds:
            time.sleep(_POLL_S)
            after, end = ended(), time.monotonic()
        row: Row = {"filled": total, "ended": after - before, "seconds": end - begin, "startup_s": startup}
        row["messages_per_s"] = (after - before) / (end - begin) if end > begin else 0.0
        row |= cpu.close(after - before)
        row["memory_mb"] = machine.memory_mb(children)
        return row


def until(reached: Callable[[], bool], limit_s: float, children: list[Child]) -> None:
    deadline = time.monotonic() + limit_s
    while not reached():
        for child in children:
            if not child.alive():
                raise child.failed("ended before it was measured")
        if time.monotonic() > deadline:
            raise children[0].failed(f"nothing ended within {limit_s:.0f} s")
        time.sleep(_POLL_S)


def both(site: Site, contestant: System, *, connections: int, seconds: int) -> Row:
    """Messages processed per second while the intake is loaded as hard as it can be; accepted/s; the backlog."""
    site.stores.empty()
    with running(contestant.intake.start(site), contestant.consumer.start(site, Work.NOOP)) as children:
        request = contestant.intake.request(site, Work.NOOP, PAYLOAD)
        warm = post_many(site.http_port, request, connections=connections, seconds=2)
        offered = int(warm["requests"])
        # What the warm-up left behind must not count as processed under load.
        until(partial(all_ended, site, contestant.consumer, offered), _START_LIMIT_S, children)
        before = contestant.consumer.ended(site, Work.NOOP, offered)
        cpu, begin = account(site, children), time.monotonic()
        row: Row = dict(post_many(site.http_port, request, connections=connections, seconds=seconds))
        offered += int(row["requests"])
        after = contestant.consumer.ended(site, Work.NOOP, offered)
        row["processed_per_s"] = (after - before) / (time.monotonic() - begin)
        row["backlog"] = max(offered - after, 0)
        row |= cpu.close(int(row["requests"]))
        row["memory_mb"] = machine.memory_mb(children)
        return row


def idle(site: Site, contestant: System, *, count: int, per_second: float) -> Row:
    """Milliseconds from the 202 at the client to the handler's first line, on a system with nothing else to do.

    A handler may start before the client has read its answer: such a wait counts as 0. ``sent_*`` counts from the
    request.
    """
    site.stores.empty()
    with running(contestant.intake.start(site), contestant.consumer.start(site, Work.STAMP)) as children:
        request = contestant.intake.request(site, Work.STAMP, PAYLOAD)
        redis = site.stores.redis
        # Warm-up: also waits until the workers are up.
        warm = post_paced(site.http_port, request, count=10, per_second=20)
        until(lambda: redis.llen(STARTS) >= len(warm), _START_LIMIT_S, children)
        time.sleep(2)  # back to rest
        sent = post_paced(site.http_port, request, count=count, per_second=per_second)
        until(lambda: redis.llen(STARTS) >= len(warm) + len(sent), _START_LIMIT_S, children)
        starts = dict(line.split() for line in redis.lrange(STARTS, 0, -1))
        waits = sorted(max(0.0, (int(starts[key.encode()]) - answered) / 1e6) for key, _, answered in sent)
        since_sent = sorted((int(starts[key.encode()]) - posted) / 1e6 for key, posted, _ in sent)
        return {
            "count": count,
            "p50_ms": statistics.median(waits),
            "p99_ms": _percentile(waits, 0.99),
            "max_ms": waits[-1],
            "sent_p50_ms": statistics.median(since_sent),
            "sent_p99_ms": _percentile(since_sent, 0.99),
        }


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def all_ended(site: Site, contestant: Consumer, total: int) -> bool:
    return contestant.ended(site, Work.NOOP, total) >= total
