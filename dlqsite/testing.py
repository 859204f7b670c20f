"""Pytest plugin: a real Redis-compatible server and a real mongod for this test process, started before Django loads.

Loaded by ``-p dlqsite.testing``. With TEST_POSTGRES in the environment Django's database is a PostgreSQL, else SQLite.
Every xdist worker is a test process of its own and has servers of its own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

from dlqsite.tests.postgres import Postgres
from management.embedded import Mongod, Valkey, choose, mongod_binary, valkey_binary
from management.errors import StackError
from management.supervisor import bound_to_parent

TEST_DATABASE = "dlq_test"

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("project", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("project")


class Servers:
    """One Valkey and one mongod (replica set of one) on Unix sockets in a short temporary folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dlqt-"))
        self.processes: list[subprocess.Popen[bytes]] = []
        self.postgres: Postgres | None = None
        redis_binary = choose("REDIS_URL", "", valkey_binary)
        mongod = choose("MONGODB_URL", "", mongod_binary)
        for name in ("redis", "mongod"):
            (self.folder / name).mkdir()
        self._redis = Valkey(redis_binary, self.folder / "redis", self.folder)  # type: ignore[arg-type]
        self._mongod = Mongod(mongod, self.folder / "mongod", self.folder, oplog_mb=64)  # type: ignore[arg-type]
        self.redis_url = self._redis.url
        self.mongodb_url = self._mongod.url
        try:
            redis_process = self._spawn("redis", self._redis.command)
            mongod_process = self._spawn("mongod", self._mongod.command)
            self._wait("redis", redis_process, self._redis.ready)
            self._wait("mongod", mongod_process, self._mongod.ready)
            if os.environ.get("TEST_POSTGRES"):
                self.postgres = Postgres()
        except BaseException:
            # Also Ctrl-C: whatever ends the start, no server of ours stays behind.
            self.stop()
            raise

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            # SIGKILL when this process ends, however it ends: what tests leave in a store is of no use to anybody.
            process = subprocess.Popen(
                bound_to_parent(command, signal.SIGKILL), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self.processes.append(process)
        return process

    def _wait(self, name: str, process: subprocess.Popen[bytes], ready: Callable[[int], bool]) -> None:
        deadline = time.monotonic() + 60
        while not ready(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                words = (self.folder / f"{name}.log").read_text(errors="replace").strip().splitlines()
                raise StackError(f"the tests' {name} does not serve: {words[-1] if words else 'it says nothing'}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.postgres is not None:
            self.postgres.remove()
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


class Scheduling(LoadFileScheduling):  # type: ignore[misc]
    """One process runs a whole file, and all journeys: they share one running system."""

    def _split_scope(self, nodeid: str) -> str:
        folder = "dlqsite/tests/journeys/"
        return folder if nodeid.startswith(folder) else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    config.option.loadscopereorder = False
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow files first, so that no process ends up alone with one."""
    order = ("journey", "browser")
    items.sort(key=lambda item: next((n for n, name in enumerate(order) if item.get_closest_marker(name)), len(order)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    """Start the servers (not in the xdist controller, which runs no test) and point the settings at them.

    A wrapper, so that it comes before pytest-django, whose part of this hook loads the settings.
    """
    global _servers
    options = early_config.known_args_namespace
    controller = bool(getattr(options, "numprocesses", None)) and "PYTEST_XDIST_WORKER" not in os.environ
    if _servers is None and not controller and not options.collectonly:
        _servers = Servers()
        atexit.register(_servers.stop)
        os.environ["REDIS_URL"] = _servers.redis_url
        os.environ["MONGODB_URL"] = _servers.mongodb_url
    folder = _servers.folder if _servers else Path(tempfile.gettempdir())
    os.environ["MONGODB_DATABASE"] = TEST_DATABASE
    os.environ["DATABASE_URL"] = f"sqlite:///{folder / 'db.sqlite3'}"
    if _servers is not None and _servers.postgres is not None:
        os.environ["DATABASE_URL"] = _servers.postgres.url
        os.environ["DATABASE_TIMEOUT"] = "60"  # machines are shared
    # Nothing of a stack that runs on this machine may reach the tests.
    os.environ["DATA_DIR"] = str(folder / "data")
    # The tests start many Python processes: with bytecode on disk they do not compile the project each time.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Static files come straight from the apps, whatever was collected here before.
    os.environ["STATIC_ROOT"] = str(folder / "static")
    os.environ["SECRET_KEY"] = "only-for-tests-0123456789-0123456789-0123456789-0123456789"  # noqa: S105
    os.environ["HTTPS"] = "false"
    loaded = yield
    from django.conf import settings

    from breaker_app import conf as breakers

    # Passwords are hashed with care in production; here only that they are checked matters.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    # Every test client loads the middleware again: look up static files when they are asked for, not all of them then.
    settings.WHITENOISE_AUTOREFRESH = True
    # Machines are shared: a pause of a tenth of a second is no outage, unless a test makes one.
    breakers.CALL_TIMEOUT_S = 5.0
    # In a file, as in production: a server thread and a test have a connection each, and neither waits for the other's.
    if "sqlite3" in settings.DATABASES["default"]["ENGINE"]:
        settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(folder / "test.sqlite3")
    return loaded


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


def _browser_of(role: str) -> Any:
    from dlqsite.tests.people import member, signed_in  # needs Django's settings, which come later than this plugin

    return signed_in(member(role))


@pytest.fixture
def viewer(db: None) -> Any:
    """A browser of Django's in which a viewer is signed in."""
    return _browser_of("viewer")


@pytest.fixture
def operator(db: None) -> Any:
    """A browser of Django's in which an operator is signed in."""
    return _browser_of("operator")


@pytest.fixture
def administrator(db: None) -> Any:
    """A browser of Django's in which an administrator is signed in."""
    return _browser_of("administrator")


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Any]:
    """A ``redis.Redis`` that answers bytes, over a database emptied before the test."""
    import redis

    client = redis.Redis.from_url(redis_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def mongo_db(mongodb_url: str) -> Iterator[Any]:
    """A pymongo ``Database``; the documents of earlier tests are gone, their indexes are there."""
    import pymongo

    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(mongodb_url)
    database = client[TEST_DATABASE]
    for name in database.list_collection_names():
        database[name].delete_many({})
    yield database
    client.close()
