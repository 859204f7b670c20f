"""The ledger's server fails under a running engine and returns: no message is lost or run twice."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from dlqsite.tests.patience import eventually
from management.embedded import Valkey, valkey_binary
from management.supervisor import bound_to_parent
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Claim, Outcome, OutcomeAnswer, State
from messages_app.envelope import Message
from messages_app.store.connection import ThreadConnections
from messages_app.store.ledger import Ledger
from messages_app.tests.handling import an_acceptance, handling, reaches
from messages_app.work import claiming, flushing, leases
from messages_app.work import engine as engine_module
from messages_app.work.claiming import MAX_AHEAD
from messages_app.work.engine import Engine

pytestmark = pytest.mark.redis


class OwnServer:
    """A server that a test can kill, stop and restart with its data."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dlqo-"))  # short: a socket path has at most 100 characters
        binary = valkey_binary()
        assert binary is not None
        self.valkey = Valkey(binary, self.folder, self.folder)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        command = bound_to_parent(self.valkey.command, signal.SIGKILL)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.process = process
        eventually(lambda: self.valkey.ready(process.pid))

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        if number is signal.SIGKILL:
            self._settle()
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()

    def _settle(self) -> None:
        """Wait until all writes are on disk: a busy disk may delay them, which is not under test."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.set("test:settled", "1")
            client.execute_command("WAITAOF", 1, 0, 5000)

    def close(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of production, shorter: for an answer, for work, between retries, before a requeue, at the end."""
    wait_for_work = Ledger.wait_for_work
    monkeypatch.setattr(ThreadConnections.__init__, "__defaults__", (0.4,))
    monkeypatch.setattr(Ledger, "wait_for_work", lambda self, timeout_s: wait_for_work(self, 0.1))
    monkeypatch.setattr(claiming, "_MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(flushing, "_MAX_PAUSE_S", 0.2)
    monkeypatch.setattr(leases, "UNSTARTED_S", 0.3)
    monkeypatch.setattr(engine_module, "FINAL_FLUSH_S", 1.0)


@pytest.fixture
def server() -> Iterator[OwnServer]:
    server = OwnServer()
    yield server
    server.close()


@pytest.fixture
def book(server: OwnServer) -> Ledger:
    return Ledger(redis.Redis.from_url(server.valkey.url), "dlq:")


def test_outcomes_are_kept_while_the_server_is_down(server: OwnServer, book: Ledger) -> None:
    ends = threading.Event()
    runs: list[str] = []

    def handle(message: object) -> None:
        runs.append("run")
        ends.wait(20)

    with handling(handle) as type:
        engine = Engine(book, name="w-1", concurrency=3)
        engine.start()
        for number in range(3):
            book.accept(an_acceptance(message_id=f"m{number}", type=type))
        eventually(lambda: engine.pool.busy() == 3)

        server.signal(signal.SIGKILL)
        ends.set()
        eventually(lambda: engine.pool.held() == 0)
        time.sleep(0.2)
        server.start()

        for number in range(3):
            record = reaches(book, f"m{number}", State.DONE, seconds=20)
            assert record.recoveries == 0
        book.accept(an_acceptance(message_id="next", type=type))
        reaches(book, "next", State.DONE, seconds=20)
        assert engine.stop(1)

    assert len(runs) == 4


def test_a_server_that_hangs_delays_messages_and_loses_none(server: OwnServer, book: Ledger) -> None:
    with handling(lambda message: time.sleep(0.01)) as type:
        engine = Engine(book, name="w-1", concurrency=3)
        engine.start()
        book.accept_many([an_acceptance(message_id=f"m{number}", type=type) for number in range(300)])
        eventually(lambda: engine.flusher.completed > 20)

        server.signal(signal.SIGSTOP)
        time.sleep(1.0)  # longer than both attempts to get an answer
        server.signal(signal.SIGCONT)

        eventually(lambda: book.accounting()[0].done == 300, seconds=30)
        records = [record for record in book.get_many([f"m{number}" for number in range(300)]) if record]
        assert {record.recoveries for record in records} == {0}
        assert engine.stop(1)


class Counted(Ledger):
    """Counts claims without an answer."""

    unanswered = 0

    def claim(self, **how: Any) -> Claim:
        try:
            return super().claim(**how)
        except StoreUnavailable:
            self.unanswered += 1
            raise


class Gate:
    """A handler that records its runs, and blocks them once it is shut."""

    def __init__(self) -> None:
        self.shut = threading.Event()
        self.opened = threading.Event()
        self.runs: list[str] = []
        self.waiting: list[str] = []

    def __call__(self, message: Message) -> None:
        self.runs.append(message.id)
        if self.shut.is_set():
            self.waiting.append(message.id)
            self.opened.wait(60)


@pytest.mark.parametrize("requeues", [False, True], ids=["finish at once", "requeue first"])
def test_while_the_server_hangs_only_claimed_messages_run(server: OwnServer, requeues: bool) -> None:
    size, count = 3, 1000
    book = Counted(redis.Redis.from_url(server.valkey.url), "dlq:")
    gate = Gate()
    with handling(gate) as type:
        engine = Engine(book, name="w-1", concurrency=size)
        engine.start()
        for first in range(0, count, 250):
            book.accept_many([an_acceptance(message_id=f"m{first + n}", type=type) for n in range(250)])
        eventually(lambda: engine.claimer.pace.ahead > 1)
        gate.shut.set()
        eventually(lambda: len(gate.waiting) == size and engine.pool.backlog)

        server.signal(signal.SIGSTOP)
        try:
            before = list(gate.runs)
            ahead = {attempt.claimed.message_id for attempt in tuple(engine.pool.backlog)}
            if requeues:
                # Messages that no thread starts in time are requeued; their outcomes wait for the server, too.
                eventually(lambda: not engine.pool.backlog)
            gate.opened.set()
            # After one claim without an answer, all claims before it have been processed.
            asked = book.unanswered
            eventually(lambda: book.unanswered > asked and engine.pool.held() == 0)
            seen, asked = list(gate.runs), book.unanswered
            eventually(lambda: book.unanswered > asked)

            assert gate.runs == seen, "no further message is started"
            begun = seen[len(before) :]
            assert len(begun) <= MAX_AHEAD
            assert not requeues or not ahead & set(begun)
        finally:
            server.signal(signal.SIGCONT)

        eventually(lambda: book.accounting()[0].done == count, seconds=60)
        assert engine.stop(1)
    assert len(gate.runs) == len(set(gate.runs)) == count, "each message ran once"


class LedgerOfProcess(Ledger):
    """The ledger of one process, until that process has ended."""

    gone = False

    def flush_for_letters(self, outcomes: Sequence[Outcome]) -> list[OutcomeAnswer]:
        if self.gone:
            raise StoreUnavailable("the process has ended")
        return super().flush_for_letters(outcomes)


def test_stopping_without_a_server_ends_in_time_and_reports_it(server: OwnServer, book: Ledger) -> None:
    own = LedgerOfProcess(redis.Redis.from_url(server.valkey.url), "dlq:")
    killed = threading.Event()
    with handling(lambda message: killed.wait(20)) as type:
        engine = Engine(own, name="w-1", concurrency=1)
        engine.start()
        book.accept(an_acceptance(message_id="m1", type=type))
        reaches(book, "m1", State.RUNNING)
        server.signal(signal.SIGKILL)
        killed.set()

        assert not engine.stop(0.5)
        own.gone = True  # the process ends here; the threads of this one do not

    server.start()
    reaches(book, "m1", State.RUNNING)  # until its lease ends
