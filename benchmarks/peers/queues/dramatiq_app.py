import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from shop.tasks import process as work

dramatiq.set_broker(RedisBroker(url=f"redis://127.0.0.1:{os.environ['BENCH_REDIS_PORT']}/0"))


@dramatiq.actor(max_retries=3)
def process(message):
    work(message)
