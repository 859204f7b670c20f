"""A request arrives, its answer does not: the ledger asks again, and it is as if nothing had been lost."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dlq_app.domain.ports import ForwardStatus
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import AcceptStatus, Completed, RateLimit, State
from messages_app.store.ledger import Ledger
from messages_app.tests.ledgers import acceptance, order

pytestmark = pytest.mark.redis


class Proxy:
    """Passes everything on to a server; swallows the next ``lose`` answers and hangs up instead."""

    def __init__(self, folder: Path, server: str) -> None:
        self.path, self._server, self.lose = str(folder / "p.sock"), server, 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._server)
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self.lose:
                    self.lose -= 1
                    break
                sink.sendall(data)
        except OSError:
            pass  # the other direction has hung up
        for end in (source, sink):
            with contextlib.suppress(OSError):  # closed already
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(redis_client: redis.Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    proxy = Proxy(tmp_path_factory.mktemp("p"), redis_client.connection_pool.connection_kwargs["path"])
    yield proxy
    proxy.close()


@pytest.fixture
def ledger(proxy: Proxy) -> Ledger:
    """Behind the proxy, its connection open and its scripts known: only the answers to come can be lost."""
    ledger = Ledger(redis.Redis.from_url(f"unix://{proxy.path}"))
    ledger.accept(acceptance("first"))
    (claimed,) = ledger.claim(token="t0", limit=1, owner="w", holding=0).records
    ledger.flush([Completed(message_id="first", fence=claimed.fence, result="1", attempt_json="{}")])
    ledger.forward(order("never", 1, deadline_ms=0))
    ledger.drained([("never", 1, "death")])
    return ledger


def test_accept(ledger: Ledger, proxy: Proxy, redis_client: redis.Redis) -> None:
    proxy.lose = 1
    answer = ledger.accept(acceptance("a"), RateLimit(client="c", limit=1))
    assert answer.status is AcceptStatus.ACCEPTED
    assert proxy.lose == 0
    assert redis_client.llen("rq:queue:normal") == 1
    assert redis_client.llen("dlq:rate:c") == 1


def test_accept_many(ledger: Ledger, proxy: Proxy, redis_client: redis.Redis) -> None:
    proxy.lose = 1
    answers = ledger.accept_many([acceptance("a"), acceptance("b")])
    assert [answer.status for answer in answers] == [AcceptStatus.ACCEPTED] * 2
    assert redis_client.llen("rq:queue:normal") == 2


def test_claim_and_flush(ledger: Ledger, proxy: Proxy) -> None:
    ledger.accept_many([acceptance("a"), acceptance("b")])
    proxy.lose = 1
    records = ledger.claim(token="t", limit=10, owner="w", holding=0).records
    assert [claimed.message_id for claimed in records] == ["a", "b"]

    proxy.lose = 1
    verdicts = ledger.flush(
        [
            Completed(message_id=claimed.message_id, fence=claimed.fence, result="1", attempt_json="{}")
            for claimed in records
        ]
    )
    # The first copy was applied, the second one says so.
    assert verdicts == ["already", "already"]
    assert [(row.accepted, row.done, row.open) for row in ledger.accounting(1)] == [(3, 3, 0)]


def test_forward_and_void(ledger: Ledger, proxy: Proxy, redis_client: redis.Redis) -> None:
    now = ledger.now_ms()
    proxy.lose = 1
    assert ledger.forward(order("a", 5, deadline_ms=now + 60_000)).status is ForwardStatus.FORWARDED
    assert redis_client.llen("rq:queue:normal") == 1
    proxy.lose = 1
    assert ledger.void("a", 5).exists
    proxy.lose = 1
    assert not ledger.void("a", 6).exists


def test_drained_says_no_to_the_repetition_and_has_happened(ledger: Ledger, proxy: Proxy) -> None:
    ledger.forward(order("a", 5, deadline_ms=ledger.now_ms() + 60_000))
    (claimed,) = ledger.claim(token="t", limit=1, owner="w", holding=0).records
    ledger.flush([Completed(message_id="a", fence=claimed.fence, result="1", attempt_json="{}")])
    proxy.lose = 1
    ledger.drained([("a", 5, "settle")])
    record = ledger.get("a")
    assert record is not None
    assert (record.state, record.outbox) == (State.DONE, "")


def test_two_lost_answers_leave_it_open_whether_it_happened(ledger: Ledger, proxy: Proxy) -> None:
    proxy.lose = 2
    with pytest.raises(StoreUnavailable) as unknown:
        ledger.accept(acceptance("a"))
    assert isinstance(unknown.value.__cause__, redis.ConnectionError)
    assert unknown.value.retry_after
    # It did; and the line is usable again.
    assert ledger.get("a") is not None


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    ledger = Ledger(redis.Redis.from_url(f"unix://{tmp_path}/none.sock"))
    with pytest.raises(StoreUnavailable):
        ledger.now_ms()


def test_a_child_process_opens_its_own_line(redis_client: redis.Redis) -> None:
    ledger = Ledger(redis_client)
    ledger.accept(acceptance("a"))
    child = os.fork()
    if child == 0:  # nothing of pytest may run here, whatever happens
        status = 1
        try:
            status = 0 if ledger.get("a") else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert ledger.get("a") is not None
