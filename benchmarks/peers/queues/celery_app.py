import os

from celery import Celery
from shop.tasks import process as work

app = Celery("peers", broker=f"redis://127.0.0.1:{os.environ['BENCH_REDIS_PORT']}/0")
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


@app.task(max_retries=3)
def process(message):
    work(message)
