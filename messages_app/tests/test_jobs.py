"""What RQ's workers may run, and what nobody can make them run."""

from __future__ import annotations

import json
import pickle
import zlib
from typing import Any

import pytest
import redis
from rq.exceptions import DeserializationError
from rq.queue import Queue
from rq.serializers import DefaultSerializer, JSONSerializer
from rq.worker import SimpleWorker

from messages_app.domain.records import State
from messages_app.jobs import JobRefused, WakeUpJob, process
from messages_app.store.ledger import Ledger
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
