"""What the benchmark's messages do. Each has a circuit breaker, so that its share of the cost is in every figure."""

from __future__ import annotations

import os
import time
from functools import cache

import redis
from django.conf import settings

from messages_app.envelope import Message
from messages_app.failures import InvalidPayloadError
from messages_app.registry import handler


@handler("bench.noop", breaker="bench")
def noop(message: Message) -> bool:
    return True


@handler("bench.sleep20", breaker="bench")
def sleep20(message: Message) -> None:
    time.sleep(0.02)


@handler("bench.fail", breaker="bench")
def fail(message: Message) -> None:
    raise InvalidPayloadError("the order has no customer")


@handler("bench.stamp", breaker="bench")
def stamp(message: Message) -> None:
    """Tell when this handler started: CLOCK_MONOTONIC, which all processes of a machine share."""
    started = time.monotonic_ns()
    _redis().rpush("bench:starts", f"{message.id} {started}")


@handler("bench.count", breaker="bench")
def count(message: Message) -> None:
    """Write down that this message ran, in a file that survives every store and process."""
    written = os.open(os.environ["BENCH_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(written, f"{message.id}\n".encode())
    finally:
        os.close(written)


@cache
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL)
