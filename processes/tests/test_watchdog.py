"""The watchdog over small real processes: who is killed, and above all who is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dlqsite.tests.patience import eventually

LIMIT_S = 0.5
PROGRAM = """
import ctypes, logging, os, re, signal, subprocess, sys, threading, time
from processes.watchdog import guard

def hold_by_lock(secret="payload-7f3a"):
    lock = ctypes.create_string_buffer(128)
    for _ in range(2):
        ctypes.PyDLL(None).pthread_mutex_lock(lock)  # does not release the interpreter; a signal does not interrupt it

def hold_by_regex(secret="payload-7f3a"):
    re.match("(a+)+$", "a" * 60 + "b")

logging.basicConfig()
guard("test", {limit})
print("guarded", flush=True)
{then}
"""


class Guarded:
    def __init__(self, then: str, folder: Path) -> None:
        self.errors = folder / "errors"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(limit=LIMIT_S, then=then)],
                stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"guarded\n"

    def monitor(self) -> psutil.Process:
        """The program that watches it."""

        def look() -> psutil.Process | None:
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.Error):
                    if any("monitor.py" in word for word in child.cmdline()):
                        return child
            return None

        found = eventually(look, seconds=20)
        assert isinstance(found, psutil.Process)
        return found

    def said(self) -> str:
        return self.errors.read_text()


Guard = Callable[[str], Guarded]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guard]:
    made: list[Guarded] = []

    def make(then: str) -> Guarded:
        made.append(Guarded(then, tmp_path))
        return made[-1]

    yield make
    for one in made:
        with suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)  # its children hold the pipe
        one.process.communicate()


@pytest.mark.parametrize("hold", ["hold_by_lock", "hold_by_regex"])
def test_a_process_whose_interpreter_is_held_is_killed_and_says_where(guarded: Guard, hold: str) -> None:
    held = guarded(f"threading.Thread(target={hold}).start()\ntime.sleep(60)")

    assert held.process.wait(50) == -signal.SIGKILL

    (line,) = [json.loads(line) for line in held.said().splitlines() if line.startswith("{")]
    assert (line["event"], line["level"], line["role"], line["pid"]) == (
        "process_mute", "critical", "test", held.process.pid,
    )  # fmt: skip
    assert f"in {hold}" in held.said()
    assert "payload-7f3a" not in held.said()


def test_a_process_that_works_waits_or_is_stopped_lives(guarded: Guard) -> None:
    at_work = [
        guarded("time.sleep(60)"),
        guarded("while True: pass"),
        guarded("os.read(os.pipe()[0], 1)  # a store that never answers"),
    ]
    stopped, asleep = guarded("time.sleep(60)"), guarded("time.sleep(60)")
    watching = [one.monitor() for one in (*at_work, stopped)]
    # The second as on a laptop that sleeps: with its monitor, which wakes first.
    suspended = [stopped.process.pid, asleep.process.pid, asleep.monitor().pid]
    for pid in suspended:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3 * LIMIT_S)
    for pid in reversed(suspended):
        os.kill(pid, signal.SIGCONT)
    time.sleep(2 * LIMIT_S)

    assert [one.process.poll() for one in (*at_work, stopped, asleep)] == [None] * 5
    assert all(monitor.is_running() for monitor in watching)


def test_a_killed_monitor_is_replaced_and_watches(guarded: Guard, tmp_path: Path) -> None:
    held = guarded(f"while not os.path.exists({str(tmp_path / 'now')!r}): time.sleep(0.01)\nhold_by_lock()")
    first = held.monitor()
    first.kill()
    eventually(lambda: held.monitor().pid != first.pid, seconds=20)
    (tmp_path / "now").touch()

    assert held.process.wait(50) == -signal.SIGKILL
    assert "watchdog_lost" in held.said()


STEPS = """
from processes import steps
from processes.steps import progressed, step
steps.STUCK_S, steps.END_S = 0.1, 0.4
"""


def test_a_process_that_is_stuck_in_a_step_ends_and_names_it(guarded: Guard) -> None:
    stuck = guarded(
        STEPS + "def ask(secret='payload-7f3a'):\n"
        "    with step('look for what is due'): os.read(os.pipe()[0], 1)  # a store that never answers\n"
        "ask()"
    )

    assert stuck.process.wait(50) == 1

    said = stuck.said()
    assert "step_stuck" in said
    assert "in ask\n" in said
    assert "payload-7f3a" not in said


def test_a_process_that_waits_for_its_next_step_or_goes_on_in_a_long_one_lives(guarded: Guard) -> None:
    alive = guarded(
        STEPS + "for _ in range(10):\n    with step('short'): pass\n"
        "time.sleep(0.8)\n"
        "with step('long'):\n    for _ in range(80):\n        progressed(); time.sleep(0.01)\n"
        "with step('stands still'):\n"
        "    while not steps.is_stuck(): time.sleep(0.01)\n"
        "sys.exit(7)"
    )

    assert alive.process.wait(50) == 7


@pytest.mark.parametrize("end", ["sys.exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_a_process_forked_ends_with_it_and_so_does_its_monitor(guarded: Guard, tmp_path: Path, end: str) -> None:
    fork = "child = os.fork()\nif child == 0: time.sleep(600)\nprint(child, flush=True)\n"
    ending = guarded(f"{fork}while not os.path.exists({str(tmp_path / 'now')!r}): time.sleep(0.01)\n{end}")
    monitor = ending.monitor()
    assert ending.process.stdout is not None
    child = psutil.Process(int(ending.process.stdout.readline()))
    (tmp_path / "now").touch()

    ending.process.wait(20)

    assert psutil.wait_procs([child, monitor], timeout=20)[1] == []
