"""One job per message with the library that BENCH_QUEUE names, as its guide shows."""

import os


def _rq():
    import django_rq
    from rq import Retry

    from .tasks import process

    def enqueue(message):
        retry = Retry(max=3, interval=[1, 2, 4])
        django_rq.get_queue("default").enqueue(process, message, job_id=message["messageId"], retry=retry)

    return enqueue


def _celery():
    from celery_app import process

    return process.delay


def _dramatiq():
    from dramatiq_app import process

    return process.send


def _huey():
    from huey_app import process

    return process


enqueue = {"rq": _rq, "celery": _celery, "dramatiq": _dramatiq, "huey": _huey}[os.environ.get("BENCH_QUEUE", "rq")]()
