"""Puts N messages into a queue. usage: fill.py rq|celery|dramatiq|huey N; the message is in BENCH_MESSAGE."""

import json
import os
import sys
import uuid

_input = json.loads(os.environ["BENCH_MESSAGE"])


def message():
    return {"messageId": str(uuid.uuid4()), **_input, "retryCount": 0, "timestamp": "2026-01-01T00:00:00+00:00"}


def fill_rq(total):
    import redis
    from rq import Queue, Retry
    from shop.tasks import process

    queue = Queue("default", connection=redis.Redis(port=int(os.environ["BENCH_REDIS_PORT"])))
    retry = Retry(max=3, interval=[1, 2, 4])
    for start in range(0, total, 500):
        batch = [message() for _ in range(min(500, total - start))]
        queue.enqueue_many([Queue.prepare_data(process, (m,), job_id=m["messageId"], retry=retry) for m in batch])


def fill_celery(total):
    from celery_app import process

    for _ in range(total):
        process.delay(message())


def fill_dramatiq(total):
    from dramatiq_app import process

    for _ in range(total):
        process.send(message())


def fill_huey(total):
    from huey_app import process

    for _ in range(total):
        process(message())


{"rq": fill_rq, "celery": fill_celery, "dramatiq": fill_dramatiq, "huey": fill_huey}[sys.argv[1]](int(sys.argv[2]))
