"""Real Sentinels promote a replica: nothing confirmed is lost, and every process finds the new primary."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django_rq.queues import get_queue

from breaker_app.policy import BreakerPolicy
from breaker_app.sentinels import client_of, forget_watches, view_of, watch_of
from breaker_app.store import RedisBreakerStore
from breaker_app.tests.servers import Watched
from dlqsite.health import store_checks
from dlqsite.tests import scenes
from dlqsite.tests.patience import eventually
from management import doctor, embedded
from management.doctor import Status
from messages_app.domain.errors import LedgerRefused, StoreUnavailable
from messages_app.domain.records import State
from messages_app.store.ledger import Ledger, ledger
from messages_app.store.ledger_server import Terms
from messages_app.tests.handling import an_acceptance, handling
from messages_app.work.engine import Engine

pytestmark = pytest.mark.redis

REPLICA = Terms(fsync_timeout_ms=1500, replicas=1, lease_ms=3000)
SENDERS = 4


@pytest.fixture(scope="module")
def shared() -> Iterator[Watched]:
    watched = Watched("--repl-timeout", "5")
    yield watched
    forget_watches()
    watched.remove()


@pytest.fixture
def watched(shared: Watched) -> Watched:
    shared.wait(lambda: shared.is_complete)
    return shared


class Senders:
    """Clients that submit all the time, each with a ledger of its own, and send again what was not confirmed."""

    def __init__(self, watched: Watched) -> None:
        self.confirmed: set[str] = set()
        self.refused = 0
        self._over = threading.Event()
        self._ledgers = [Ledger(client_of(watched.url), terms=REPLICA) for _ in range(SENDERS)]
        self._threads = [threading.Thread(target=self._send, args=(one, number), daemon=True)
                         for number, one in enumerate(self._ledgers)]  # fmt: skip

    def __enter__(self) -> Senders:
        for thread in self._threads:
            thread.start()
        self.sends_again()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def sends_again(self) -> None:
        """Wait until further messages are confirmed."""
        least = len(self.confirmed) + 5 * SENDERS
        eventually(lambda: len(self.confirmed) >= least, seconds=30)

    def _send(self, ledger: Ledger, number: int) -> None:
        count = 0
        while not self._over.is_set():
            message = an_acceptance(message_id=f"{time.monotonic_ns()}-{number}-{count}", type="test.counted")
            count += 1
            while True:
                try:
                    ledger.accept(message)
                except (StoreUnavailable, LedgerRefused):
                    self.refused += 1
                    if self._over.wait(0.05):
                        return
                else:
                    self.confirmed.add(message.message_id)
                    break


def test_no_message_is_confirmed_by_a_replica_that_the_new_primary_does_not_have(watched: Watched) -> None:
    """A plain SENTINEL FAILOVER promotes one replica while the old primary still takes messages, and has the other."""
    first = watched.primary
    assert view_of(client_of(watched.url)) is not None
    eventually(lambda: watch_of(watched.url).confirming([]) == 2)
    with Senders(watched) as senders:
        watched.tell(0, "FAILOVER")
        eventually(lambda: watched.primary != first)
        senders.sends_again()
        senders.sends_again()
    # Sentinel does this, too, after ten seconds.
    watched.servers[first].client.replicaof("127.0.0.1", watched.ports[watched.primary])
    now = Ledger(client_of(watched.url))
    assert [one for one in senders.confirmed if now.get(one) is None] == []


def test_messages_confirmed_by_a_replica_survive_the_death_of_the_primary(watched: Watched) -> None:
    book = Ledger(client_of(watched.url), terms=REPLICA)
    before, first = view_of(client_of(watched.url)), watched.primary
    assert before is not None
    assert (before.answering, before.with_quorum, before.troubles) == (3, 3, ())
    assert before.primary == ("127.0.0.1", watched.ports[first])
    with handling(lambda message: None, type="test.counted"):
        engine = Engine(book, name="w-1", concurrency=4)
        engine.start()
        with Senders(watched) as senders:
            killed = watched.servers[first].process
            assert killed is not None
            killed.kill()
            killed.wait()
            senders.sends_again()
        assert senders.refused
        eventually(lambda: watched.primary != first)
        eventually(lambda: all(row.open == 0 for row in book.accounting()), seconds=30)
        assert engine.stop(5)
    # A message that was never confirmed may be there, too.
    states = {one: book.get(one) for one in senders.confirmed}
    assert [one for one, record in states.items() if record is None or record.state is not State.DONE] == []
    (row,) = book.accounting()
    assert (row.difference, row.below_zero) == (0, 0)
    assert row.done == row.accepted >= len(senders.confirmed)

    # The old primary comes back and takes itself for one. No one believes it.
    watched.servers[first].socket.unlink(missing_ok=True)
    watched.servers[first].start()
    assert watched.servers[first].client.info("replication")["role"] == "master"
    Ledger(client_of(watched.url)).accept(an_acceptance(message_id="late"))
    assert not watched.servers[first].client.exists("dlq:msg:late")
    watched.servers[first].client.replicaof("127.0.0.1", watched.ports[watched.primary])


def test_a_primary_that_was_paused_gets_no_message_when_it_wakes(watched: Watched) -> None:
    first = watched.primary
    paused = watched.servers[first].process
    assert paused is not None
    breakers = RedisBreakerStore(client_of(watched.url))
    with Senders(watched) as senders:
        paused.send_signal(signal.SIGSTOP)
        senders.sends_again()
        paused.send_signal(signal.SIGCONT)
        senders.sends_again()
    eventually(lambda: watched.primary != first)
    eventually(lambda: breakers.peek("db", BreakerPolicy()))
    now = Ledger(client_of(watched.url))
    assert [one for one in senders.confirmed if now.get(one) is None] == []
    watched.servers[first].client.replicaof("127.0.0.1", watched.ports[watched.primary])


def test_a_forked_child_asks_the_sentinels_itself(watched: Watched) -> None:
    client = client_of(watched.url)
    assert view_of(client) is not None
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if Ledger(client).now_ms() and view_of(client).answering == 3 else 1)  # type: ignore[union-attr]
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def site(watched: Watched, settings: Any) -> Iterator[None]:
    """The system on the Sentinels."""
    address, settings.REDIS_URL = settings.REDIS_URL, watched.url
    scenes.reconnect()
    yield
    settings.REDIS_URL = address
    scenes.reconnect()


def codes() -> tuple[str, list[str], Mapping[str, Any]]:
    found = store_checks.check_redis()
    return found.status.value, [problem.code for problem in found.problems], found.facts


@pytest.mark.django_db
@pytest.mark.usefixtures("site")
def test_pages_of_queues_and_commands_use_the_primary(watched: Watched, admin_client: Client) -> None:
    server = watched.servers[watched.primary].client
    assert get_queue("normal").count == server.llen("rq:queue:normal")
    for path in ("", "queues/0/"):
        assert admin_client.get(reverse("admin:django_rq_dashboard_changelist") + path).status_code == 200
    embedded.require_redis(watched.url)
    assert embedded.reporting_pids(watched.url) == set()


@pytest.mark.usefixtures("site")
def test_health_and_doctor_name_missing_sentinels_and_what_a_primary_may_do_alone(watched: Watched) -> None:
    server = watched.servers[watched.primary].client
    names = {"primary": f"127.0.0.1:{watched.ports[watched.primary]}", "replicas": 2}
    status, problems, facts = codes()
    assert (status, problems) == ("healthy", [])
    assert names.items() <= facts.items()
    assert facts["sentinels"] == {"of": 3, "answering": 3, "withQuorum": 3}
    assert "min-replicas-to-write is 0" in store_checks.check_redis().detail
    told = {one.name: one for one in doctor.check_redis()}
    assert (told["redis replicas"].status, told["sentinels"].status) == (Status.WARN, Status.OK)
    server.config_set("min-replicas-to-write", 1)
    assert store_checks.check_redis().detail == ""
    watched.kill_sentinel(2)
    eventually(lambda: codes()[:2] == ("degraded", ["sentinels_missing"]), what=str(codes()))
    watched.kill_sentinel(1)
    eventually(lambda: codes()[:2] == ("degraded", ["no_quorum"]), what=str(codes()))
    watched.kill_sentinel(0)
    eventually(lambda: codes()[:2] == ("degraded", ["sentinels_away"]), what=str(codes()))
    assert ledger().try_write(), "an open connection needs no Sentinel"
    for number in range(3):
        watched.start_sentinel(number)
    eventually(lambda: codes()[:2] == ("healthy", []), what=str(codes()))
    assert ledger().accept(an_acceptance()).status == "accepted"
    server.config_set("min-replicas-to-write", 0)


def test_an_unknown_service_is_named(watched: Watched) -> None:
    book = Ledger(client_of(watched.url.replace("/dlq/", "/other/")))
    with pytest.raises(StoreUnavailable, match="Sentinel knows no service other"):
        book.now_ms()
