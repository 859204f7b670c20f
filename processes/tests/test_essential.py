"""A process that has lost a thread ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import logging, sys, time
from processes.essential import Essential
logging.basicConfig()
def fail(): {act}
Essential(fail, "claim", may_end=lambda: {may_end}).start()
time.sleep({patience})
"""


@pytest.mark.parametrize(
    "act", ["raise OSError(22, 'sleep')", "sys.exit(0)", "raise KeyboardInterrupt", "raise MemoryError", "return"]
)
def test_whatever_a_thread_dies_of_ends_the_process_by_name(act: str) -> None:
    program = PROGRAM.format(act=act, may_end=act != "return", patience=60)

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)

    assert done.returncode == 1
    assert "thread_died" in done.stderr


def test_a_thread_that_was_asked_to_stop_may_return() -> None:
    program = PROGRAM.format(act="return", may_end=True, patience=0.1)

    assert subprocess.run([sys.executable, "-c", program], timeout=50, check=False).returncode == 0


#: Threads of one task, that someone waits for, or whose failure costs nothing.
SHORT = {
    "dlqsite/access.py", "messages_app/delivery/pool.py", "messages_app/services.py", "messages_app/testing.py",
}  # fmt: skip


def test_every_thread_that_lives_as_long_as_its_process_is_essential() -> None:
    root = Path(__file__).resolve().parents[2]
    apps = ("messages_app", "dlq_app", "breaker_app", "dlqsite", "management")
    sources = [path for app in apps for path in (root / app).rglob("*.py") if "tests" not in path.parts]

    plain = {str(path.relative_to(root)) for path in sources if "threading.Thread(" in path.read_text(encoding="utf-8")}

    assert plain == SHORT
