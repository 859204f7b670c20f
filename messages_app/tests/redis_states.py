"""Ways in which a Redis server takes no writes. Each is over when its context ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from dlqsite.tests.patience import eventually

State = Callable[[Any], AbstractContextManager[None]]


@contextmanager
def configured(client: Any, name: str, value: str | int) -> Iterator[None]:
    before = client.config_get(name)[name]
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


def full(client: Any) -> AbstractContextManager[None]:
    return configured(client, "maxmemory", 1)


def without_replicas(client: Any) -> AbstractContextManager[None]:
    return configured(client, "min-replicas-to-write", 1)


@contextmanager
def demoted(client: Any) -> Iterator[None]:
    client.replicaof("127.0.0.1", 1)
    try:
        yield
    finally:
        client.replicaof("NO", "ONE")


@contextmanager
def without_snapshot(client: Any) -> Iterator[None]:
    """A snapshot that cannot be written, and save points: Redis refuses writes by MISCONF."""
    path = Path(client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"])
    path.unlink(missing_ok=True)
    path.mkdir()
    try:
        with configured(client, "save", "3600 1"):
            client.bgsave()
            eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
            yield
    finally:
        path.rmdir()
        client.bgsave()
        eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok")
