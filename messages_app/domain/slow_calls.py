"""Limit on the threads of a process that wait for unresponsive services. Pure bookkeeping, safe for threads.

A service that hangs blocks every thread that calls it until the call's time limit, and other messages would wait.
A breaker counts as slow after as many slow failures in a row as half the number of threads. Calls through all slow
breakers together get at most half of the threads. At that limit a message waits a little, without using a retry.
"""

from __future__ import annotations

import threading

#: A failed call counts as slow from this duration on, in seconds.
SLOW_S = 1.0


class SlowCallLimit:
    """The running calls of one process, by their breaker."""

    def __init__(self, threads: int) -> None:
        #: Maximum threads for slow breakers, and the number of slow failures in a row that makes one slow.
        self.max_held = max(1, threads // 2)
        self._lock = threading.Lock()
        self._running: dict[str, int] = {}
        #: By name: slow failures in a row.
        self._slow: dict[str, int] = {}

    def enter(self, name: str) -> bool:
        """Whether a call through this breaker may start now. If so, call ``leave`` once at its end."""
        with self._lock:
            if self._slow and self._is_slow(name) and self._held() >= self.max_held:
                return False
            self._running[name] = self._running.get(name, 0) + 1
            return True

    def leave(self, name: str, *, failed: bool | None = None, took_s: float = 0.0) -> None:
        """End a call; ``failed`` is None for a rejected call or one that this process interrupted."""
        with self._lock:
            left = self._running[name] - 1
            if left:
                self._running[name] = left
            else:
                del self._running[name]  # names can come from payloads
            if failed and took_s >= SLOW_S:
                self._slow[name] = self._slow.get(name, 0) + 1
            elif self._slow and failed is not None:
                self._slow.pop(name, None)

    def _is_slow(self, name: str) -> bool:
        return self._slow.get(name, 0) >= self.max_held

    def _held(self) -> int:
        return sum(many for name, many in self._running.items() if self._is_slow(name))
