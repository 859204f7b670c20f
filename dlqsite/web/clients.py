"""The clients of a web process: what each of them waits for."""

from __future__ import annotations

import socket
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from gunicorn import http
from gunicorn.workers.gthread import TConn

from dlqsite.web.connection import Wire

if TYPE_CHECKING:
    from collections.abc import Callable


class Does(Enum):
    """Who waits for what on a connection."""

    SENDING = auto()  # the client sends a request, or may
    IDLE = auto()  # between requests
    WORKING = auto()  # a thread or the door answers
    READING = auto()  # the client reads the answer
    LEAVING = auto()  # answered for the last time


class Connection(TConn):  # type: ignore[misc]
    """Gunicorn's state of a connection, with a ``Wire`` instead of the socket."""

    def __init__(self, cfg: Any, raw: socket.socket, client: Any, server: Any, *, trusted: bool, head_s: float) -> None:
        self.wire = Wire(raw)
        super().__init__(cfg, self.wire, client, server)
        self.data_ready = True  # a thread is given only then
        self.does = Does.SENDING
        self.since = time.monotonic()
        self.deadline: float | None = self.since + head_s
        self.held = 0
        self.stays = True
        self.thrown_away = 0
        self.watching = 0
        self.then: Callable[[Connection], None] | None = None
        # A peer on a Unix socket has no address, and gunicorn trusts a client without one.
        self.parser = http.get_parser(cfg, self.wire, client if trusted or isinstance(client, tuple) else ("", 0))
        self.initialized = True

    def close(self, graceful: bool = False) -> None:
        self.wire.raw.close()


class InOrder(dict[Any, None]):
    """As much of a deque as gunicorn uses. Removes any item at once, however many there are."""

    def append(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]

    def __getitem__(self, _first: Any) -> Any:
        return next(iter(self))
