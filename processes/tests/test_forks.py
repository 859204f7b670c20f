"""Children that are forked by code which runs in a process of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys
from processes import forks

signal.signal(signal.SIGTERM, lambda *_: None)
forks.protect()
owner, ready = os.getpid(), os.pipe()
child = os.fork()
error = None
try:
    if child == 0:
        {act}
except BaseException as raised:
    error = raised
forks.exit_if_forked(owner, error)
print("only the parent", flush=True)
{then}
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(act: str, then: str = "", *, lock: int | None = None) -> subprocess.CompletedProcess[str]:
    """The program, whose child does ``act``, while the parent does ``then`` and prints the child's exit code."""
    fds = () if lock is None else (lock,)
    environment = os.environ | ({} if lock is None else {"UP_LOCK_FD": str(lock)})
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(act=act, then=then)], capture_output=True, text=True, timeout=50,
        check=False, pass_fds=fds, env=environment,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("act", "how", "code"),
    [
        ("pass", "returned", 0),
        ("sys.exit(0)", "SystemExit", 0),
        ("sys.exit()", "SystemExit", 0),
        ("sys.exit(3)", "SystemExit", 3),
        ("sys.exit('words')", "SystemExit", 1),
        ("raise ValueError('the payload')", "ValueError", 1),
    ],
)
def test_a_child_that_comes_back_ends_with_the_code_of_a_program(act: str, how: str, code: int) -> None:
    done = run(act)

    assert done.stdout.splitlines() == ["only the parent", str(code)]
    assert f'"how": "{how}"' in done.stderr
    assert "the payload" not in done.stderr


def test_a_child_that_goes_on_ends_on_sigterm() -> None:
    done = run("os.write(ready[1], b'.'); signal.pause()", "os.read(ready[0], 1); os.kill(child, signal.SIGTERM)")

    assert done.stdout.splitlines() == ["only the parent", "-15"], done.stderr


LISTING = "ls -l /proc/self/fd"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("act", "then"),
    [
        ("print([os.path.realpath(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')], flush=True)", ""),
        ("pass", f"os.system({LISTING!r})"),
        ("pass", f"import subprocess; subprocess.run({LISTING!r}, shell=True, close_fds=False)"),
    ],
    ids=["fork", "system", "subprocess"],
)
def test_a_child_gives_up_the_supervisors_lock(tmp_path: Path, act: str, then: str) -> None:
    lock = os.open(tmp_path / "up.lock", os.O_RDWR | os.O_CREAT)

    done = run(act, f"{then}\nassert os.path.exists('/proc/self/fd/{lock}')", lock=lock)

    os.close(lock)
    assert done.returncode == 0, done.stderr
    assert "pipe:" in done.stdout
    assert "up.lock" not in done.stdout
