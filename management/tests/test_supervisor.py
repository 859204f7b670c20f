"""The supervisor with small real children: restarts, gives up, stops in order, leaves nobody behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlqsite.tests.patience import eventually
from management.output import Output

SLEEP = "import time; time.sleep(600)"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Supervised:
    """The program under test, its printed lines, and its children's process ids."""

    def __init__(self, folder: Path, children: list[dict[str, Any]], constants: dict[str, Any]) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "management.tests.supervised",
                str(folder),
                json.dumps(children),
                json.dumps(constants),
            ],
            stdout=(folder / "said").open("wb"),
            stderr=subprocess.STDOUT,
        )

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def started(self) -> Supervised:
        eventually(lambda: "started" in self.said() or self.process.poll() is not None, seconds=20)
        assert "started" in self.said(), self.said()
        return self

    def pids(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((self.folder / "pids.json").read_text())
        return found

    def restarted(self, name: str, pid: int) -> bool:
        return self.pids().get(name) not in (None, pid)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    made: list[Supervised] = []

    def make(*children: dict[str, Any], **constants: Any) -> Supervised:
        made.append(Supervised(tmp_path, list(children), constants))
        return made[-1]

    yield make
    for one in made:
        if one.process.poll() is None:
            one.end()


def test_a_killed_child_is_started_again(supervise: Callable[..., Supervised]) -> None:
    stack = supervise({"name": "a", "code": SLEEP}, {"name": "b", "code": SLEEP}).started()
    before = stack.pids()

    os.kill(before["a"], signal.SIGKILL)

    eventually(partial(stack.restarted, "a", before["a"]), seconds=10)
    assert stack.pids()["b"] == before["b"]
    assert "a was ended by SIGKILL and is restarted" in stack.said()


def test_a_child_killed_again_and_again_is_not_given_up(supervise: Callable[..., Supervised]) -> None:
    stack = supervise({"name": "a", "code": SLEEP}).started()

    for _ in range(7):
        pid = eventually(lambda: stack.pids().get("a"), seconds=10)
        os.kill(pid, signal.SIGKILL)
        eventually(partial(stack.restarted, "a", pid), seconds=10)

    assert stack.process.poll() is None


def test_a_child_that_cannot_live_is_given_up_with_its_last_words(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    # Lives once, so that the start succeeds, and then never again.
    code = (
        f"import pathlib, sys, time\nmark = pathlib.Path({str(tmp_path / 'mark')!r})\n"
        "if mark.exists(): sys.exit('no licence found')\nmark.touch(); time.sleep(0.5)"
    )
    stack = supervise({"name": "other", "code": SLEEP}, {"name": "a", "code": code}).started()
    other = stack.pids()["other"]

    assert stack.process.wait(30) == 1

    last = stack.said().strip().splitlines()[-1]
    assert last.startswith("error: a ended with exit code 1: no licence found; see ")
    assert last.endswith("(died 5 times in a row)")
    assert gone(other)


def test_a_store_that_has_served_is_tried_again_for_ever(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    full = tmp_path / "full"
    lives = tmp_path / "lives"
    code = (
        f"import pathlib, sys, time\nif pathlib.Path({str(full)!r}).exists(): sys.exit('no room')\n"
        f"pathlib.Path({str(lives)!r}).touch()\ntime.sleep(600)"
    )
    stack = supervise(
        {"name": "store", "code": code, "tier": 0}, {"name": "app", "code": SLEEP}, {"name": "other", "code": SLEEP},
        PATIENT_BACKOFF=[0.01], STORE_WAIT=0.01,
    ).started()  # fmt: skip
    before = stack.pids()

    eventually(lives.exists, seconds=20)
    lives.unlink()
    full.touch()
    os.kill(before["store"], signal.SIGTERM)
    eventually(lambda: stack.said().count("store ended with exit code 1: no room; see ") > 6, seconds=30)
    assert stack.process.poll() is None

    # An application goes on, and one that dies is started again without the store.
    os.kill(before["app"], signal.SIGTERM)
    eventually(partial(stack.restarted, "app", before["app"]), seconds=20)
    assert stack.pids()["other"] == before["other"]

    full.unlink()
    eventually(lives.exists, seconds=20)

    def last_of_store() -> str:
        return [line for line in stack.said().splitlines() if "store " in line][-1]

    eventually(lambda: last_of_store().endswith("store is ready again"), seconds=20)


def test_a_child_that_dies_while_starting_is_an_error(supervise: Callable[..., Supervised]) -> None:
    stack = supervise({"name": "a", "code": SLEEP}, {"name": "b", "code": "raise ValueError('bad luck')"})

    # A child without a readiness check only has to be alive at first sight, so the watch may be what sees its death.
    assert stack.process.wait(30) == 1
    assert "ValueError: bad luck" in stack.said()


def test_children_stop_tier_by_tier_from_the_top(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    def reporting(name: str, delay: float) -> str:
        return (
            "import pathlib, signal, sys, time\n"
            "def stop(*_):\n"
            f"    time.sleep({delay})\n"
            f"    with open({str(tmp_path / 'order')!r}, 'a') as file: file.write('{name} ')\n"
            "    sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, stop)\n"
            f"pathlib.Path({str(tmp_path)!r}, '{name}.up').touch()\n"
            "while True: time.sleep(1)"
        )

    stack = supervise(
        {"name": "store", "code": reporting("store", 0), "tier": 0},
        {"name": "app", "code": reporting("app", 0.5), "tier": 2},
    ).started()
    eventually(lambda: (tmp_path / "store.up").exists() and (tmp_path / "app.up").exists(), seconds=10)

    assert stack.end(signal.SIGINT) == 0

    assert (tmp_path / "order").read_text().split() == ["app", "store"]
    assert stack.said().strip().endswith("stopped")


def test_a_child_deaf_to_sigterm_is_killed_after_its_grace(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    code = (
        "import pathlib, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'deaf').touch()\ntime.sleep(600)"
    )
    stack = supervise({"name": "a", "code": code, "grace": 0.3}).started()
    eventually((tmp_path / "deaf").exists, seconds=10)
    pid = stack.pids()["a"]

    assert stack.end() == 0

    assert gone(pid)
    assert "a did not stop within" in stack.said()


def test_what_a_child_starts_goes_with_it(supervise: Callable[..., Supervised], tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys, time\n"
        f"grandchild = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"pathlib.Path({str(tmp_path)!r}, 'grandchild').write_text(str(grandchild.pid))\n"
        "time.sleep(600)"
    )
    stack = supervise({"name": "a", "code": code}).started()
    noted = tmp_path / "grandchild"
    eventually(lambda: noted.exists() and noted.read_text(), seconds=10)
    grandchild = int(noted.read_text())

    assert stack.end() == 0

    eventually(lambda: gone(grandchild), seconds=5)


def test_what_a_killed_child_has_forked_is_killed_when_it_does_not_end(
    supervise: Callable[..., Supervised], tmp_path: Path
) -> None:
    code = (
        "import os, pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"if os.fork() == 0: pathlib.Path({str(tmp_path)!r}, 'forked').write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    stack = supervise({"name": "a", "code": code, "grace": 0.3}).started()
    noted = tmp_path / "forked"
    eventually(lambda: noted.exists() and noted.read_text(), seconds=10)
    forked, pid = int(noted.read_text()), stack.pids()["a"]

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: gone(forked), seconds=10)
    eventually(partial(stack.restarted, "a", pid), seconds=10)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent has gone")
def test_children_end_when_the_supervisor_is_killed(supervise: Callable[..., Supervised]) -> None:
    stack = supervise({"name": "a", "code": SLEEP}, {"name": "b", "code": SLEEP}).started()
    pids = stack.pids()

    stack.end(signal.SIGKILL)

    eventually(lambda: all(gone(pid) for pid in pids.values()), seconds=10)


def test_warnings_of_children_are_shown_with_their_name(supervise: Callable[..., Supervised]) -> None:
    code = f"print('2026 WARNING disk is almost full', flush=True); print('all well', flush=True); {SLEEP}"
    stack = supervise({"name": "a", "code": code}).started()

    eventually(lambda: "a | 2026 WARNING disk is almost full" in stack.said(), seconds=10)

    assert "all well" not in stack.said()


class TestWhoReadsWhatItSays:
    """The supervisor's own output: it and its children live on whatever becomes of the reader."""

    LOUD = f"import os, time\nfor n in range(3): os.write(1, b'ERROR caf\\xc3\\xa9 \\xff\\n'); time.sleep(0.3)\n{SLEEP}"

    def start(self, folder: Path, stdout: int, **environment: str) -> subprocess.Popen[bytes]:
        children = json.dumps([{"name": "a", "code": self.LOUD}])
        return subprocess.Popen(
            [sys.executable, "-m", "management.tests.supervised", str(folder), children],
            stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip

    def logged(self, folder: Path, lines: int) -> Callable[[], bool]:
        log = folder / "a.log"
        return lambda: log.exists() and log.read_bytes().count(b"\n") == lines

    def test_a_reader_that_has_gone(self, tmp_path: Path) -> None:
        read, write = os.pipe()
        process = self.start(tmp_path, write)
        os.close(write)
        os.read(read, 100)
        os.close(read)
        eventually(self.logged(tmp_path, 3), seconds=20)
        before = json.loads((tmp_path / "pids.json").read_text())["a"]

        os.kill(before, signal.SIGKILL)  # one more text that nobody reads

        eventually(lambda: json.loads((tmp_path / "pids.json").read_text()).get("a") not in (None, before), seconds=10)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (0, b"")

    def test_a_reader_of_ascii(self, tmp_path: Path) -> None:
        process = self.start(tmp_path, subprocess.PIPE, PYTHONIOENCODING="ascii:strict")
        eventually(self.logged(tmp_path, 3), seconds=20)
        process.send_signal(signal.SIGTERM)

        said, errors = process.communicate(timeout=20)

        assert (process.returncode, errors) == (0, b"")
        assert said.count(rb"a | ERROR caf\xe9 \ufffd") == 3


def test_a_reader_that_does_not_read_is_not_waited_for_and_told_later() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb", buffering=0) as reader, os.fdopen(write, "w", encoding="utf-8") as stream:
        output = Output(stream, patience_s=0.01)
        for _ in range(40):
            output.say("x" * 4000)
        left_out = output.unsaid
        while len(reader.read(65536)) == 65536:
            pass
        output.say("again")

        assert left_out > 0
        assert reader.read(65536).endswith(f"({left_out} texts before this one could not be printed)\nagain\n".encode())


def test_replaced_roles_end_by_themselves_and_start_again_without_being_given_up(
    supervise: Callable[..., Supervised],
) -> None:
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    stack = supervise(
        {"name": "store", "code": SLEEP, "tier": 0},
        {"name": "a", "code": SLEEP},
        {"name": "b", "code": stubborn, "grace": 0.2},
    ).started()
    store = stack.pids()["store"]

    for _ in range(6):  # more often than a quick death is forgiven
        before = stack.pids()
        stack.process.send_signal(signal.SIGUSR1)
        for name in ("a", "b"):
            eventually(partial(stack.restarted, name, before[name]), seconds=20)

    assert stack.process.poll() is None
    assert stack.pids()["store"] == store
