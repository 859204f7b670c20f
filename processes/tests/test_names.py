"""Names of processes: unique, and their end can be seen on the same host."""

from __future__ import annotations

import multiprocessing
import re
import socket
import subprocess
import sys

from processes.names import has_ended, new_name, process_name


def test_a_process_has_one_name_and_its_child_another() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(process_name()))
    here = process_name()
    child.start()
    there = ours.recv()
    child.join()

    assert here == process_name() != there
    assert re.fullmatch(r"[A-Za-z0-9._-]+", here)


def test_new_names_differ() -> None:
    assert new_name() != new_name()


def test_only_a_process_of_this_host_is_known_to_have_ended() -> None:
    program = "from processes.names import new_name; print(new_name())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()

    assert has_ended(ended)
    assert not has_ended(process_name())
    assert not has_ended(ended.replace(ended.rsplit("-", 2)[0], "elsewhere"))


def test_names_of_another_form_belong_to_processes_that_may_live() -> None:
    for name in ("", "broken", f"{socket.gethostname()}/1/abc", f"{socket.gethostname()}-x-abc"):
        assert not has_ended(name)
