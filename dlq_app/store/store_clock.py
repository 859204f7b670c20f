"""The clock of MongoDB, by which letters say when something happened, without asking for it each time.

The clock of this host does not matter. Between two questions the time is counted by a clock that cannot be set,
so it is off by the way to the server and back, and by how unequally two clocks run in half a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

#: The server is asked again after so long.
ASK_EVERY_S = 30.0
#: Sooner when this host's clock moved otherwise than time did: it was set, or the host slept.
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
        """The server's time. Raises what asking raises, once the last answer is too old."""
        known = self._known
        if known is None or self._is_stale(known):
            # Without a lock: threads that ask a server that is away must not wait for each other's time-out.
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
