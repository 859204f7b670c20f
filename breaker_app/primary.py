"""Connections that are closed when their Redis server turns out to be no primary.

After a fail-over behind one address (a virtual address, a managed Redis, a proxy) open sockets may still lead to the
old primary, which is a replica now. It refuses writes, or all commands while it loads its new data, and never closes
the socket. So the socket is closed here, and every older socket of the process is replaced at its next use.
"""

from __future__ import annotations

import itertools
import re
from functools import cache
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection
from redis.exceptions import BusyLoadingError, ConnectionError, MasterDownError, ReadOnlyError, ResponseError
from redis.retry import Retry

#: Answers of a server that is no primary, or was demoted while a command waited. BusyLoadingError is one of them too,
#: since a demoted server may load the data of the new primary first. A transaction names the cause in its own error. A
#: script that raises an error again puts its place before it: "user_script:35: READONLY ...".
_DEMOTED = re.compile(
    r"(?:Transaction discarded because of: |user_script:\d+: )?(?:READONLY|MASTERDOWN|LOADING|UNBLOCKED|NOREPLICAS)\b"
)

_demotions = itertools.count(1)
_demoted = 0


class NotPrimary(ConnectionError):
    """The server is no primary, or cannot act as one. It did not run the command, so it may be sent again."""


def demotions() -> int:
    """How often this process has met a server that is no primary, or heard that another one is."""
    return _demoted


def primary_moved() -> None:
    """Replace every open socket of this process at its next use: another server is the primary now."""
    global _demoted
    _demoted = next(_demotions)


def retry_once() -> Retry:
    """Retry once if a server that is no primary refused the command. No other command is sent twice."""
    return Retry(NoBackoff(), 1, supported_errors=(NotPrimary,))


class Leaving(AbstractConnection):
    """Mixin for the connection classes of the driver."""

    _sock: Any
    _opened_at = 0

    def is_outdated(self) -> bool:
        """Whether this socket was opened before this process last met a server that is no primary."""
        return self._opened_at != _demoted

    def connect(self) -> None:
        # Pools call this when they lend a connection, so never inside a transaction or between WATCH and EXEC.
        if self._sock is not None and self.is_outdated():
            self.disconnect()  # type: ignore[no-untyped-call]
        super().connect()  # type: ignore[no-untyped-call]

    def connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        if self._sock is None:
            self._opened_at = _demoted
        super().connect_check_health(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read_response(*args, **kwargs)
        except (ReadOnlyError, MasterDownError, BusyLoadingError) as error:
            refusal: Exception = error
        except ResponseError as error:
            if not _DEMOTED.match(str(error)):
                raise
            refusal = error
        self.disconnect()  # type: ignore[no-untyped-call]
        primary_moved()
        raise NotPrimary(f"{type(refusal).__name__}: {refusal}") from refusal


@cache
def leaving(kind: type[AbstractConnection]) -> type[Any]:
    """``kind`` as a connection class that leaves a server that is no primary."""
    return kind if issubclass(kind, Leaving) else type(f"Leaving{kind.__name__}", (Leaving, kind), {})


def leave_demoted(client: Redis, **options: Any) -> Redis:
    """Make future connections of the client leave a server that is no primary; ``options`` replace their settings."""
    pool = client.connection_pool
    pool.connection_class = leaving(pool.connection_class)
    pool.connection_kwargs.update({"retry": retry_once(), "retry_on_error": [], **options})
    return client
