"""Groups of submissions: what waits, what is refused, and what one of them cannot do to the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
import redis

from messages_app.domain.clients import Client
from messages_app.rest import committer, intake
from messages_app.rest.committer import Committer
from messages_app.rest.intake import Pending, prepare
from messages_app.store.ledger import Ledger, ledger

CAROL = Client(label="key:carol", rate_key="key:carol", source="carol", rate_limit_per_minute=0)

pytestmark = pytest.mark.redis


class Loop:
    """An event loop without sockets: runs what the committer posts, when the test wants it."""

    def __init__(self) -> None:
        self.posted: SimpleQueue[Any] = SimpleQueue()
        self.committer = Committer(lambda *call: self.posted.put(call))
        self.answered: list[Pending] = []

    def submit(self, *message_ids: str, payload: str = "1") -> None:
        for message_id in message_ids:
            body = f'{{"messageId":"{message_id}","payload":{payload}}}'.encode()
            head = {"CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body))}
            self.committer.add(prepare(head, body, CAROL), self.answered.append)

    def run(self, until: int) -> list[int | None]:
        """Go on until this number is answered; their statuses in order of the answers, None without a reply."""
        self.committer.turn()
        while len(self.answered) < until:
            function, *arguments = self.posted.get(timeout=20)
            function(*arguments)
            self.committer.turn()
        return [pending.reply.status if pending.reply else None for pending in self.answered]


@pytest.fixture
def loop(redis_client: Any) -> Iterator[Loop]:
    loop = Loop()
    loop.committer.start()
    yield loop
    loop.committer.stop()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Redis answers the next groups only once it is set."""
    gate, conclude = threading.Event(), intake.conclude

    def late(group: Any) -> Any:
        assert gate.wait(20)
        return conclude(group)

    monkeypatch.setattr(committer, "conclude", late)
    return gate


def counted(sizes: list[int], conclude: Any) -> Any:
    """``conclude`` that notes the size of each group."""

    def noted(group: Any) -> Any:
        sizes.append(len(group))
        return conclude(group)

    return noted


def test_a_group_is_answered_in_order(loop: Loop, redis_client: Any) -> None:
    loop.submit("a", "b", "a", "c")

    assert loop.run(4) == [202, 202, 200, 202]
    assert redis_client.llen("rq:queue:normal") == 3


def test_one_that_breaks_the_step_breaks_alone(loop: Loop, redis_client: Any) -> None:
    redis_client.set("dlq:msg:b", "of a wrong kind")
    loop.submit("a", "b", "c")

    statuses = loop.run(3)

    assert statuses[0] == statuses[2] == 202
    assert statuses[1] not in (200, 202)
    assert redis_client.llen("rq:queue:normal") == 2


def test_after_an_outage_the_rest_of_a_broken_group_is_not_tried(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def breaks(group: Any) -> Any:
        tried.append(len(group))
        if len(group) > 1:
            raise ValueError("a bug")
        return intake.conclude(group)

    monkeypatch.setattr(committer, "conclude", breaks)
    monkeypatch.setattr(intake, "ledger", lambda: Ledger(redis.Redis(port=9)))
    loop.submit("a", "b", "c")

    assert loop.run(3) == [503] * 3
    assert tried == [3, 1]


def test_what_waits_is_bounded_by_number_and_by_bytes(
    loop: Loop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(committer, "MAX_WAITING", 3)
    monkeypatch.setattr(committer, "MAX_WAITING_BYTES", 100)
    loop.submit("a")
    loop.committer.turn()
    loop.submit("b", "c", "d", "e")
    assert not loop.answered  # never before ``add`` returns

    assert loop.run(1) == [503]
    gate.set()
    assert loop.run(5) == [503, 202, 202, 202, 202]
    gate.clear()
    loop.submit("f")
    loop.committer.turn()
    loop.submit("g", "h", payload=f'"{"x" * 60}"')
    assert loop.run(6)[-1] == 503
    gate.set()
    assert loop.run(8)[-2:] == [202, 202]


def test_a_group_is_bounded_by_number_and_by_bytes(
    loop: Loop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(committer, "conclude", counted(sizes, vars(committer)["conclude"]))
    monkeypatch.setattr(committer, "MAX_GROUP", 3)
    monkeypatch.setattr(committer, "MAX_GROUP_BYTES", 100)
    loop.submit("a", "b", "c", "d")
    loop.submit("e", payload=f'"{"x" * 200}"')
    loop.submit("f")
    gate.set()

    assert loop.run(6) == [202] * 6
    assert sizes == [3, 1, 1, 1]


def test_behind_a_failed_group_all_are_refused_without_a_try_of_their_own(
    loop: Loop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[int] = []
    away = Ledger(redis.Redis(port=9))
    monkeypatch.setattr(committer, "conclude", counted(tried, vars(committer)["conclude"]))
    monkeypatch.setattr(intake, "ledger", lambda: away)
    loop.submit("a")
    loop.committer.turn()
    loop.submit("b", "c")
    gate.set()

    assert loop.run(3) == [503] * 3
    assert tried == [1]
    monkeypatch.setattr(intake, "ledger", ledger)
    loop.submit("a", "b", "c")
    assert loop.run(6)[3:] == [202] * 3


def test_a_group_that_never_ends_holds_nobody(
    loop: Loop, gate: threading.Event, monkeypatch: pytest.MonkeyPatch, redis_client: Any
) -> None:
    loop.submit("a")
    loop.committer.turn()
    loop.submit("b")
    loop.committer.check()
    assert not loop.answered
    monkeypatch.setattr(committer, "STUCK_S", 0.0)
    loop.committer.check()
    assert loop.run(2) == [503, 503]
    loop.submit("c")
    assert loop.run(3)[2] == 503

    gate.set()
    function, *arguments = loop.posted.get(timeout=20)
    function(*arguments)
    monkeypatch.setattr(committer, "STUCK_S", 20.0)
    loop.submit("d")
    assert loop.run(4) == [503, 503, 503, 202]
    assert redis_client.exists("dlq:msg:a", "dlq:msg:b", "dlq:msg:c") == 1  # the first came through after all
