"""Which store is used, where its socket lies, and what is said when a server cannot run."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import psutil
import pymongo
import pytest
import redis

from dlqsite.testing import Servers
from management import embedded
from management.embedded import (
    MALLOC,
    Binary,
    External,
    Mongod,
    Valkey,
    choose,
    probe,
    runtime_folder,
    without_password,
)
from management.errors import StackError


def test_an_explicit_url_wins() -> None:
    assert choose("REDIS_URL", "redis://db:6379/0", lambda: Binary("/x", "the wheel")) == External("redis://db:6379/0")


def test_else_the_program_that_was_found() -> None:
    assert choose("REDIS_URL", "", lambda: Binary("/x", "the wheel")) == Binary("/x", "the wheel")


def test_without_any_the_message_names_the_ways_out() -> None:
    with pytest.raises(StackError, match=r"make install.*set MONGODB_URL.*docker compose up"):
        choose("MONGODB_URL", "", lambda: None)


def test_the_wheel_comes_before_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "mongod"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    from_wheel = embedded.mongod_binary()
    monkeypatch.setattr(embedded, "_package_folders", lambda name: [])

    assert from_wheel is not None
    assert "wheel" in from_wheel.origin
    assert embedded.mongod_binary() == Binary(str(program), "mongod on PATH")


def a_program(folder: Path, script: str) -> Binary:
    program = folder / "mongod"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return Binary(str(program), "a test")


def test_a_missing_library_is_named_with_its_package(tmp_path: Path) -> None:
    words = "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file"
    binary = a_program(tmp_path, f"echo '{words}' >&2; exit 127")

    with pytest.raises(StackError, match=r"^mongod needs the library libcurl\.so\.4: apt install libcurl4 "):
        probe(binary)


def test_a_program_for_another_machine_is_said_in_one_line(tmp_path: Path) -> None:
    program = tmp_path / "mongod"
    program.write_bytes(b"\x7fELF no such machine")
    program.chmod(0o755)

    with pytest.raises(StackError, match="cannot be run") as caught:
        probe(Binary(str(program), "a test"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", ["db version v6.0.5", "Valkey server v=9.1.2 sha=00000000:0 malloc=jemalloc-5.3.0"])
def test_the_version_is_read(tmp_path: Path, words: str) -> None:
    assert probe(a_program(tmp_path, f"echo '{words}'")) in words


def test_sockets_lie_in_a_private_folder_of_the_data(tmp_path: Path) -> None:
    data = Path(os.path.realpath("/tmp")) / f"dlqt-run-{os.getpid()}"  # noqa: S108
    data.mkdir()
    try:
        folder = runtime_folder(data)

        assert folder == data / "run"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.rmdir()
    finally:
        data.rmdir()


def test_a_deep_data_directory_gets_a_short_folder_the_same_each_time(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)

    folder = runtime_folder(deep)

    try:
        assert folder == runtime_folder(deep)
        assert folder != runtime_folder(deep / "x")
        assert len(os.fsencode(folder / "mongod.sock")) < embedded.SOCKET_PATH_LIMIT
    finally:
        folder.rmdir()
        runtime_folder(deep / "x").rmdir()


def test_a_folder_that_somebody_else_put_there_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("f" * 60)
    folder = runtime_folder(deep)
    folder.rmdir()
    folder.symlink_to(tmp_path)

    try:
        with pytest.raises(StackError, match="belongs to another user"):
            runtime_folder(deep)
    finally:
        folder.unlink()


def test_urls_survive_odd_paths(tmp_path: Path) -> None:
    odd = tmp_path / "a b#c?d%e"
    binary = Binary("/x", "a test")

    from_redis = redis.Redis.from_url(Valkey(binary, odd, odd).url).connection_pool.connection_kwargs["path"]
    from_mongo = pymongo.uri_parser.parse_uri(Mongod(binary, odd, odd).url)["nodelist"][0][0]

    assert from_redis == str(odd / "valkey.sock")
    assert from_mongo == str(odd / "mongod.sock")


@pytest.mark.redis
def test_a_server_is_ready_only_if_it_is_ours(redis_url: str) -> None:
    server = Valkey(Binary("/x", "a test"), Path("/x"), Path("/x"))
    server.url = redis_url
    with redis.Redis.from_url(redis_url) as client:
        pid = client.info("server")["process_id"]

    assert server.ready(pid)
    assert not server.ready(pid + 1)


@pytest.mark.redis
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_server_runs_with_its_settings_of_malloc(servers: Servers) -> None:
    environment = Path(f"/proc/{servers.processes[0].pid}/environ").read_bytes().split(b"\0")

    for name, value in MALLOC.items():
        assert f"{name}={value}".encode() in environment


@pytest.mark.mongo
def test_a_mongod_is_ready_only_if_it_is_ours(mongodb_url: str) -> None:
    server = Mongod(Binary("/x", "a test"), Path("/x"), Path("/x"))
    server.url = mongodb_url
    with pymongo.MongoClient[dict[str, object]](mongodb_url) as client:
        pid = client.admin.command("serverStatus")["pid"]

    assert server.ready(pid)
    assert not server.ready(pid + 1)


@pytest.mark.redis
@pytest.mark.mongo
@pytest.mark.skipif(sys.platform != "linux", reason="looks at the sockets that a process listens on")
def test_the_stores_listen_on_one_socket_each_in_their_folder(servers: Servers) -> None:
    for process, name in zip(servers.processes, ("valkey.sock", "mongod.sock"), strict=True):
        # Peers of connections have the listener's path as well.
        listening = {str(found.laddr) for found in psutil.Process(process.pid).net_connections("all") if found.laddr}

        assert listening == {str(servers.folder / name)}


def test_an_unreachable_redis_is_said_without_its_password() -> None:
    with pytest.raises(StackError) as caught:
        embedded.require_redis("redis://user:hunter2@127.0.0.1:1/0")
    assert "REDIS_URL redis://***@127.0.0.1:1/0 does not answer" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://u:p%40@h1,h2/?replicaSet=a", "mongodb://***@h1,h2/?replicaSet=a"),
        ("unix:///run/valkey.sock?db=0", "unix:///run/valkey.sock?db=0"),
        ("redis://:secret@host:6379/0", "redis://***@host:6379/0"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
