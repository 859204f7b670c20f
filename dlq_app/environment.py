"""The state of this process and its host at the moment something fails: the letter's ``systemState``."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

_FRESH_S = 1.0


class Environment:
    """Snapshots of one process, made at most once a second: many messages can fail in the same instant.

    Safe to call from any number of threads. Environment variables and command lines are left out on purpose: they hold
    secrets.
    """

    def __init__(self, *, code_version: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._code_version = code_version
        self._clock = clock
        self._lock = threading.Lock()
        self._process = psutil.Process(os.getpid())
        self._host = socket.gethostname()
        self._taken_at = float("-inf")
        self._state: dict[str, Any] = {}
        # The first call only starts the measurement and always answers 0.0.
        psutil.cpu_percent(interval=None)

    def snapshot(self, worker: str) -> dict[str, Any]:
        """``{cpu, memory, uptime, host, worker, codeVersion}``: percent, percent of the host's memory, seconds."""
        with self._lock:
            now = self._clock()
            if now - self._taken_at >= _FRESH_S:
                self._state = self._measure()
                self._taken_at = now
            return {**self._state, "worker": worker, "codeVersion": self._code_version}

    def _measure(self) -> dict[str, Any]:
        return {
            "cpu": psutil.cpu_percent(interval=None),
            "memory": psutil.virtual_memory().percent,
            "uptime": round(time.time() - self._process.create_time(), 1),
            "host": self._host,
        }
