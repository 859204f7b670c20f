"""``replay-dlq.sh`` and ``replay-dlq.py`` against a real server: requests, output and exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management.base import BaseCommand
from pymongo.database import Database

from dlq_app.domain.letter import Settled
from dlq_app.domain.ports import ForwardOrder
from dlq_app.domain.replay_batch import Stage
from dlq_app.services import batches, dead_letters
from dlq_app.testing import MemoryIntake, a_death
from dlqsite.tests.people import a_key
from management.management.commands import replay_dlq

SCRIPT = Path(settings.BASE_DIR) / "management/scripts/replay-dlq"
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

pytestmark = [
    pytest.mark.mongo,
    pytest.mark.redis,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("redis_client"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="the script needs curl"),
]


class Workers:
    """The DLQ worker and intake's workers, on a thread of their own."""

    def __init__(self, port: MemoryIntake) -> None:
        self.port = port
        self.well: Callable[[ForwardOrder], bool] = lambda _: True
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.ident:
            self._thread.join()

    def _run(self) -> None:
        ended, executor = 0, batches.executor()
        while not self._over.wait(0.05):
            executor.tick()
            orders, ended = self.port.forwarded[ended:], len(self.port.forwarded)
            for order in orders:
                outcome = self.port.end(order.message_id, done=self.well(order))
                if isinstance(outcome, Settled):
                    dead_letters.record_outcomes([], [outcome])
                else:
                    dead_letters.record_outcomes([outcome], [])


@pytest.fixture
def workers(store: Database[dict[str, Any]], intake: MemoryIntake) -> Iterator[Workers]:
    found = Workers(intake)
    yield found
    found.stop()


class Script:
    """A script with the address and key of the running test server; ``py`` or a shell."""

    def __init__(self, url: str, key: str, program: str = "sh") -> None:
        self.environment = {**os.environ, "DLQ_URL": url, "DLQ_API_KEY": key}
        shell = [*(["busybox"] if program == "busybox" else []), "sh" if program == "busybox" else program]
        # Without site packages: it needs nothing but Python.
        self.command = [sys.executable, "-I", "-S", f"{SCRIPT}.py"] if program == "py" else [*shell, f"{SCRIPT}.sh"]

    def __call__(self, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *flags],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def key(workers: Workers) -> str:
    return a_key("read", "replay", name="olga", rate_limit_per_minute=0)


@pytest.fixture(params=["sh", "py"])
def script(live_server: Any, key: str, request: pytest.FixtureRequest) -> Script:
    return Script(live_server.url, key, request.param)


def test_the_scripts_take_the_flags_of_the_command() -> None:
    parser = BaseCommand().create_parser("manage.py", "any")
    stock = {flag for action in parser._actions for flag in action.option_strings}
    command = replay_dlq.Command().create_parser("manage.py", "replay_dlq")
    flags = {flag for action in command._actions for flag in action.option_strings} - stock
    powershell = Path(f"{SCRIPT}.ps1").read_text(encoding="utf-8")

    assert len(flags) > 20
    for program in ("sh", "py"):
        told = Script("", "", program)("--help").stdout
        assert {flag for flag in flags if f"{flag} " not in told + " "} == set()
    in_words = {flag: "".join(word.title() for word in flag[2:].split("-")) for flag in flags}
    assert {flag for flag, word in in_words.items() if not re.search(rf"\] \${word}\b", powershell)} == set()


def die(*ids: str, **changes: Any) -> None:
    dead_letters.record_outcomes([a_death(message_id, **changes) for message_id in ids], [])


@pytest.mark.parametrize("shell", SHELLS)
def test_it_waits_until_every_letter_succeeded(live_server: Any, workers: Workers, shell: str) -> None:
    die("m-1", "m-2", "m-3")
    workers.start()

    ran = Script(live_server.url, a_key("read", "replay"), shell)("--all", "--yes", "--wait")

    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[:3] == [
        "3 letters would be replayed.",
        "  by error type: TIMEOUT_ERROR 3",
        "  by type: payment.capture 3",
    ]
    assert lines[-2].endswith(" is finished: 3 letters")
    assert lines[-1] == "  3  succeeded"


def test_what_the_flags_say_is_what_is_ordered(script: Script) -> None:
    odd = "the \"bank\" is \\ back; $(rm -rf /) 'é'"
    die("m-1", "m-2", "m-3", source="shop & co")

    ran = script(
        *("--status", "dlq_pending", "--status=dlq_failed", "--source", "shop & co", "--tag=eu", "--limit", "2"),
        *("--rate", "20.5", "--canary", "2", "--min-success", "1", "--max-failures", "3", "--max-failure-rate", "0.5"),
        *("--schedule", "2026-11-24T12:00:00Z", "--name", odd, "--reason", odd, "--poison", "--yes"),
    )

    assert ran.returncode == 0, ran.stderr
    (batch,) = batches.page().batches
    assert batch.criteria is not None
    assert batch.criteria.statuses == ("dlq_pending", "dlq_failed")
    assert (batch.criteria.sources, batch.criteria.tags) == (("shop & co",), ("eu",))
    assert (batch.total, batch.limit, batch.rate_per_second) == (2, 2, 20.5)
    assert batch.canary
    assert (batch.canary.size, batch.canary.min_success) == (2, 1)
    assert (batch.max_failures, batch.max_failure_rate, batch.poison) == (3, 0.5, True)
    assert (batch.name, batch.reason, batch.requested_by) == (odd, odd, "key:olga")
    assert batch.scheduled_at
    assert f"Batch {batch.id} with 2 letters" in ran.stdout


@pytest.mark.parametrize("message_id", ["--all", "-h", "--", "-1"])
def test_an_id_behind_two_dashes_is_no_flag(script: Script, message_id: str) -> None:
    die(message_id, "m-1", "m-2")

    ran = script("--dry-run", "--", message_id)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "1 letter would be replayed."


def test_a_dry_run_starts_nothing(script: Script) -> None:
    die("m-1", "m-2")
    dead_letters.resolve_by_hand("m-2", actor="cli")

    ran = script("--type", "payment.capture", "--dry-run")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[0] == "1 letter would be replayed."
    assert "  left out: resolved 1" in ran.stdout
    assert batches.page().batches == []


def test_json_is_what_the_api_answers(script: Script, workers: Workers) -> None:
    die("m-1", "m-2")
    workers.start()

    foreseen = json.loads(script("--all", "--dry-run", "--json").stdout)
    lines = [json.loads(line) for line in script("--all", "--yes", "--wait", "--json").stdout.splitlines()]

    assert foreseen["count"] == 2
    assert len(lines) > 1
    assert {line["batchId"] for line in lines} == {batches.page().batches[0].id}
    assert (lines[-1]["stage"], lines[-1]["counts"]["succeeded"]) == ("finished", 2)


def test_an_id_that_was_left_out_makes_the_exit_code_2(script: Script, workers: Workers) -> None:
    die("m-1", "m-2")
    workers.start()

    ran = script("m-1", "elsewhere", "--yes", "--wait")

    assert ran.returncode == 2, ran.stderr
    assert "  left out: not_found 1" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "  1  succeeded"
    assert script("m-2", "--limit", "1", "--yes", "--wait").returncode == 0


def test_letters_that_failed_make_the_exit_code_2(script: Script, workers: Workers) -> None:
    die("m-1", "m-2", "m-3", "m-4")
    workers.well = lambda order: False
    workers.start()

    ran = script("--all", "--canary", "2", "--yes", "--wait")

    assert ran.returncode == 2, ran.stderr
    assert "is stopped (canary_failed): 4 letters" in ran.stdout
    assert "  2  failed_same  TIMEOUT_ERROR" in ran.stdout
    assert len(workers.port.forwarded) == 2


def test_ids_of_no_letter_are_told_by_the_exit_code(script: Script) -> None:
    assert script("nobody", "--yes").returncode == 2
    assert script("--type", "demo", "--yes").returncode == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--yes",), "say which letters"),
        (("--search", "x", "m-1", "--yes"), "400 invalid_request: ids: give ids or a filter"),
        (("--status", "lost", "--yes"), "filter.status: must be one of"),
        (("--status", "", "--all", "--yes"), "--status is empty"),
        (("--all", "--name", "two\nlines", "--yes"), "--name must not contain control characters"),
        (("--all", "--limit", "many", "--yes"), "--limit must be a whole number"),
        (("--all", "--rate", "1e9", "--yes"), "--rate must be a number"),
        (("--all", "--rate", '1,"all":true', "--yes"), "--rate must be a number"),
        (("--older-than", "30d", "--all", "--yes"), "there is no --older-than"),
        (("--all", "--limit"), "--limit needs a value"),
        (("--all",), "say --yes"),
        (("--all", "--yes", "--url", "ftp://x"), "no http or https address"),
        (("--all", "--yes", "--url", "http://127.0.0.1:1"), "does not answer"),
        (("--all", "--yes", "--key-file", "/nowhere"), "/nowhere cannot be read"),
    ],
)
def test_it_says_what_is_wrong_and_starts_nothing(script: Script, flags: tuple[str, ...], told: str) -> None:
    die("m-1")

    ran = script(*flags)

    assert ran.returncode == 1
    assert told in ran.stderr
    assert ran.stdout == "" or told == "say --yes"
    assert batches.page().batches == []


def test_without_a_key_or_with_a_wrong_one_nothing_is_started(script: Script, live_server: Any) -> None:
    die("m-1")

    nothing = script("--all", "--yes", DLQ_API_KEY="")
    wrong = script("--all", "--yes", DLQ_API_KEY="abc.def")
    reader = Script(live_server.url, a_key("read", name="vic"))("--all", "--yes")

    assert (nothing.returncode, wrong.returncode, reader.returncode) == (1, 1, 1)
    assert "DLQ_API_KEY" in nothing.stderr
    assert "401 not_authenticated" in wrong.stderr
    assert "403 forbidden" in reader.stderr


def test_the_key_may_lie_in_a_file(script: Script, tmp_path: Path) -> None:
    die("m-1")
    held = tmp_path / "key"
    held.write_text(script.environment["DLQ_API_KEY"] + "\r\nand a note\n")

    assert script("--all", "--yes", "--key-file", str(held), DLQ_API_KEY="").returncode == 0


def test_the_key_is_in_nobodys_list_of_processes(live_server: Any, key: str, tmp_path: Path) -> None:
    """A curl of ours writes down how it was called before it calls the real one."""
    die("m-1")
    script = Script(live_server.url, key)
    spy = tmp_path / "curl"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/calls\nexec {shutil.which("curl")} "$@"\n')
    spy.chmod(0o755)

    ran = script("--all", "--yes", PATH=f"{tmp_path}:{os.environ['PATH']}")

    calls = (tmp_path / "calls").read_text()
    assert ran.returncode == 0, ran.stderr
    assert calls.count("\n") == 2
    assert script.environment["DLQ_API_KEY"] not in calls
    assert script.environment["DLQ_API_KEY"] not in ran.stdout + ran.stderr


class LosesTheSecondAnswer(BaseHTTPRequestHandler):
    """Forwards to the server at ``url``; the second request reaches it, and its answer is lost."""

    url = ""
    calls = 0

    def do_POST(self) -> None:
        type(self).calls += 1
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with urllib.request.urlopen(urllib.request.Request(self.url + self.path, body, headers)) as answer:  # noqa: S310
            raw = answer.read()
        if self.calls == 2:
            return
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def test_a_start_whose_answer_was_lost_starts_one_batch(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    die("m-1")
    monkeypatch.setattr(LosesTheSecondAnswer, "url", script.environment["DLQ_URL"])
    monkeypatch.setattr(LosesTheSecondAnswer, "calls", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), LosesTheSecondAnswer) as proxy:
        threading.Thread(target=proxy.serve_forever).start()
        try:
            ran = script("--all", "--yes", DLQ_URL=f"http://127.0.0.1:{proxy.server_port}")
        finally:
            proxy.shutdown()

    assert ran.returncode == 0, ran.stderr
    assert LosesTheSecondAnswer.calls == 3
    assert len(batches.page().batches) == 1


def at_a_terminal(script: Script, *flags: str, types: bytes) -> int:
    """Run the script at a terminal where somebody types; its exit code."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, types)
        return subprocess.run(
            [*script.command, *flags],
            env=script.environment,
            stdin=theirs,
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_person_is_asked(script: Script) -> None:
    die("m-1")

    assert at_a_terminal(script, "--all", types=b"n\n") == 1
    assert batches.page().batches == []
    assert at_a_terminal(script, "--all", types=b"y\n") == 0
    assert len(batches.page().batches) == 1


#: Runs the rest of the command line, hearing interrupts even where tests run in the background of a shell: what is
#: ignored there stays ignored in every child, and a shell cannot change that.
HEARING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"


def interrupted(process: subprocess.Popen[str]) -> str:
    """What it says when somebody presses Ctrl-C, again every few seconds as people do."""
    for _ in range(12):
        os.killpg(process.pid, signal.SIGINT)
        try:
            return process.communicate(timeout=5)[1]
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError("it does not hear an interrupt")


def test_an_interrupt_leaves_the_batch_running(script: Script) -> None:
    die("m-1")
    process = subprocess.Popen(
        [sys.executable, "-c", HEARING, *script.command, "--all", "--yes", "--wait"],
        env=script.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 30
    while not batches.page().batches and time.monotonic() < until:
        time.sleep(0.05)
    assert process.stdout
    while not process.stdout.readline().startswith("planned"):
        assert process.poll() is None
    told = interrupted(process)

    (batch,) = batches.page().batches
    assert process.returncode == 130
    assert batch.stage is Stage.PLANNED
    assert f"/api/dlq/replay-batches/{batch.id}/cancel" in told
