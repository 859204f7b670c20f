"""The system of a run: stores behind proxies, and every role of ``make up`` that uses them."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pymongo
import redis

from chaos import stores
from chaos.effects import FILE_VARIABLE
from chaos.proxy import HOST, Loop, Proxy
from chaos.redis_set import RedisSet
from chaos.stores import CannotRun, Disk, Server, Store
from dlqsite.tests.journeys.rig import Rig
from dlqsite.tests.postgres import MISSING, Postgres, programs

_REPLICA_SET = "chaos"


@dataclass(frozen=True, slots=True)
class Topology:
    """Number of servers of each store, and whether Django's database is a PostgreSQL."""

    redis: int = 1
    mongo: int = 1
    postgres: bool = False


TOPOLOGIES = {"single": Topology(), "ha": Topology(redis=3, mongo=3, postgres=True)}


@dataclass
class World:
    """Use as a context manager: leaving it stops everything that it started, and removes its folder unless kept.

    Enter, ``keep`` and leave in one thread: the kernel ties the servers to it.
    """

    topology: Topology = TOPOLOGIES["single"]
    workers: int = 2
    seed: int = 0
    proxied: bool = True
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> World:
        # Short: sockets of the stack are inside.
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.effects = self.folder / "effects.log"
        self.redis: RedisSet | None = None
        self.mongo: list[Store] = []
        self.postgres: Postgres | None = None
        self.proxies: dict[str, Proxy] = {}
        self.rig: Rig | None = None
        self._loop = Loop()
        self._taken: set[int] = set()
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def stores(self) -> list[Store]:
        return [*self.redis_stores, *self.mongo]

    @property
    def redis_stores(self) -> list[Store]:
        return self.redis.stores if self.redis else []

    @property
    def servers(self) -> list[Server]:
        """The processes that ``keep`` keeps running."""
        return [*(store.server for store in self.stores), *(self.redis.sentinels if self.redis else ())]

    @property
    def running(self) -> Rig:
        """The running roles."""
        if self.rig is None:
            raise CannotRun("the roles do not run")
        return self.rig

    def _start(self) -> None:
        valkey_program, mongod_program = stores.programs()
        members = self.topology.mongo
        proxy = self._proxy if self.proxied else None
        self.redis = RedisSet(valkey_program, self.folder, self.topology.redis, self._port, proxy)
        for name in ["mongod"] if members == 1 else [f"mongod_{number}" for number in range(1, members + 1)]:
            store = stores.mongod(mongod_program, name, self.folder, self._port(), _REPLICA_SET)
            self.mongo.append(store)
            store.proxy = proxy(name, store.server.port) if proxy else None
            store.server.start()
        self.redis.start()
        stores.initiate(self.mongo, _REPLICA_SET)
        self.data = Disk(self.folder / "roles" / "data", 2048)
        environment = {
            "WORKERS": str(self.workers),
            "DJANGO_SETTINGS_MODULE": "chaos.settings",
            FILE_VARIABLE: str(self.effects),
            # Payloads and attempts are read at the end.
            "BODY_TTL_S": "86400",
            "REDIS_URL": self.redis.url,
            # Only this survives a fail-over.
            "ACCEPT_DURABILITY": "replica" if self.redis.is_replicated else "everysec",
            "MONGODB_URL": self._mongodb_url(),
            "STATIC_ROOT": str(self.folder / "static"),
        }
        if self.topology.postgres:
            if programs() is None:
                raise CannotRun(MISSING)
            self.postgres = Postgres()
            port = proxy("postgres", self.postgres.port).port if proxy else self.postgres.port
            environment["DATABASE_URL"] = f"postgres://dlq@{HOST}:{port}/dlq"
        self.rig = Rig(self.data.folder.parent, **environment, **self.environment)
        self.rig.start_s = 300  # nine servers start beside it
        self.rig.__enter__()

    def _port(self) -> int:
        return stores.free_port(self._taken)

    def _proxy(self, name: str, target: int) -> Proxy:
        rng = random.Random(f"{self.seed} {name}")
        self.proxies[name] = Proxy(self._loop, name, self._port(), target, rng).start()
        return self.proxies[name]

    def _mongodb_url(self) -> str:
        hosts = ",".join(f"{HOST}:{store.port}" for store in self.mongo)
        return f"mongodb://{hosts}/?" + (
            "directConnection=true" if len(self.mongo) == 1 else f"replicaSet={_REPLICA_SET}"
        )

    def keep(self) -> None:
        """Start ended servers again. Call it often, also while waiting."""
        for server in self.servers:
            server.keep()

    def wait(self, seconds: float) -> None:
        """Sleep, and keep the servers running."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.keep()
            time.sleep(min(left, 0.05))

    def pids(self) -> dict[str, int]:
        """Process ids by role, as far as the stack could write them down."""
        with suppress(OSError, ValueError):
            found: dict[str, int] = self.running.connection["pids"]
            return {name: pid for name, pid in sorted(found.items()) if name != "supervisor"}
        return {}

    def redis_client(self) -> redis.Redis:
        """A client of the primary, past the proxies."""
        if self.redis is None:
            raise CannotRun("Redis does not run")
        return self.redis.client(self.wait)

    def mongo_client(self) -> pymongo.MongoClient[dict[str, Any]]:
        """A client of the primary, past the proxies."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if primary := stores.primary_of(self.mongo):
                return pymongo.MongoClient(
                    HOST, primary.server.port, directConnection=True, serverSelectionTimeoutMS=5000, tz_aware=True
                )
            self.wait(0.2)
        raise CannotRun("MongoDB has no primary")

    def stop_roles(self) -> int:
        """Stop the roles as Ctrl-C does; the exit code. The stores run on."""
        return self.running.stop()

    def left_behind(self) -> list[str]:
        """Processes that still use the data directory of the roles."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline"]):
            if (process.info["environ"] or {}).get("DATA_DIR") == str(self.running.data_dir):
                found.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:80]}")
        return found

    def close(self) -> None:
        """Stop everything; can be called again."""
        if self.rig is not None and self.rig.process.poll() is None:
            with suppress(Exception):  # whatever it is, the stores must stop too
                self.rig.stop()
        for proxy in self.proxies.values():
            proxy.stop()
        for server in self.servers:
            server.stop()
        for store in self.stores:
            store.disk.remove()
        if self.postgres is not None:
            self.postgres.remove()
            self.postgres = None
        if data := getattr(self, "data", None):
            data.remove()
        self.proxies = {}
        with suppress(RuntimeError):
            self._loop.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
