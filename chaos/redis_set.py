"""Redis of a run: one server, or a primary with two replicas and three Sentinels."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

from chaos import stores
from chaos.proxy import HOST, Proxy
from chaos.stores import CannotRun, Server, Store

SERVICE = "chaos"
_SENTINELS = 3
#: A replica that has reported within this time follows the primary.
_LAG_S = 1


class RedisSet:
    """The servers, each known to the others and to the roles only by its proxy. Start it before its URL is used.

    ``port`` draws a free port; ``proxy`` starts a proxy by name and target, or is None.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        members: int,
        port: Callable[[], int],
        proxy: Callable[[str, int], Proxy] | None,
    ) -> None:
        names = ["redis"] if members == 1 else [f"redis_{number}" for number in range(1, members + 1)]
        self.stores: list[Store] = []
        self.sentinels: list[Server] = []
        for name in names:
            # A file, which Sentinel rewrites: a restarted server keeps its part in the set.
            config = folder / f"{name}.conf"
            store = stores.valkey(program, name, folder, port(), config)
            store.proxy = proxy(name, store.server.port) if proxy else None
            self.stores.append(store)
            if members > 1:
                config.write_text(self._replication(store))
        if members == 1:
            self.url = f"redis://{HOST}:{self.stores[0].port}/0"
            return
        for number in range(1, _SENTINELS + 1):
            sentinel_port, config = port(), folder / f"sentinel_{number}.conf"
            config.write_text(
                f"port {sentinel_port}\nbind {HOST}\ndir {folder}\n"
                f"sentinel monitor {SERVICE} {HOST} {self.stores[0].port} 2\n"
                f"sentinel down-after-milliseconds {SERVICE} 2000\n"
                f"sentinel failover-timeout {SERVICE} 20000\n"
            )
            name = f"sentinel_{number}"
            command = [program, str(config), "--sentinel"]
            self.sentinels.append(Server(name, command, folder / f"{name}.log", sentinel_port))
        self.url = f"redis+sentinel://{','.join(f'{HOST}:{one.port}' for one in self.sentinels)}/{SERVICE}/0"

    def _replication(self, store: Store) -> str:
        first = self.stores[0]
        return (
            f"replica-announce-ip {HOST}\nreplica-announce-port {store.port}\nrepl-diskless-sync-delay 0\n"
            "min-replicas-to-write 1\nmin-replicas-max-lag 2\nrepl-timeout 10\nrepl-ping-replica-period 2\n"
        ) + (f"replicaof {HOST} {first.port}\n" if store is not first else "")

    @property
    def is_replicated(self) -> bool:
        return len(self.stores) > 1

    def start(self) -> None:
        for store in self.stores:
            store.server.start()
        stores.until(lambda: all(stores.serves_redis(store.server.port) for store in self.stores), 30, "Redis answers")
        for sentinel in self.sentinels:
            sentinel.start()
        stores.until(self.is_whole, 60, "every replica follows the primary")

    def primary(self) -> Store | None:
        """The only primary that has every replica, or the only server; None while there is none."""
        if not self.is_replicated:
            return self.stores[0]
        found = [store for store in self.stores if _is_followed(_replication_of(store), len(self.stores) - 1)]
        return found[0] if len(found) == 1 else None

    def is_whole(self) -> bool:
        """Whether a fault of one member finds the others able to take over."""
        return self.primary() is not None and all(self._agrees(sentinel) for sentinel in self.sentinels)

    def _agrees(self, sentinel: Server) -> bool:
        """Whether a Sentinel knows all others and sees nothing wrong."""
        with stores.redis_at(sentinel.port, 1) as client, suppress(redis.RedisError):
            state: Any = client.sentinel_master(SERVICE, return_responses=True)
            return bool(
                state["flags"] == "master"
                and int(state["num-other-sentinels"]) == _SENTINELS - 1
                and int(state["num-slaves"]) == len(self.stores) - 1
            )
        return False

    def failovers(self) -> int:
        """How often a replica was promoted, as the Sentinels logged it."""
        logs = [sentinel.log for sentinel in self.sentinels if sentinel.log.is_file()]
        return max((log.read_text(errors="replace").count("+switch-master") for log in logs), default=0)

    def client(self, wait: Callable[[float], None]) -> redis.Redis:
        """A client of the primary, past the proxies. CannotRun when there is none for a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if primary := self.primary():
                return stores.redis_at(primary.server.port, 10)
            wait(0.2)
        raise CannotRun("Redis has no primary with all replicas")


def _replication_of(store: Store) -> dict[str, Any]:
    with stores.redis_at(store.server.port, 1) as client, suppress(redis.RedisError):
        found: dict[str, Any] = client.info("replication")
        return found
    return {}


def _is_followed(replication: dict[str, Any], replicas: int) -> bool:
    seen = [replication.get(f"slave{number}", {}) for number in range(replicas)]
    return replication.get("role") == "master" and all(
        one.get("state") == "online" and int(one.get("lag", 99)) <= _LAG_S for one in seen
    )
