"""What is measured. Each function starts a contestant, measures it once, stops it and returns the row's figures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from . import machine
from .contestants import STARTS, Consumer, Intake, Site, System, Work
from .load import post_many, post_paced
from .processes import Child

Row = dict[str, Any]

#: The clock of a queue starts when this share of its messages has ended: by then every process is up and warm.
_WARM = 0.05
_POLL_S = 0.01
#: A worker that has not ended a single message after this long is broken.
_START_LIMIT_S = 60.0
_SOAK_LIMIT_S = 300.0


@contextmanager
def _running(*groups: list[Child]) -> Iterator[list[Child]]:
    children = [child for group in groups for child in group]
    try:
        yield children
    finally:
        for child in children:
            child.stop()


def _account(site: Site, children: list[Child]) -> machine.CpuAccount:
    return machine.CpuAccount(children, site.stores.redis_server, site.stores.mongod)


def intake(site: Site, contestant: Intake, *, connections: int, seconds: int) -> Row:
    """Accepted requests per second with this number of keep-alive connections, after one second of warm-up."""
    site.stores.empty()
    with _running(contestant.start(site)) as children:
        request = contestant.request(site, Work.NOOP)
        post_many(site.http_port, request, connections=connections, seconds=1)
        account = _account(site, children)
        row: Row = dict(post_many(site.http_port, request, connections=connections, seconds=seconds))
        row |= account.close(int(row["requests"]) * request.messages)
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
    with _running(contestant.start(site, work)) as children:
        _until(lambda: ended() > 0, _START_LIMIT_S, children)
        startup = time.monotonic() - started
        _until(lambda: ended() >= total * _WARM, _START_LIMIT_S, children)
        account, begin, before = _account(site, children), time.monotonic(), ended()
        end, after = begin, before
        while after < total and end - begin < seconds:
            time.sleep(_POLL_S)
            after, end = ended(), time.monotonic()
        row: Row = {"filled": total, "ended": after - before, "seconds": end - begin, "startup_s": startup}
        row["messages_per_s"] = (after - before) / (end - begin) if end > begin else 0.0
        row |= account.close(after - before)
        row["memory_mb"] = machine.memory_mb(children)
        return row


def _until(reached: Callable[[], bool], limit_s: float, children: list[Child]) -> None:
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
    with _running(contestant.intake.start(site), contestant.consumer.start(site, Work.NOOP)) as children:
        request = contestant.intake.request(site, Work.NOOP)
        warm = post_many(site.http_port, request, connections=connections, seconds=2)
        offered = int(warm["requests"])
        # What the warm-up left behind must not count as processed under load.
        _until(partial(_all_ended, site, contestant.consumer, offered), _START_LIMIT_S, children)
        before = contestant.consumer.ended(site, Work.NOOP, offered)
        account, begin = _account(site, children), time.monotonic()
        row: Row = dict(post_many(site.http_port, request, connections=connections, seconds=seconds))
        offered += int(row["requests"])
        after = contestant.consumer.ended(site, Work.NOOP, offered)
        row["processed_per_s"] = (after - before) / (time.monotonic() - begin)
        row["backlog"] = max(offered - after, 0)
        row |= account.close(int(row["requests"]))
        row["memory_mb"] = machine.memory_mb(children)
        return row


def idle(site: Site, contestant: System, *, count: int, per_second: float) -> Row:
    """Milliseconds from the 202 at the client to the handler's first line, on a system with nothing else to do.

    A handler may start before the client has read its answer: such a wait counts as 0. ``sent_*`` counts from the
    request.
    """
    site.stores.empty()
    with _running(contestant.intake.start(site), contestant.consumer.start(site, Work.STAMP)) as children:
        request = contestant.intake.request(site, Work.STAMP)
        redis = site.stores.redis
        # Warm-up: also waits until the workers are up.
        warm = post_paced(site.http_port, request, count=10, per_second=20)
        _until(lambda: redis.llen(STARTS) >= len(warm), _START_LIMIT_S, children)
        time.sleep(2)  # back to rest
        sent = post_paced(site.http_port, request, count=count, per_second=per_second)
        _until(lambda: redis.llen(STARTS) >= len(warm) + len(sent), _START_LIMIT_S, children)
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


def soak(site: Site, contestant: Consumer, *, messages: int, step: int) -> Row:
    """Resident memory of one worker after each ``step`` messages, up to ``messages``: does it grow?"""
    site.stores.empty()
    sizes = []
    done = 0
    with _running(contestant.start(site, Work.NOOP)) as children:
        while done < messages:
            contestant.fill(site, Work.NOOP, step)
            done += step
            _until(partial(_all_ended, site, contestant, done), _SOAK_LIMIT_S, children)
            sizes.append(machine.memory_mb(children)["all"])
    later = sizes[len(sizes) // 2 :]
    return {
        "messages": done,
        "sizes_mb": sizes,
        "first_mb": sizes[0],
        "last_mb": sizes[-1],
        "later_growth_mb": round(later[-1] - later[0], 1),
    }


def _all_ended(site: Site, contestant: Consumer, total: int) -> bool:
    return contestant.ended(site, Work.NOOP, total) >= total
