"""How many of a process's threads may wait for what does not answer. Pure bookkeeping, safe for threads.

A downstream that hangs keeps every thread that calls it until the call's time limit, and messages for others would wait
behind that. So once half as many calls through a breaker as there are threads have failed slowly, and none in between
has ended well or quickly, calls through it get half of the threads, together with all others of which the same is
known. What finds that share taken waits a little, unspent.
"""

from __future__ import annotations

import threading

#: A failed call that took at least this long, in seconds, held its thread up.
SLOW_S = 1.0


class SlowCallLimit:
    """The calls under way in one process, by the breaker that guards them."""

    def __init__(self, threads: int) -> None:
        #: Threads that may be held together by all that hangs, and slow failures in a row that tell of it.
        self.max_held = max(1, threads // 2)
        self._lock = threading.Lock()
        self._under_way: dict[str, int] = {}
        #: By name: slow failures in a row.
        self._slow: dict[str, int] = {}

    def enter(self, name: str) -> bool:
        """Whether a call through this breaker may begin now; if so, ``leave`` has to follow, once."""
        with self._lock:
            if self._hangs(name) and self._held() >= self.max_held:
                return False
            self._under_way[name] = self._under_way.get(name, 0) + 1
            return True

    def leave(self, name: str, *, failed: bool | None = None, took_s: float = 0.0) -> None:
        """The call has ended; ``failed`` is None when that says nothing: refused, or broken off by ourselves."""
        with self._lock:
            self._under_way[name] -= 1
            if not self._under_way[name]:
                del self._under_way[name]
            if failed is None:
                return
            if failed and took_s >= SLOW_S:
                self._slow[name] = self._slow.get(name, 0) + 1
            else:
                self._slow.pop(name, None)

    def _hangs(self, name: str) -> bool:
        return self._slow.get(name, 0) >= self.max_held

    def _held(self) -> int:
        return sum(many for name, many in self._under_way.items() if self._hangs(name))
