"""The stores of a run: servers on loopback that are restarted when they end, on disks that can be filled."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymongo
import redis
from pymongo.errors import PyMongoError
from redis.backoff import NoBackoff
from redis.retry import Retry

from chaos.proxy import HOST, Proxy
from management.embedded import mongod_binary, valkey_binary
from management.supervisor import bound_to_parent

#: Seconds before the n-th restart in a row of a server that ended quickly.
_PAUSES = (0.0, 0.2, 0.5, 1.0, 2.0)
_QUICK_S = 5.0


class CannotRun(Exception):
    """Something that a run needs is missing, with the fix."""


def free_port(taken: set[int]) -> int:
    """A free port below the range of outgoing connections, so that a restarted server finds it free again."""
    for port in range(21500, 21700):
        if port in taken:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            taken.add(port)
            return port
    raise CannotRun("no free port from 21500 to 21699: another run may be under way")


def programs() -> tuple[str, str]:
    """The paths of valkey-server and mongod. Raises CannotRun when one is missing."""
    valkey, mongod = valkey_binary(), mongod_binary()
    if valkey is None or mongod is None:
        raise CannotRun("no Valkey or mongod here: make install")
    return valkey.path, mongod.path


class Disk:
    """A small file system in memory, for one folder. Without the permission to mount: a plain folder."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder, self._size_mb = folder, size_mb
        folder.mkdir(mode=0o700, parents=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m,mode=0700", "chaos", str(folder)],
            capture_output=True,
            check=False,
        )
        self.mounted = done.returncode == 0

    def fill(self) -> None:
        """Leave no space: the size becomes what is in use."""
        for spare_kb in (0, 256, 4096):  # more may have been written since
            used = os.statvfs(self.folder)
            size_kb = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024 + spare_kb
            if self._resize(f"{max(size_kb, 4)}k"):
                return

    def free(self) -> None:
        self._resize(f"{self._size_mb}m")

    def remove(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False)
            self.mounted = False

    def _resize(self, size: str) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return self.mounted and subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(slots=True)
class Server:
    """A server process, restarted by ``keep`` when it ended. Call it from the thread that started it."""

    name: str
    command: Sequence[str]
    log: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    _started_at: float = 0.0
    _quick_deaths: int = 0
    _restart_at: float = 0.0

    def start(self) -> None:
        with self.log.open("ab") as log:
            # The kernel kills it when this thread ends, however it ends.
            self.process = subprocess.Popen(
                bound_to_parent(self.command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.starts += 1
        self._started_at, self._restart_at = time.monotonic(), 0.0

    def keep(self) -> None:
        """Start it again if it has ended."""
        if self.process is None or self.process.poll() is None:
            return
        now = time.monotonic()
        if not self._restart_at:
            self._quick_deaths = self._quick_deaths + 1 if now - self._started_at < _QUICK_S else 0
            self._restart_at = now + _PAUSES[min(self._quick_deaths, len(_PAUSES) - 1)]
        if now >= self._restart_at:
            self.start()

    def send(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)

    def stop(self) -> None:
        """End it at once: its data is of no further use."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@dataclass(slots=True)
class Store:
    """A server, its disk, and the proxy through which the roles use it."""

    server: Server
    disk: Disk
    proxy: Proxy | None = None
    #: Whether its disk is full now.
    full: bool = False

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def port(self) -> int:
        """Where the roles find it."""
        return self.proxy.port if self.proxy else self.server.port


def valkey(program: str, name: str, folder: Path, port: int, config: Path) -> Store:
    """A Valkey with the configuration file ``config``, which is created empty."""
    disk = Disk(folder / name, 4096)
    config.touch()
    command = [
        program,
        str(config),
        *("--bind", HOST, "--port", str(port), "--dir", str(disk.folder)),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction"),
    ]
    return Store(Server(name, command, folder / f"{name}.log", port), disk)


def mongod(program: str, name: str, folder: Path, port: int, replica_set: str) -> Store:
    disk = Disk(folder / name, 4096)
    command = [
        program,
        *("--bind_ip", HOST, "--port", str(port), "--dbpath", str(disk.folder), "--nounixsocket"),
        *("--replSet", replica_set, "--oplogSize", "256", "--wiredTigerCacheSizeGB", "0.25"),
        *("--networkMessageCompressors", "disabled", "--noscripting"),
        # Its journal has space of its own: only a checkpoint meets a full disk, and ends it.
        *("--syncdelay", "5"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
    ]
    return Store(Server(name, command, folder / f"{name}.log", port), disk)


def until(look: Callable[[], bool], seconds: float, what: str) -> None:
    """Return once ``look`` is true; CannotRun after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise CannotRun(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def redis_at(port: int, timeout_s: float) -> redis.Redis:
    """A client that asks once. By default the driver repeats, and one question to a paused server takes minutes."""
    return redis.Redis(
        host=HOST, port=port, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )


def serves_redis(port: int) -> bool:
    with redis_at(port, 2) as client, suppress(redis.RedisError):
        return bool(client.ping())
    return False


def rewrite_file(port: int, *, ask: bool) -> bool:
    """Ask a Redis to rewrite its append-only file, or whether that is done. False while it does not answer."""
    with redis_at(port, 0.5) as client, suppress(redis.RedisError):
        if ask:
            client.bgrewriteaof()
            return True
        found: Any = client.info("persistence")
        return not found["aof_rewrite_in_progress"] and found["aof_last_bgrewrite_status"] == "ok"
    return False


def hello(port: int) -> dict[str, Any]:
    """What a mongod says of itself; empty while it does not answer."""
    with (
        pymongo.MongoClient[dict[str, Any]](
            HOST, port, directConnection=True, serverSelectionTimeoutMS=1500, socketTimeoutMS=3000
        ) as client,
        suppress(PyMongoError),
    ):
        return dict(client.admin.command("hello"))
    return {}


def initiate(members: Sequence[Store], replica_set: str, settings: Mapping[str, int] | None = None) -> None:
    """Make a replica set of running mongods, and wait for its primary. ``settings``: those of ``replSetInitiate``."""
    until(lambda: all(hello(member.server.port) for member in members), 60, "every mongod answers")
    # Members are known by their proxies. A single one must reach itself when it starts: no other would correct it.
    ports = [member.port if len(members) > 1 else member.server.port for member in members]
    config = {
        "_id": replica_set,
        "members": [{"_id": number, "host": f"{HOST}:{port}"} for number, port in enumerate(ports)],
        "settings": dict(settings or {}),
    }
    with pymongo.MongoClient[dict[str, Any]](HOST, members[0].server.port, directConnection=True) as client:
        client.admin.command("replSetInitiate", config)
    until(lambda: primary_of(members) is not None, 60, "the replica set has a primary")


def primary_of(members: Sequence[Store]) -> Store | None:
    """The member that is the writable primary now."""
    return next((member for member in members if hello(member.server.port).get("isWritablePrimary")), None)
