"""Measurements: added up over processes, once each, and never in the way of messages."""

from __future__ import annotations

import os
from typing import Any

import pytest
import redis

from messages_app.domain.errors import LedgerRefused, StoreUnavailable
from messages_app.store.measurements import Measurements
from messages_app.work.measuring import Sender
from processes.measured import BOUNDS_S, Measured

pytestmark = pytest.mark.redis


class Deaf(Measurements):
    """Redis carries out the call, and its answer is lost."""

    answers = True

    def add(self, *arguments: Any) -> bool:
        added = super().add(*arguments)
        if not self.answers:
            raise StoreUnavailable("the answer was lost")
        return added


@pytest.fixture
def store(redis_client: redis.Redis) -> Deaf:
    return Deaf(redis_client)


def test_processes_add_to_the_same_sums(store: Deaf) -> None:
    for _ in range(2):
        counted = Measured()
        counted.count("duplicates", by=3)
        counted.observe("handler", "demo", "failed", seconds=0.02)
        Sender(counted, lambda: store).send()

    assert store.read() == {"duplicates": 6, "handler\tdemo\tfailed\t2": 2, "handler\tdemo\tfailed\tus": 40_000}


def test_a_lost_answer_counts_once(store: Deaf) -> None:
    counted = Measured()
    sender = Sender(counted, lambda: store)
    counted.count("a")
    store.answers = False
    with pytest.raises(StoreUnavailable):
        sender.send()
    counted.count("a")
    store.answers = True
    sender.send()
    sender.send()

    assert store.read() == {"a": 2}


def test_an_outage_loses_nothing(redis_client: redis.Redis, store: Deaf) -> None:
    counted = Measured()
    away = Measurements(redis.Redis(unix_socket_path="/nowhere/redis.sock"))
    sender = Sender(counted, lambda: away)
    for _ in range(3):
        counted.count("a")
        with pytest.raises(StoreUnavailable):
            sender.send()
    sender._store = lambda: store
    sender.send()

    assert store.read() == {"a": 3}


def test_a_process_that_ends_sends_the_rest_once(store: Deaf) -> None:
    counted = Measured()
    sender = Sender(counted, lambda: store)
    sender.start()
    counted.count("a")
    sender.stop()
    sender.stop()

    assert store.read() == {"a": 1}


def test_nothing_is_sent_when_nothing_was_counted(redis_client: redis.Redis, store: Deaf) -> None:
    Sender(Measured(), lambda: store).send()

    assert redis_client.keys("dlq:measured*") == []


def test_a_bad_count_changes_nothing(store: Deaf) -> None:
    with pytest.raises(LedgerRefused):
        store.add("p", 1, {"a": 1, "b": -1})

    assert store.read() == {}


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.005, 0), (0.0051, 1), (300.0, 13), (1e9, 14)])
def test_a_duration_is_in_the_first_bucket_that_covers_it(seconds: float, bucket: int) -> None:
    counted = Measured()
    counted.observe("x", seconds=seconds)

    assert counted.take()[f"x\t{bucket}"] == 1
    assert len(BOUNDS_S) == 14


def test_a_forked_child_does_not_send_the_counts_of_its_parent(redis_client: redis.Redis, store: Deaf) -> None:
    import subprocess
    import sys

    program = """
import os, django
django.setup()
from messages_app.work import measuring
from processes.measured import measured
measuring.begin()
measured.count("parent")
if os.fork() == 0:
    measuring.begin()
    measured.count("child")
    raise SystemExit
os.wait()
"""
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "dlqsite.settings"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)

    assert store.read() == {"parent": 1, "child": 1}
