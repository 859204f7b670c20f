"""The messages that each breaker holds: counted in an index, without reading the messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from django.conf import settings

from breaker_app.held import MINUTES, Held
from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

if TYPE_CHECKING:
    import redis


class HeldReader:
    """Reads the numbers of held messages from one Redis. Thread-safe."""

    def __init__(
        self, client: redis.Redis, prefix: str = "dlq:", *, scripts: Mapping[str, Script] | None = None
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())

    def read(self) -> dict[str, Held]:
        """By the name of the breaker, at one instant; breakers that hold none are absent.

        The cost does not depend on the number of messages. Messages that an earlier version held are counted at their
        next rejection, within seconds. Raises ``StoreUnavailable``.
        """
        now, *rows = self._scripts.run("held", MINUTES)
        return {row[0].decode(): _held(int(now), [int(value) for value in row[1:]]) for row in rows}


def _held(now_ms: int, numbers: list[int]) -> Held:
    high, high_at, normal, normal_at, low, low_at, *minutes = numbers
    oldest = min((at for at in (high_at, normal_at, low_at) if at >= 0), default=None)
    return Held(now_ms=now_ms, high=high, normal=normal, low=low, oldest_ms=oldest, minutes=tuple(minutes))


@OncePerProcess
def _reader() -> HeldReader:
    return HeldReader(connection(), settings.REDIS_PREFIX)


def read() -> dict[str, Held]:
    """``HeldReader.read`` on the server in the settings."""
    return _reader().read()
