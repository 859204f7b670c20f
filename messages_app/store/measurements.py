"""Measurements of all processes, added up in Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.conf import settings

from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis

#: How long the number of a process's last call is remembered. It is repeated within seconds, or never.
REMEMBERED_MS = 3600 * 1000


class Measurements:
    """Sums of the measurements in one Redis. Thread-safe."""

    def __init__(
        self, client: redis.Redis, prefix: str = "dlq:", *, scripts: Mapping[str, Script] | None = None
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())
        self._prefix = prefix

    def add(self, process: str, number: int, counts: Mapping[str, int]) -> bool:
        """Add counts; False if this ``number`` of the process was added before. Raises ``StoreUnavailable``."""
        parts = (part for pair in counts.items() for part in pair)
        return bool(self._scripts.run("measure", process, number, REMEMBERED_MS, *parts))

    def read(self) -> dict[str, int]:
        """All sums, by key of ``processes.measured``. Raises ``StoreUnavailable``."""
        flat = self._scripts.connections.call("HGETALL", self._prefix + "measured")
        return {key.decode(): int(count) for key, count in zip(flat[::2], flat[1::2], strict=True)}


@OncePerProcess
def measurements() -> Measurements:
    """The measurements on the server in the settings."""
    return Measurements(connection(), settings.REDIS_PREFIX)
