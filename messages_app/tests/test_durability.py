"""``ACCEPT_DURABILITY``: a message is confirmed when it is as safe as was asked for, and else honestly refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from breaker_app.tests.servers import OwnServer, Pair
from messages_app import conf
from messages_app.domain.clients import Client
from messages_app.domain.errors import NotConfirmed
from messages_app.domain.records import AcceptStatus
from messages_app.domain.redis_state import refusal_problem
from messages_app.rest import intake
from messages_app.rest.intake import submit, submit_batch
from messages_app.rest.replies import Reply
from messages_app.store.ledger import Ledger
from messages_app.store.ledger_server import Terms, _waits_ms, terms_from_settings
from messages_app.tests.handling import an_acceptance
from wire.errors import PolicyError

PATIENT = Terms(fsync_timeout_ms=10_000, replicas=1)
HASTY = Terms(fsync_timeout_ms=150, replicas=1)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.remove()


@pytest.fixture
def client(pair: Pair) -> redis.Redis:
    return redis.Redis.from_url(pair.url)


@pytest.fixture
def replica(pair: Pair) -> OwnServer:
    return pair.servers[1]


@contextmanager
def silent(server: OwnServer) -> Iterator[None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.redis
def test_a_message_is_confirmed_once_a_replica_has_it_on_disk(client: redis.Redis, replica: OwnServer) -> None:
    book = Ledger(client, terms=PATIENT)
    answers = book.accept_many([an_acceptance(message_id="a"), an_acceptance(message_id="b")])
    assert [answer.status for answer in answers] == ["accepted"] * 2
    assert replica.client.exists("dlq:msg:a", "dlq:msg:b") == 2


@pytest.mark.redis
def test_without_a_replica_that_confirms_it_is_refused_and_may_be_there(
    client: redis.Redis, replica: OwnServer
) -> None:
    hasty, message = Ledger(client, terms=HASTY), an_acceptance(message_id="c")
    with silent(replica):
        with pytest.raises(NotConfirmed, match="replica") as refused:
            hasty.accept(message)
        with pytest.raises(NotConfirmed, match="replica"):
            hasty.accept_group([(message, None), (an_acceptance(message_id="d"), None)])
        assert hasty.get("c") is not None
        # On a connection that has written nothing: it waits for what the first one wrote.
        again = an_acceptance(message_id="c")
        with pytest.raises(NotConfirmed):
            Ledger(client, terms=HASTY).accept(again)
        with pytest.raises(NotConfirmed):
            hasty.try_write()
    assert refusal_problem(refused.value).code == "not_confirmed"
    assert Ledger(client, terms=PATIENT).accept(again).status is AcceptStatus.DUPLICATE


@pytest.mark.redis
def test_a_replica_that_keeps_no_file_confirms_nothing(client: redis.Redis, replica: OwnServer) -> None:
    replica.client.config_set("appendonly", "no")
    try:
        with pytest.raises(NotConfirmed):
            Ledger(client, terms=HASTY).accept(an_acceptance())
        # One server's own disk is all that this one asks for.
        assert Ledger(client, terms=Terms(fsync_timeout_ms=10_000)).accept(an_acceptance()).status == "accepted"
    finally:
        replica.client.config_set("appendonly", "yes")


@pytest.mark.redis
def test_both_doors_and_batches_say_so(
    client: redis.Redis, replica: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "ledger", lambda: Ledger(client, terms=HASTY))
    sender = Client(label="key:test", rate_key="key:test", rate_limit_per_minute=0)

    def send(how: Callable[..., Reply], body: Any) -> tuple[int, Any, Any]:
        raw = json.dumps(body).encode()
        head = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(raw))}
        reply = how(head, lambda size: raw[:size], sender)
        told = json.loads(reply.body)
        return reply.status, told["code"], reply.headers.get("Retry-After")

    message = {"type": "demo", "messageId": "d", "payload": {}}
    with silent(replica):
        assert send(submit, message) == (503, "not_confirmed", "2")
        assert send(submit_batch, {"messages": [message]}) == (503, "not_confirmed", "2")


@pytest.mark.redis
def test_no_connected_replica_is_named(pair: Pair, client: redis.Redis, redis_client: redis.Redis) -> None:
    book, alone = Ledger(client, terms=HASTY), Ledger(redis_client, terms=HASTY)
    assert book.replica_problems(book.server_info()) == []
    assert [problem.code for problem in alone.replica_problems(alone.server_info())] == ["no_replica"]
    assert Ledger(redis_client).replica_problems(alone.server_info()) == []


def test_replicas_are_asked_again_and_again_within_the_time() -> None:
    assert _waits_ms(1500, 0) == [1500]
    waits = _waits_ms(1500, 1)
    assert sum(waits) == 1500
    assert waits[0] < 20
    assert max(waits) <= 250


def test_settings_say_what_is_asked_for(settings: Any) -> None:
    asked = {}
    for word in conf.DURABILITIES:
        settings.ACCEPT_DURABILITY = word
        terms = terms_from_settings()
        asked[word] = (terms.fsync_timeout_ms, terms.replicas)
    assert asked == {"everysec": (None, 0), "fsync": (1500, 0), "replica": (1500, 1)}
    settings.ACCEPT_DURABILITY = "replicated"
    assert terms_from_settings().replicas == 1, "its name in earlier versions"
    settings.ACCEPT_DURABILITY = "always"
    with pytest.raises(PolicyError, match="everysec, fsync, replica"):
        terms_from_settings()
