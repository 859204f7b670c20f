"""Which of our processes are alive: each says so every few seconds, by the clock of the server."""

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

#: A process that was silent for this long counts as gone. Announce yourself at least three times as often.
SILENCE_MS = 15_000
#: Silent for this long: not even remembered.
FORGET_MS = 3600 * 1000
#: A process whose clock differs from Redis' by more than this needs NTP.
CLOCK_TOLERANCE_MS = 2000


class Register:
    """The list of living processes, over one Redis. Thread-safe."""

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
        """Say that the process ``name`` is alive and what it does; the server's time (ms) of having said so.

        ``details`` are figures for the console: numbers and short texts, never anything from a message.
        """
        about = {
            "role": role,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "startedAtMs": started_at_ms,
            "details": dict(details or {}),
            # Told with the next beat: it is measured by the way of this one, so that it costs nothing.
            "clockOffMs": self._off_ms,
        }
        began = self._wall() * 1000
        now = int(self._scripts.run("announce", name, json.dumps(about, separators=(",", ":")), FORGET_MS))
        self._off_ms = _off_ms(began, now, self._wall() * 1000)
        return now

    def withdraw(self, name: str) -> None:
        """Say that the process ends; nothing happens when it was not there."""
        self._scripts.run("withdraw", name)

    def present(self, role: str | None = None, *, silence_ms: int = SILENCE_MS) -> list[Presence]:
        """The processes that were alive within ``silence_ms``, longest silent first; only of one role if given."""
        found = [_presence(row) for row in self._scripts.run("present", silence_ms)]
        return [presence for presence in found if role is None or presence.role == role]

    def this_process(self, role: str) -> Presence:
        """The calling process, which does not announce itself: its clock is compared with Redis' now."""
        began = self._wall() * 1000
        now = int(self._scripts.run("clock"))
        off_ms = _off_ms(began, now, self._wall() * 1000)
        host, pid = socket.gethostname(), os.getpid()
        return Presence(f"{role}-{host}-{pid}", role, pid, host, now, now, {}, off_ms)


def _off_ms(began_ms: float, theirs_ms: int, ended_ms: float) -> int:
    """How far this clock is ahead of theirs; 0 when the journey there and back explains the difference."""
    if began_ms > theirs_ms:
        return round(began_ms - theirs_ms)
    return min(0, round(ended_ms - theirs_ms))


def clock_words(off_ms: int) -> str:
    """``3.2 s ahead`` of Redis' clock; coarse, so that it stays the same as long as nothing happens."""
    seconds = abs(off_ms) / 1000
    return f"{seconds:.1f} s {'ahead' if off_ms > 0 else 'behind'}" if seconds >= 0.05 else "in sync"


def wrong_clocks(processes: Iterable[Presence]) -> list[str]:
    """Whose clock differs from Redis' by more than the tolerance, and by how much."""
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
    """``Register.announce`` on the server that settings name."""
    return _register().announce(name, role, started_at_ms=started_at_ms, details=details)


def withdraw(name: str) -> None:
    """``Register.withdraw`` on the server that settings name."""
    _register().withdraw(name)


def present(role: str | None = None, *, silence_ms: int = SILENCE_MS) -> list[Presence]:
    """``Register.present`` on the server that settings name."""
    return _register().present(role, silence_ms=silence_ms)


def this_process(role: str) -> Presence:
    """``Register.this_process`` on the server that settings name."""
    return _register().this_process(role)
