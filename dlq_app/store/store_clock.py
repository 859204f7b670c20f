"""The time of MongoDB, which letters use, without a query for each use.

Independent of this host's clock. Between two queries a monotonic clock counts on, so the error is the round trip to the
server plus the drift of two clocks in half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

#: Seconds between two queries.
ASK_EVERY_S = 30.0
#: Earlier when this host's clock jumped by more than this: it was set, or the host slept.
_SET_S = 0.5


class StoreClock:
    """The time of a server. Thread-safe."""

    def __init__(
        self, ask: Callable[[], datetime], *, monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._ask = ask
        self._monotonic = monotonic
        self._wall = wall
        #: What the server said, and both clocks of this host at that instant.
        self._known: tuple[datetime, float, float] | None = None

    def now(self) -> datetime:
        """The server's time. Raises the error of the query once the last answer is too old."""
        known = self._known
        if known is None or self._is_stale(known):
            # Without a lock: threads must not wait for each other's timeouts while the server is unavailable.
            began = self._monotonic()
            told = self._ask()
            ended = self._monotonic()
            known = self._known = (told + timedelta(seconds=(ended - began) / 2), ended, self._wall())
        told, at, _ = known
        return told + timedelta(seconds=self._monotonic() - at)

    def _is_stale(self, known: tuple[datetime, float, float]) -> bool:
        _, at, wall = known
        passed = self._monotonic() - at
        return passed > ASK_EVERY_S or abs(self._wall() - wall - passed) > _SET_S
