"""What every Python peer records, the obvious way: outcomes in a breaker in Redis, dead letters in MongoDB."""

import os
import resource
import time
from datetime import UTC, datetime
from functools import cache

import redis

_redis = redis.Redis(port=int(os.environ["BENCH_REDIS_PORT"]))
_started = time.time()


def may_call():
    return _redis.get("breaker:state") != b"OPEN"


def count(outcome):
    """Add one outcome to the breaker's bucket of 10 s. The benchmark reads these counts to see how far a worker is."""
    bucket = f"breaker:{int(time.time()) // 10}"
    pipeline = _redis.pipeline()
    pipeline.hincrby(bucket, outcome, 1)
    pipeline.expire(bucket, 120)
    pipeline.execute()


@cache
def _letters():
    from pymongo import MongoClient

    letters = MongoClient(os.environ["BENCH_MONGO_URL"]).get_default_database()["dead_letters"]
    letters.create_index("messageId", unique=True)
    letters.create_index("errorType")
    letters.create_index([("status", 1), ("failedAt", -1)])
    return letters


def bury(message, error, stack):
    now = datetime.now(UTC)
    metadata = message.get("metadata") or {}
    system = {
        "cpu": os.getloadavg(),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "uptime": time.time() - _started,
    }
    _letters().insert_one(
        {
            "messageId": message["messageId"],
            "originalMessage": message,
            "errorReason": str(error),
            "errorStack": stack,
            "errorType": getattr(error, "error_type", "UNKNOWN_ERROR"),
            "retryCount": 0,
            "dlqRetryCount": 0,
            "status": "dlq_pending",
            "failedAt": now,
            "createdAt": now,
            "updatedAt": now,
            "metadata": {
                "source": metadata.get("source", "api"),
                "priority": metadata.get("priority", "normal"),
                "tags": metadata.get("tags", []),
                "systemState": system,
            },
            "replayAttempts": [],
        }
    )


def stamp(message):
    """Tell the benchmark when this handler started: CLOCK_MONOTONIC, which all processes of a machine share."""
    started = time.monotonic_ns()
    _redis.rpush("bench:starts", f"{message['messageId']} {started}")
