"""What RQ's workers may run, and what nobody can make them run."""

from __future__ import annotations

import json
import pickle
import zlib
from typing import Any

import pytest
import redis
from django.test import Client
from django.urls import reverse
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.queue import Queue
from rq.serializers import DefaultSerializer, JSONSerializer
from rq.worker import SimpleWorker

from messages_app.domain.records import State
from messages_app.jobs import JobRefused, WakeUpJob, process
from messages_app.store.ledger import Ledger
from messages_app.store.queues import NAMES
from messages_app.tests.handling import an_acceptance

pytestmark = pytest.mark.redis


def stored(client: redis.Redis, data: Any, **fields: Any) -> WakeUpJob:
    """The job that RQ would read for these stored fields."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    mapping: dict[Any, Any] = {"data": raw, "status": "queued", "origin": "normal", **fields}
    client.hset("rq:job:j1", mapping=mapping)
    job = WakeUpJob.fetch("j1", connection=client, serializer=DefaultSerializer)
    assert isinstance(job, WakeUpJob)
    return job


def test_a_wake_up_runs_process(redis_client: redis.Redis) -> None:
    job = stored(redis_client, ["messages_app.jobs.process", None, ["m1", 5, 0], {}])

    assert job.func is process
    assert list(job.args) == ["m1", 5, 0]
    assert job.serializer is JSONSerializer


@pytest.mark.parametrize(
    "data",
    [
        ["os.system", None, ["true"], {}],
        ["messages_app.services.process", None, ["m1", 5, 0], {}],
        ["process", "messages_app.jobs", ["m1", 5, 0], {}],
        ["messages_app.jobs.process", {"__class__": "x"}, [], {}],
        [],
        {"a": 1},
        b"\x80\x04not a pickle",
        pickle.dumps(("os.system", None, ("true",), {})),
        zlib.compress(b"[" + b" " * 10_000_000 + b"]"),
        b"[" + b"1," * 2000 + b"1]",
        b"",
    ],
)
def test_nothing_else_is_run_and_reading_it_does_no_harm(redis_client: redis.Redis, data: Any) -> None:
    job = stored(redis_client, data)

    with pytest.raises(DeserializationError):
        job.func()


def woken(client: redis.Redis, message_id: str = "shop-5-1-2") -> str:
    """Accept a message; the id of its wake-up, which is all that is stored of the job."""
    Ledger(client, "dlq:").accept(an_acceptance(message_id=message_id, priority="high"))
    job_id: Any
    (job_id,) = client.lrange("rq:queue:high", 0, -1)
    assert client.keys("rq:job:*") == []
    return str(job_id.decode())


def test_a_wake_up_is_read_from_its_id_and_its_message(redis_client: redis.Redis) -> None:
    job_id = woken(redis_client)
    record = Ledger(redis_client, "dlq:").get("shop-5-1-2")
    assert record is not None

    job = WakeUpJob.fetch(job_id, connection=redis_client)

    assert (job.func, list(job.args)) == (process, ["shop-5-1-2", record.epoch, 0])
    assert (job.origin, job.get_status(), job.timeout, job.result_ttl) == ("high", "queued", 3600, 60)
    assert job.enqueued_at is not None
    assert round(job.enqueued_at.timestamp() * 1000) == record.queued_at_ms
    assert WakeUpJob.exists(job_id, redis_client)
    (many, none) = WakeUpJob.fetch_many([job_id, "other"], connection=redis_client)
    assert (many and many.id, none) == (job_id, None)


def test_a_wake_up_that_rq_has_begun_is_whole_and_says_so(redis_client: redis.Redis) -> None:
    job_id = woken(redis_client)
    Ledger(redis_client, "dlq:").claim(token="t", limit=1, owner="w1", holding=0)
    redis_client.hset(f"rq:job:{job_id}", mapping={"status": "started", "worker_name": "w1"})

    job = WakeUpJob.fetch(job_id, connection=redis_client)

    assert (job.func, job.get_status(refresh=False), job.worker_name, job.origin) == (process, "started", "w1", "high")


def test_pages_of_rq_show_a_wake_up(redis_client: redis.Redis, admin_client: Client) -> None:
    job_id = woken(redis_client)
    lane = f"{reverse('admin:django_rq_dashboard_changelist')}queues/{sorted(NAMES).index('high')}/"

    for page in (lane, f"{lane}{job_id}/"):
        answer = admin_client.get(page)
        assert answer.status_code == 200
        assert job_id in answer.content.decode()
    assert admin_client.get(f"{lane}{job_id[:-1]}9/").status_code == 404
    assert redis_client.lrange("rq:queue:high", 0, -1) == [job_id.encode()]


@pytest.mark.parametrize("id", ["m-a-1-0", "m-a-1-0-x", "m--1-0-1", "a-1-0-1", "m-nobody-1-0-1", "m-bad-1-0-1"])
def test_other_ids_are_no_wake_ups(redis_client: redis.Redis, id: str) -> None:
    redis_client.set("dlq:msg:bad", "not a hash")

    with pytest.raises(NoSuchJobError):
        WakeUpJob.fetch(id, connection=redis_client)
    assert not WakeUpJob.exists(id, redis_client)


def test_an_outdated_wake_up_is_gone(redis_client: redis.Redis) -> None:
    job_id = woken(redis_client)
    Ledger(redis_client, "dlq:").claim(token="t", limit=1, owner="w1", holding=0)

    with pytest.raises(NoSuchJobError):
        WakeUpJob.fetch(job_id, connection=redis_client)


def test_refusals_have_a_name(redis_client: redis.Redis) -> None:
    with pytest.raises(JobRefused):
        stored(redis_client, ["os.system", None, ["true"], {}]).func()


def test_callbacks_webhooks_and_retries_are_not_read(redis_client: redis.Redis) -> None:
    job = stored(
        redis_client,
        ["messages_app.jobs.process", None, ["m1", 5, 0], {}],
        success_callback_name="os.abort",
        failure_callback_name="os.abort",
        stopped_callback_name="os.abort",
        webhooks='[{"url": "http://169.254.169.254/"}]',
        retries_left="3",
        repeats_left="3",
        meta=pickle.dumps({}),
        result=pickle.dumps(1),
    )

    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)
    assert (job.webhooks, job.retries_left, job.repeats_left, job.meta) == ([], None, None, {})


def test_a_refused_job_does_not_end_the_worker(redis_client: redis.Redis) -> None:
    book = Ledger(redis_client, "dlq:")
    queue = Queue("normal", connection=redis_client, job_class=WakeUpJob, serializer=JSONSerializer)
    redis_client.hset(
        "rq:job:bad",
        mapping={"data": '["os.system",null,["true"],{}]', "status": "queued", "origin": "normal", "timeout": 60},
    )
    redis_client.rpush("rq:queue:normal", "bad")
    book.accept(an_acceptance(message_id="m1"))

    SimpleWorker([queue], connection=redis_client, job_class=WakeUpJob, serializer=JSONSerializer).work(burst=True)

    assert book.get("m1").state is State.DONE  # type: ignore[union-attr]
    assert WakeUpJob.fetch("bad", connection=redis_client).is_failed


@pytest.mark.parametrize(
    ("payload", "outcome", "state"),
    [
        ({}, "completed", State.DONE),
        ({"simulateError": True, "errorType": "NETWORK_ERROR"}, "failed", State.RETRY_WAIT),
        ({"simulateError": True, "errorType": "VALIDATION_ERROR"}, "given_up", State.DEAD_PENDING),
    ],
)
def test_one_attempt_ends_as_it_would_in_our_own_worker(
    redis_client: redis.Redis, payload: dict[str, Any], outcome: str, state: State
) -> None:
    book = Ledger(redis_client, "dlq:")
    book.accept(an_acceptance(payload, message_id="m1"))
    record = book.get("m1")
    assert record is not None

    assert process("m1", record.epoch, record.attempt) == outcome
    assert book.get("m1").state is state  # type: ignore[union-attr]
    assert process("m1", record.epoch, record.attempt) == "not_claimed"


def test_a_wake_up_for_nothing_is_no_error(redis_client: redis.Redis) -> None:
    assert process("nobody", 1, 0) == "not_claimed"
