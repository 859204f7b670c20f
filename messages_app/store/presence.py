"""Running processes: each announces itself every few seconds, by the server's clock."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping

import redis
from django.conf import settings

from messages_app.domain.records import Presence
from messages_app.store.connection import ScriptCaller, connection
from messages_app.store.scripts import Script, shipped
from processes.once import OncePerProcess

#: A process counts as gone after this time without an announcement. Announce at least three times as often.
SILENCE_MS = 15_000
#: After this time without an announcement its entry is deleted.
FORGET_MS = 3600 * 1000
#: A process whose clock differs from Redis' by more than this needs NTP.
CLOCK_TOLERANCE_MS = 2000


class Register:
    """The list of running processes in one Redis. Thread-safe."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "dlq:",
        *,
        scripts: Mapping[str, Script] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._wall = wall
        self._off_ms: int | None = None
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())

    def announce(self, name: str, role: str, *, started_at_ms: int, details: Mapping[str, object] | None = None) -> int:
        """Announce the process ``name``; return the server's time (ms).

        ``details``: figures for the console, numbers and short texts, never content of a message.
        """
        about = {
            "role": role,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "startedAtMs": started_at_ms,
            "details": dict(details or {}),
            # Measured with the previous announcement, so that it needs no request of its own.
            "clockOffMs": self._off_ms,
        }
        began = self._wall() * 1000
        now = int(self._scripts.run("announce", name, json.dumps(about, separators=(",", ":")), FORGET_MS))
        self._off_ms = _off_ms(began, now, self._wall() * 1000)
        return now

    def withdraw(self, name: str) -> None:
        """Remove a process that ends, if it is listed."""
        self._scripts.run("withdraw", name)

    def present(self, role: str | None = None, *, silence_ms: int = SILENCE_MS) -> list[Presence]:
        """Processes announced within ``silence_ms``, oldest announcement first; only of ``role`` if given."""
        found = [_presence(row) for row in self._scripts.run("present", silence_ms)]
        return [presence for presence in found if role is None or presence.role == role]

    def this_process(self, role: str) -> Presence:
        """The calling process, without announcing it: compares its clock with Redis' now."""
        began = self._wall() * 1000
        now = int(self._scripts.run("clock"))
        off_ms = _off_ms(began, now, self._wall() * 1000)
        host, pid = socket.gethostname(), os.getpid()
        return Presence(f"{role}-{host}-{pid}", role, pid, host, now, now, {}, off_ms)


def _off_ms(began_ms: float, server_ms: int, ended_ms: float) -> int:
    """How far this clock is ahead of the server's; 0 when the round trip explains the difference."""
    if began_ms > server_ms:
        return round(began_ms - server_ms)
    return min(0, round(ended_ms - server_ms))


def clock_words(off_ms: int) -> str:
    """The offset from Redis' clock in words, such as ``3.2 s ahead``. Coarse, so that the text is stable."""
    seconds = abs(off_ms) / 1000
    return f"{seconds:.1f} s {'ahead' if off_ms > 0 else 'behind'}" if seconds >= 0.05 else "in sync"


def wrong_clocks(processes: Iterable[Presence]) -> list[str]:
    """Processes whose clock differs from Redis' by more than the tolerance, with the offset."""
    return [
        f"{one.name} on {one.host} is {clock_words(off)}"
        for one in processes
        if (off := one.clock_off_ms) is not None and abs(off) > CLOCK_TOLERANCE_MS
    ]


def _presence(row: tuple[bytes, int, bytes]) -> Presence:
    name, seen_at, text = row
    about = json.loads(text)
    return Presence(
        name=name.decode(),
        role=about.get("role", ""),
        pid=about.get("pid", 0),
        host=about.get("host", ""),
        started_at_ms=about.get("startedAtMs", 0),
        seen_at_ms=int(seen_at),
        details=about.get("details", {}),
        clock_off_ms=about.get("clockOffMs"),
    )


@OncePerProcess
def _register() -> Register:
    return Register(connection(), settings.REDIS_PREFIX)


def announce(name: str, role: str, *, started_at_ms: int, details: Mapping[str, object] | None = None) -> int:
    """``Register.announce`` on the server in the settings."""
    return _register().announce(name, role, started_at_ms=started_at_ms, details=details)


def withdraw(name: str) -> None:
    """``Register.withdraw`` on the server in the settings."""
    _register().withdraw(name)


def present(role: str | None = None, *, silence_ms: int = SILENCE_MS) -> list[Presence]:
    """``Register.present`` on the server in the settings."""
    return _register().present(role, silence_ms=silence_ms)


def this_process(role: str) -> Presence:
    """``Register.this_process`` on the server in the settings."""
    return _register().this_process(role)
