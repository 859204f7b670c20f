"""The data directory, the port and the options, each with the one line that is said when it does not work."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlqsite.health import report
from management import data_directory, stack
from management.data_directory import DataDirectory, write_private
from management.errors import StackError
from management.stack import Options, Stack, listen
from messages_app import worker
from messages_app.work import engine, flushing, upkeep


def silent(text: str) -> None:
    pass


def test_options_come_from_the_environment(tmp_path: Path) -> None:
    options = Options.from_environment({"DATA_DIR": str(tmp_path), "PORT": "8123", "REDIS_URL": "redis://db/0"})

    assert (options.data_dir, options.port, options.redis_url) == (tmp_path, 8123, "redis://db/0")
    assert (options.host, options.mongodb_url, options.database) == ("127.0.0.1", "", "dlq")


@pytest.mark.parametrize(("name", "value"), [("PORT", "http"), ("PORT", "70000"), ("WORKERS", "0"), ("PORT", "-1")])
def test_a_senseless_number_is_named(name: str, value: str) -> None:
    with pytest.raises(StackError, match=f"{name} is '{value}': use a number from"):
        Options.from_environment({name: value})


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StackError, match=r"DATA_DIR .*/file/data cannot be written \(Not a directory\)"):
        DataDirectory(tmp_path / "file" / "data")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_directory_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    data = tmp_path / "data"
    (data / "logs" / "old").mkdir(parents=True)
    wide = [data / name for name in ("db.sqlite3", "db.sqlite3-wal", "credentials.json", "logs/web.log", "logs/old/x")]
    for path in wide:
        path.touch()
        path.chmod(0o644)
    (data / "redis").symlink_to(outside)
    data.chmod(0o755)

    kept = DataDirectory(data)

    assert "was open to other users" in kept.tightened
    assert mode(data) == mode(data / "logs/old") == 0o700
    assert {mode(path) for path in wide} == {0o600}
    assert mode(outside) == 0o755
    assert DataDirectory(data).tightened == ""


def test_a_directory_that_others_use_too_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch(mode=0o644)
    tmp_path.chmod(0o755)

    with pytest.raises(StackError, match=r"open to other users and contains other files, such as thesis\.txt: name"):
        DataDirectory(tmp_path)

    assert mode(tmp_path) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_stack_on_the_same_data_is_refused(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path)
    first.lock(silent)

    with pytest.raises(StackError, match=rf"another `up` \(pid {os.getpid()}\) runs on DATA_DIR"):
        DataDirectory(tmp_path).lock(silent)

    first.release()
    again = DataDirectory(tmp_path)
    again.lock(silent)
    again.release()


def test_children_of_a_killed_stack_keep_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_directory, "LEFTOVERS", 0.2)
    data = DataDirectory(tmp_path)
    descriptor = data.lock(silent)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    os.pwrite(descriptor, f"{ended.pid:<12}".encode(), 0)
    data.release()

    with pytest.raises(StackError, match=rf"processes of a killed `up` .*: pid {child.pid} \(.*input\(\)\)"):
        DataDirectory(tmp_path).lock(silent)
    child.communicate(b"\n")
    waited = DataDirectory(tmp_path)
    waited.lock(silent)
    waited.release()


def test_a_stale_connection_file_goes_with_the_lock(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.connection.write_text("{}")

    data.lock(silent)

    assert not data.connection.exists()
    data.release()


def test_the_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)

    key = data.secret_key()

    assert len(key) >= 50
    assert DataDirectory(tmp_path).secret_key() == key
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600


def test_damaged_credentials_are_named(tmp_path: Path) -> None:
    data = DataDirectory(tmp_path)
    data.credentials.write_text("{")

    with pytest.raises(StackError, match=r"credentials\.json is damaged"):
        data.read_credentials()


def test_a_private_file_replaces_an_open_one(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)

    write_private(path, "new")

    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_port_in_use_is_named_with_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(StackError, match=rf"port {port} on 127\.0\.0\.1 is in use: choose another"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_named() -> None:
    with pytest.raises(StackError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        listen("192.0.2.1", 0)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stack.full_disk(tmp_path) == ""

    monkeypatch.setattr(stack, "FULL_DISK", 1 << 60)

    assert stack.full_disk(tmp_path).startswith(f"the disk of {tmp_path} is full (")
    assert stack.full_disk(tmp_path / "gone") == f"{tmp_path / 'gone'}: No such file or directory"


def test_what_is_wrong_with_the_data_is_announced_and_holds_up_no_start() -> None:
    checks: dict[str, dict[str, object]] = {name: {"status": "healthy", "alive": 1} for name in report.CHECKS}
    ailing: dict[str, dict[str, object]] = {
        name: {"status": "degraded", "detail": "x"} for name in ("losses", "letters", "accounting", "breakers", "disk")
    }

    assert stack.judged(checks) == (True, [])
    assert stack.judged(checks | ailing) == (
        True, ["disk: x", "breakers: x", "accounting: x", "losses: x", "letters: x"],
    )  # fmt: skip
    assert stack.judged(checks | {"workers": {"status": "unhealthy", "alive": 1, "detail": "suspended"}}) == (
        True, ["workers: suspended"],
    )  # fmt: skip
    for name in ("redis", "intake", "mongodb", "database"):
        assert stack.judged(checks | {name: {"status": "unhealthy", "detail": "x"}}) == (False, [f"{name}: x"])
    for name in ("workers", "scheduler", "dlqWorker"):
        assert stack.judged(checks | {name: {"status": "degraded", "alive": 0, "detail": "x"}}) == (False, [])
    assert stack.judged({}) == (False, [])


def test_a_worker_can_use_its_whole_grace_while_no_store_answers(tmp_path: Path, settings: Any) -> None:
    settings.WORKER_SHUTDOWN_GRACE = 25.0
    up = Stack(Options(data_dir=tmp_path), {}, silent)
    up._env = {}

    spare = up._role("worker", "run_worker").grace - 25.0

    after = engine.FINAL_FLUSH_S + flushing._REPORT_TIMEOUT_S + upkeep.STOP_S + worker._UNREGISTER_TIMEOUT_S
    assert spare > after + 2  # to end the process
