import os

from huey import RedisHuey
from shop.tasks import process as work

huey = RedisHuey("peers", host="127.0.0.1", port=int(os.environ["BENCH_REDIS_PORT"]), results=False)


@huey.task(retries=3)
def process(message):
    work(message)
