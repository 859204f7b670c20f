"""Workers as real processes: signals, kills, and RQ's own worker on the same lanes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings
from rq.worker import Worker

from dlqsite.tests.patience import eventually
from messages_app.domain.records import State
from messages_app.store import lane_workers, presence
from messages_app.store.ledger import Ledger
from messages_app.store.queues import queues
from messages_app.tests.handling import an_acceptance, reaches
from messages_app.work.forking import ForkingWorker
from messages_app.work.upkeep import Upkeep
from messages_app.worker import make_worker

pytestmark = [pytest.mark.redis, pytest.mark.journey]

ROOT = Path(__file__).resolve().parents[2]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start ``manage.py …`` in a session of its own; whatever still runs at the end is killed.

    ``settings`` is Python text that is added to the site's settings.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str, settings: str = "", **environment: str) -> subprocess.Popen[bytes]:
        (tmp_path / "more_settings.py").write_text(f"from dlqsite.settings import *\n{settings}\n")
        environment |= {"DJANGO_SETTINGS_MODULE": "more_settings", "PYTHONPATH": str(tmp_path)}
        with (tmp_path / f"{len(processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *command], cwd=ROOT, env={**os.environ, **environment},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    for log in sorted(tmp_path.glob("*.log")):
        print(log.read_text(errors="replace"))  # noqa: T201 - shown when the test fails


#: Handlers that end when something has happened, so that what a test does meets work under way on any machine: the file
#: is there; or the thread that claims has ended, as it does when the worker is told to stop.
HELD = """
import threading
import time
from pathlib import Path
from messages_app.registry import handler

def begin(message):
    Path(__file__).with_name(message.id + ".begun").touch()

@handler("test.held", timeout=60)
def held(message):
    begin(message)
    while not Path(__file__).with_name("release").exists():
        time.sleep(0.01)

@handler("test.until_stopping", timeout=60)
def until_stopping(message):
    begin(message)
    while any(thread.name == "claim" for thread in threading.enumerate()):
        time.sleep(0.01)
"""


class Gate:
    """An app whose messages of type ``test.held`` end once ``open`` was called."""

    settings = "INSTALLED_APPS += ['gate']"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "gate"
        self.folder.mkdir()
        (self.folder / "__init__.py").touch()
        (self.folder / "handlers.py").write_text(HELD)

    def wait_for(self, *message_ids: str) -> None:
        """Until their handlers run: a message that is only claimed goes back to its lane when a worker stops."""
        for message_id in message_ids:
            eventually((self.folder / f"{message_id}.begun").exists, seconds=40, what=f"{message_id} has begun")

    def open(self) -> None:
        (self.folder / "release").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def stopped(process: subprocess.Popen[bytes], seconds: float = 20) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(seconds)


def test_a_worker_is_listed_runs_messages_and_ends_on_sigterm(
    book: Ledger, spawn: Spawn, redis_client: redis.Redis
) -> None:  # fmt: skip
    worker = spawn("run_worker", "--concurrency", "4")
    book.accept_many([an_acceptance(message_id=f"m{number}") for number in range(200)])
    for number in (0, 199):
        reaches(book, f"m{number}", State.DONE, seconds=30)
    (listed,) = Worker.all(connection=redis_client)
    assert (listed.pid, sorted(listed.queue_names())) == (worker.pid, ["alone", "high", "low", "normal"])
    (present,) = eventually(lambda: presence.present("worker"))
    assert (present.pid, present.details["threads"]) == (worker.pid, 4)

    assert stopped(worker) == 0

    assert Worker.all(connection=redis_client) == []
    assert presence.present("worker") == []


def test_sigterm_finishes_what_runs_and_hands_back_what_does_not_end(book: Ledger, spawn: Spawn, gate: Gate) -> None:
    worker = spawn("run_worker", "--concurrency", "2", settings=gate.settings, WORKER_SHUTDOWN_GRACE="3")
    book.accept(an_acceptance(message_id="short", type="test.until_stopping"))
    book.accept(an_acceptance(message_id="long", type="test.held"))
    book.accept(an_acceptance(message_id="waiting"))
    gate.wait_for("short", "long")

    begun = time.monotonic()
    assert stopped(worker) == 0

    assert time.monotonic() - begun < 10
    assert book.get("short").state is State.DONE  # type: ignore[union-attr]
    for message_id in ("long", "waiting"):
        record = book.get(message_id)
        assert record is not None
        assert (record.state, record.attempt, record.recoveries) == (State.QUEUED, 0, 0)


def test_a_killed_workers_messages_are_run_by_another(book: Ledger, spawn: Spawn, gate: Gate) -> None:
    settings = f"LEASE_S = 2\n{gate.settings}"
    worker = spawn("run_worker", "--concurrency", "5", settings=settings)
    book.accept_many([an_acceptance(message_id=f"m{number}", type="test.held") for number in range(5)])
    gate.wait_for(*(f"m{number}" for number in range(5)))

    worker.kill()
    worker.wait()
    gate.open()
    spawn("run_worker", "--concurrency", "5", settings=settings)

    for number in range(5):
        record = reaches(book, f"m{number}", State.DONE, seconds=40)
        assert (record.recoveries, record.attempt) == (1, 0)
    (account,) = book.accounting()
    assert (account.accepted, account.done, account.open, account.dead) == (5, 5, 0, 0)


def test_a_worker_waits_for_redis_and_can_be_stopped_meanwhile(spawn: Spawn, tmp_path: Path) -> None:
    worker = spawn("run_worker", REDIS_URL=f"unix://{tmp_path / 'nobody.sock'}?db=0")
    assert listens_to_sigterm(worker), "it ended, or never came so far"

    assert stopped(worker) == 0


def listens_to_sigterm(process: subprocess.Popen[bytes]) -> bool:
    """Wait until the process has its own handler for SIGTERM; False when it ends before."""
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:"))
        if caught >> (signal.SIGTERM - 1) & 1:
            return True
        time.sleep(0.1)
    return False


def test_a_process_full_of_stuck_handlers_asks_to_be_replaced(book: Ledger, spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck" / "__init__.py").touch()
    (tmp_path / "stuck" / "handlers.py").write_text(
        "import time\n"
        "from messages_app.registry import handler\n"
        "@handler('test.stuck', timeout=0.2)\n"
        "def stuck(message):\n"
        "    time.sleep(600)\n"
    )
    worker = spawn("run_worker", "--concurrency", "2", settings="INSTALLED_APPS += ['stuck']")
    for message_id in ("m1", "m2"):
        book.accept(an_acceptance(message_id=message_id, type="test.stuck", max_retries=0))

    assert worker.wait(40) == 1

    for message_id in ("m1", "m2"):
        assert reaches(book, message_id, State.DEAD_PENDING, State.DEAD).recoveries == 0


def test_a_worker_that_cannot_flush_ends_instead_of_running_on(book: Ledger, spawn: Spawn, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").touch()
    (tmp_path / "broken" / "handlers.py").write_text(
        "from messages_app.work.flushing import Flusher\n"
        "def fail(self):\n"
        "    raise OSError(22, 'Invalid argument')\n"
        "Flusher._gather = fail\n"
    )
    worker = spawn("run_worker", settings="INSTALLED_APPS += ['broken']")

    assert worker.wait(40) == 1

    (said,) = [line for line in (tmp_path / "0.log").read_text().splitlines() if "thread_died" in line]
    assert '"thread_name": "flush"' in said


FORKING = """
import asyncio, multiprocessing, os, subprocess, sys, time
from pathlib import Path
from messages_app.registry import handler

def note(name):
    with Path(__file__).with_name(name).open("a") as file:
        file.write(f"{os.getpid()}\\n")

def answer(queue):
    queue.put(os.getpid())

@handler("test.fork", timeout=60)
def fork(message):
    how = message.payload["how"]
    if how == "subprocess":
        return subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, check=True).stdout.decode()
    if how == "multiprocessing":
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        process = context.Process(target=answer, args=(queue,))
        process.start()
        answered = queue.get(timeout=30)
        process.join()
        stubborn = context.Process(target=time.sleep, args=(600,))
        stubborn.start()
        stubborn.terminate()
        stubborn.join(30)
        return [answered != os.getpid(), process.exitcode, stubborn.exitcode]
    return later(how.removeprefix("async ")) if how.startswith("async") else forks(how)

async def later(how):
    await asyncio.sleep(0)
    return forks(how)

def forks(how):
    child = os.fork()
    if child == 0:
        note("children")
        if how == "exit":
            sys.exit(7)
        if how == "raise":
            raise ValueError("the child failed")
        if how == "go on":
            time.sleep(600)
        return "child"
    if how != "go on":
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]

@handler("test.note")
def noted(message):
    note("runs")
"""


def test_children_of_handlers_never_work_as_the_worker(book: Ledger, spawn: Spawn, tmp_path: Path) -> None:
    app = tmp_path / "forking"
    app.mkdir()
    (app / "__init__.py").touch()
    (app / "handlers.py").write_text(FORKING)
    results = {
        "return": "[0]", "exit": "[7]", "raise": "[1]", "go on": "", "subprocess": '"42\\n"',
        "multiprocessing": "[true,0,-15]", "async return": "[0]", "async exit": "[7]",
    }  # fmt: skip
    worker = spawn("run_worker", settings="INSTALLED_APPS += ['forking']")
    # One after the other: a child that goes on keeps the pipes of what another thread starts at the same moment.
    for how, result in results.items():
        book.accept(an_acceptance({"how": how}, message_id=f"fork-{how}".replace(" ", "-"), type="test.fork"))
        record = reaches(book, f"fork-{how}".replace(" ", "-"), State.DONE, seconds=40)
        assert (record.result, record.attempt, record.recoveries) == (result, 0, 0), how
    book.accept_many([an_acceptance(message_id=f"m{number}", type="test.note") for number in range(50)])
    for number in range(50):
        reaches(book, f"m{number}", State.DONE)

    assert (app / "runs").read_text().split() == [str(worker.pid)] * 50
    children = [int(pid) for pid in (app / "children").read_text().split()]
    alive = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert (len(children), len(alive)) == (6, 1)
    os.kill(alive[0], signal.SIGTERM)
    assert stopped(worker) == 0


def _holding(folder: Path) -> str:
    """Make an app with a handler ``test.hold`` that holds the interpreter; the settings that add it."""
    (folder / "holding").mkdir()
    (folder / "holding" / "__init__.py").touch()
    (folder / "holding" / "handlers.py").write_text(
        "import ctypes\n"
        "from messages_app.registry import handler\n"
        "@handler('test.hold')\n"
        "def hold(message):\n"
        "    lock = ctypes.create_string_buffer(128)\n"
        "    for _ in range(2):\n"
        "        ctypes.PyDLL(None).pthread_mutex_lock(lock)\n"
    )
    return "INSTALLED_APPS += ['holding']"


def test_a_worker_whose_interpreter_is_held_is_killed_and_its_message_comes_back(
    book: Ledger, spawn: Spawn, tmp_path: Path
) -> None:  # fmt: skip
    settings = f"LEASE_S = 3\n{_holding(tmp_path)}"
    worker = spawn("run_worker", settings=settings, WATCHDOG_TIMEOUT="2")
    book.accept(an_acceptance({"secret": "payload-7f3a"}, message_id="m1", type="test.hold"))

    assert worker.wait(50) == -signal.SIGKILL

    said = (tmp_path / "0.log").read_text()
    assert '"event": "process_mute", "role": "worker"' in said
    assert "in hold\n" in said
    assert "payload-7f3a" not in said
    upkeep = Upkeep(book, name="other", role="worker", details=dict, record_outcomes=_nobody)
    upkeep.start()
    try:
        assert reaches(book, "m1", State.QUEUED, seconds=20).recoveries == 1
    finally:
        upkeep.stop()


class TestRqsOwnWorker:
    """``manage.py rqworker`` with nothing else said."""

    def test_it_runs_messages_to_every_end(self, book: Ledger, spawn: Spawn) -> None:
        worker = spawn("rqworker")
        book.accept(an_acceptance(message_id="fine", priority="low"))
        book.accept(an_acceptance({"simulateError": True, "errorType": "NETWORK_ERROR"}, message_id="later"))
        book.accept(an_acceptance({"simulateError": True, "errorType": "VALIDATION_ERROR"}, message_id="never"))

        record = reaches(book, "fine", State.DONE, seconds=40)
        assert '"outcome":"succeeded"' in record.attempts
        assert reaches(book, "later", State.RETRY_WAIT, seconds=20).attempt == 1
        assert reaches(book, "never", State.DEAD_PENDING, seconds=20).outbox == "death"

        assert stopped(worker) == 0

    def test_a_process_whose_interpreter_is_held_is_killed_and_the_worker_goes_on(
        self, book: Ledger, spawn: Spawn, tmp_path: Path
    ) -> None:  # fmt: skip
        worker = spawn("rqworker", settings=_holding(tmp_path), WATCHDOG_TIMEOUT="2")
        book.accept(an_acceptance(message_id="m1", type="test.hold"))
        reaches(book, "m1", State.RUNNING, seconds=40)
        book.accept(an_acceptance(message_id="m2"))

        reaches(book, "m2", State.DONE, seconds=40)

        assert '"event": "process_mute", "role": "rqworker_job"' in (tmp_path / "0.log").read_text()
        assert stopped(worker) == 0

    def test_what_it_loses_when_killed_is_found_by_the_upkeep_of_others(
        self, book: Ledger, spawn: Spawn, gate: Gate
    ) -> None:  # fmt: skip
        settings = f"LEASE_S = 2\n{gate.settings}"
        worker = spawn("rqworker", settings=settings)
        book.accept(an_acceptance(message_id="m1", type="test.held"))
        gate.wait_for("m1")
        os.killpg(worker.pid, signal.SIGKILL)  # the worker
        _kill_orphans(worker.pid)  # and its horse, which has a process group of its own
        worker.wait()
        upkeep = Upkeep(book, name="other", role="worker", details=dict, record_outcomes=_nobody)
        upkeep.start()
        try:
            assert reaches(book, "m1", State.QUEUED, seconds=20).recoveries == 1
            gate.open()
            spawn("rqworker", settings=settings)
            assert reaches(book, "m1", State.DONE, seconds=40).attempt == 0
        finally:
            upkeep.stop()


def _nobody(*_: Any) -> Any:
    raise AssertionError("nothing dies here")


def _kill_orphans(session: int) -> None:
    """Kill what is left of a session whose leader is gone."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) == session:
            os.kill(int(stat.parent.name), signal.SIGKILL)


def test_a_signal_finds_its_way_whatever_lock_the_main_thread_holds(book: Ledger) -> None:
    worker = make_worker(1)
    handler = threading.Thread(target=worker.request_stop, args=(signal.SIGTERM, None), daemon=True)

    with worker._stop._cond:  # type: ignore[attr-defined]  # where the main thread is for a moment, each time it begins or ends to wait
        handler.start()
        handler.join(5)
        assert not handler.is_alive()

    assert worker._stop.wait(5)


def _forking() -> ForkingWorker:
    lanes = queues()
    return ForkingWorker(lanes, connection=redis.Redis.from_url(settings.REDIS_URL), queue_class=type(lanes[0]))


@pytest.mark.parametrize("make", [partial(make_worker, 1), _forking])
def test_commands_of_rq_are_heard_after_a_broken_one_and_a_closed_socket(
    redis_client: redis.Redis, make: Callable[[], Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_workers, "_LISTEN_AGAIN_S", 0.05)
    worker, heard = make(), threading.Event()
    monkeypatch.setattr("rq.command.handle_shutdown_command", lambda _: heard.set())  # it sends a signal to the process
    channel = worker.pubsub_channel_name
    worker.subscribe()  # type: ignore[no-untyped-call]
    try:
        eventually(lambda: redis_client.publish(channel, "no JSON"))
        redis_client.client_kill_filter(_type="pubsub")
        eventually(lambda: redis_client.publish(channel, '{"command": "shutdown"}'))
        assert heard.wait(5)
    finally:
        worker.unsubscribe()  # type: ignore[no-untyped-call]
