"""Connections to Redis: one client per process, and for the ledger one socket per thread, without a pool."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.exceptions import (
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from breaker_app.primary import NotPrimary, leave_demoted, leaving
from breaker_app.redis_url import url_problem
from breaker_app.sentinels import NoPrimary, client_of, shown, view_of
from messages_app.domain.errors import LedgerRefused, StoreUnavailable
from messages_app.domain.redis_replicas import Sentinels
from messages_app.store.scripts import Script
from processes.once import OncePerProcess

log = logging.getLogger(__name__)

#: Seconds to wait for a connection and for each answer.
SOCKET_TIMEOUT_S = 2.0
Command = Sequence[Any]

#: The settings of a client that the ledger's connections use: address and credentials.
_ADDRESS = ("host", "port", "path", "db", "username", "password", "credential_provider", "client_name", "watch")
#: Errors about the server's state, not about the request.
_SERVER_TROUBLE = re.compile(r"\b(OOM|MISCONF|BUSY|CLUSTERDOWN|TRYAGAIN|WAITAOF)\b")

#: The error of scripts for invalid arguments, raised before they write anything.
_BAD_ARGUMENT = re.compile(r"\bBADARG ([a-z ]+)")


@OncePerProcess
def connection() -> redis.Redis:
    """The client of this process: thread-safe. It repeats only rejected commands."""
    if wrong := url_problem(settings.REDIS_URL):
        raise StoreUnavailable(wrong)
    return new_client()


def new_client(timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """A further client of the Redis in the settings, for RQ."""
    return with_timeouts(client_of(settings.REDIS_URL), timeout_s)


def sentinels() -> Sentinels | None:
    """What the Sentinels in ``REDIS_URL`` say; None if it names none."""
    view = None if url_problem(settings.REDIS_URL) else view_of(connection())
    if view is None:
        return None
    return Sentinels(
        service=view.service,
        primary=shown(view.primary) if view.primary else "",
        of=len(view.sentinels),
        answering=view.answering,
        with_quorum=view.with_quorum,
        troubles=view.troubles,
    )


def with_timeouts(client: redis.Redis, timeout_s: float = SOCKET_TIMEOUT_S) -> redis.Redis:
    """Set the client's timeouts, and make it leave a server that is not a primary.

    Call it before the client's first command.
    """
    return leave_demoted(client, socket_timeout=timeout_s, socket_connect_timeout=SOCKET_TIMEOUT_S)


class ThreadConnections(threading.local):
    """One socket per thread and process to one server.

    A command costs about half as much as through a client: no pool, no lock, no response callbacks. Commands are sent a
    second time, on a new socket, when their answer was lost or the server is no longer a primary. So they must be
    repeatable. Errors of the driver become ``StoreUnavailable``; only an error of the request stays ``ResponseError``.
    """

    def __init__(self, client: redis.Redis, timeout_s: float = SOCKET_TIMEOUT_S) -> None:
        pool = client.connection_pool
        self._make = leaving(pool.connection_class)
        self._kwargs = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if name in _ADDRESS or name.startswith("ssl_")
        } | {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": SOCKET_TIMEOUT_S,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }  # fmt: skip
        self._line: Any = None

    def call(self, *command: Any) -> Any:
        """The answer to one command; raises ``ResponseError`` or ``StoreUnavailable``."""
        answer = self.call_many([command])[0]
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def call_many(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands sent together, with a ``ResponseError`` in the place of an invalid one."""
        try:
            return self._exchange(commands)
        except NoPrimary as error:
            raise StoreUnavailable(f"{error}.") from error
        except (ConnectionError, TimeoutError):
            self.close()
        try:
            return self._exchange(commands)
        except NoPrimary as error:
            raise StoreUnavailable(f"{error}.") from error
        except NotPrimary as error:
            raise StoreUnavailable(f"Redis at this address takes no writes: {error}") from error
        except RedisError as error:
            self.close()
            raise StoreUnavailable(f"Redis does not answer: {type(error).__name__}") from error

    def close(self) -> None:
        """Close this thread's socket; the next command opens another."""
        if self._line is not None:
            self._line.disconnect()
            self._line = None

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        line = self._line
        if line is None or line.pid != os.getpid() or line.is_outdated():
            self.close()
            line = self._line = self._make(**self._kwargs)
        one = len(commands) == 1
        packed = line.pack_command(*commands[0]) if one else line.pack_commands(commands)
        line.send_packed_command(packed, check_health=False)
        answers = [self._read(line) for _ in commands]
        for answer in answers:
            if isinstance(answer, StoreUnavailable):
                raise answer
        return answers

    @staticmethod
    def _read(line: Any) -> Any:
        try:
            return line.read_response()
        except OutOfMemoryError as error:
            return _refused(error)
        except ResponseError as error:
            return _refused(error) if _SERVER_TROUBLE.search(str(error)) else error


def _refused(error: RedisError) -> StoreUnavailable:
    refusal = StoreUnavailable(f"Redis refuses: {error}")
    refusal.__cause__ = error
    return refusal


def _checked(reply: Any) -> Any:
    """The reply, or a ``LedgerRefused`` for invalid arguments. Other errors are bugs and raised."""
    if not isinstance(reply, ResponseError):
        return reply
    if not _BAD_ARGUMENT.search(str(reply)):
        raise reply
    refused = refusal(str(reply))
    refused.__cause__ = reply
    return refused


def refusal(why: str) -> LedgerRefused:
    """A script's refusal of one message, as an error for its sender."""
    bad = _BAD_ARGUMENT.search(why)
    if bad:
        return LedgerRefused(f"The ledger rejects the request: invalid {bad[1]}.")
    log.error("ledger_refused", extra={"why": why})
    return LedgerRefused("The ledger cannot write this message: what is stored under its id is of another kind.")


class ScriptCaller:
    """Runs the Lua scripts on one server, by digest, and loads missing ones."""

    def __init__(self, client: redis.Redis, prefix: str, scripts: Mapping[str, Script]) -> None:
        self.connections = ThreadConnections(client)
        self._prefix = prefix
        self._scripts = scripts

    def run(self, script: str, *arguments: Any) -> Any:
        """Run one script and return its reply."""
        return self.run_many([(script, arguments)])[0]

    def run_many(self, calls: Sequence[tuple[str, Sequence[Any]]], after: Sequence[Command] = ()) -> list[Any]:
        """Run scripts in one round trip, followed by plain commands; return the replies."""
        replies = self.run_each(calls, after)
        for reply in replies:
            if isinstance(reply, LedgerRefused):
                raise reply
        return replies

    def run_each(self, calls: Sequence[tuple[str, Sequence[Any]]], after: Sequence[Command] = ()) -> list[Any]:
        """``run_many``, with a ``LedgerRefused`` in the place of each invalid call; the others are carried out."""
        if not calls:
            return []
        commands: list[Command] = [
            ("EVALSHA", self._scripts[script].sha, 1, self._prefix, *arguments) for script, arguments in calls
        ]
        commands += after
        replies = self.connections.call_many(commands)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # The server is new or was restarted. Calls that did run are repeated, too: every script allows that.
            self._load({script for script, _ in calls})
            replies = self.connections.call_many(commands)
        return [_checked(reply) for reply in replies]

    def _load(self, names: set[str]) -> None:
        self.connections.call_many([("SCRIPT", "LOAD", self._scripts[name].source) for name in sorted(names)])
