"""The Redis server below the ledger: confirmed writes, and whether the server can be used."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings
from redis.exceptions import NoPermissionError, ResponseError

from breaker_app.redis_url import Address
from breaker_app.sentinels import watch_behind
from dlq_app.domain.store_problem import StoreProblem
from messages_app import conf
from messages_app.domain.errors import NotConfirmed, StoreUnavailable
from messages_app.domain.records import Problem
from messages_app.domain.redis_replicas import replica_problems
from messages_app.domain.redis_state import identity_problems
from messages_app.store.connection import Command, ScriptCaller, ThreadConnections
from messages_app.store.scripts import Script, shipped

#: Lifetime of the value that a probe writes.
PROBE_TTL_MS = 60_000
#: Wait between two requests to replicas for their offset on disk.
_MIN_WAIT_MS = 5
_MAX_WAIT_MS = 250
#: Reading breakers needs EVALSHA_RO.
_MIN_REDIS = (7, 0)
_REPLICA = re.compile(rb"^slave\d+:ip=([^,]+),port=(\d+),state=online,", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Lifetimes of the ledger's data, and the durability of an acceptance."""

    #: Lifetime of a claim. Its holder renews it.
    lease_ms: int = 30_000
    #: Lifetime of the record of an ended message: the idempotency window.
    record_ttl_ms: int = 24 * 3600 * 1000
    #: Lifetime of the payload, tags, source and attempts of a done message.
    body_ttl_ms: int = 3600 * 1000
    #: Maximum wait for an acceptance to be on disk before it is confirmed. None: do not wait.
    fsync_timeout_ms: int | None = None
    #: Minimum number of replicas that must have it on disk as well.
    replicas: int = 0


def terms_from_settings() -> Terms:
    """The terms in the settings. Raises ``PolicyError`` for an invalid ``ACCEPT_DURABILITY``."""
    default = Terms()
    durability = conf.durability()
    return Terms(
        lease_ms=int(getattr(settings, "LEASE_S", default.lease_ms / 1000) * 1000),
        record_ttl_ms=int(getattr(settings, "RECORD_TTL_S", default.record_ttl_ms / 1000) * 1000),
        body_ttl_ms=int(getattr(settings, "BODY_TTL_S", default.body_ttl_ms / 1000) * 1000),
        fsync_timeout_ms=int(getattr(settings, "ACCEPT_FSYNC_TIMEOUT_MS", 1500)) if durability != "everysec" else None,
        replicas=1 if durability == "replica" else 0,
    )


class LedgerServer:
    """Connections to one Redis server and the ledger's scripts on it."""

    def __init__(
        self,
        client: redis.Redis,
        prefix: str = "dlq:",
        *,
        terms: Terms | None = None,
        scripts: Mapping[str, Script] | None = None,
    ) -> None:
        self._scripts = ScriptCaller(client, prefix, scripts or shipped())
        self._connections = self._scripts.connections
        # A socket of its own: a blocking wait must not delay other commands.
        self._waiting_connections = ThreadConnections(client)
        self._prefix = prefix
        self._terms = terms or Terms()
        self._watch = watch_behind(client)
        #: Replicas of the primary at the last confirmation, and whether this user may ask for them.
        self._connected: frozenset[Address] = frozenset()
        self._may_ask = True

    def _replicas(self, connected: Collection[Address]) -> int:
        """Number of replicas that must confirm an acceptance. ``connected``: those of the primary.

        With Sentinel, all that it could promote: while it promotes one, the old primary may still have another, whose
        confirmation is worth nothing.
        """
        wanted = self._terms.replicas
        return max(wanted, self._watch.confirming(connected)) if wanted and self._watch else wanted

    def run_confirmed(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Run scripts and return their replies once their writes are as durable as the terms require.

        Raises ``NotConfirmed``.
        """
        terms = self._terms
        if terms.fsync_timeout_ms is None:
            return self._scripts.run_many(calls)
        # After all calls in the same round trip, so that one wait covers the whole batch. WAITAOF waits for the writes
        # of this connection. A duplicate writes nothing; with the probe it waits for the first acceptance, too.
        waited_for = self._replicas(self._connected)
        after: list[Command] = [("WAITAOF", 1, waited_for, ms) for ms in _waits_ms(terms.fsync_timeout_ms, waited_for)]
        asks = bool(terms.replicas and self._watch) and self._may_ask
        try:
            replies = self._scripts.run_many(
                [*calls, ("probe", [PROBE_TTL_MS])], after=[*after, *([("INFO", "replication")] if asks else [])]
            )
        except NoPermissionError:
            if not asks:
                raise
            self._may_ask = False
            return self.run_confirmed(calls)
        # Asked after the wait: a replica that has confirmed is connected.
        self._connected = _replicas_of(replies.pop()) if asks else frozenset()
        if self._watch and self._connected:
            self._watch.note_connected(self._connected)
        on_disk, on_replicas = replies[-1]
        replicas = self._replicas(self._connected)
        if on_disk < 1 or on_replicas < replicas:
            of_replicas = "the disk of a replica" if replicas == 1 else f"the disks of {replicas} replicas"
            where = "its disk" if on_disk < 1 else of_replicas
            raise NotConfirmed(
                f"Redis did not confirm within {terms.fsync_timeout_ms / 1000:g} s that the message reached {where}. "
                "It may still be processed. Send it again with the same messageId."
            )
        return replies[: len(calls)]

    def try_write(self) -> int:
        """Write a small value with the durability of an acceptance; return the server's time (ms).

        Raises ``StoreUnavailable`` when an acceptance would fail, too.
        """
        try:
            return int(self.run_confirmed([("probe", [PROBE_TTL_MS])])[0])
        except ResponseError as error:  # such as a user who may not run scripts
            raise StoreUnavailable(f"Redis refuses: {error}") from error

    def identity_problems(self) -> list[StoreProblem]:
        """Reasons to reject this kind of server. Needs no permission on Redis."""
        answer = self._connections.call("HELLO")
        pairs = zip(answer[::2], answer[1::2], strict=True)
        hello = {name.decode(): value.decode() for name, value in pairs if isinstance(value, bytes)}
        problems = list(identity_problems(hello))
        if problems:
            self._connections.close()  # the address may resolve to another server next time
        return problems

    def server_info(self) -> Mapping[str, str]:
        """The server's ``INFO``; empty when this user lacks the permission."""
        try:
            lines = self._connections.call("INFO").decode().splitlines()
        except NoPermissionError:
            return {}
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def require_safe_redis(self, info: Mapping[str, str] | None = None) -> list[Problem]:
        """Settings of this server that lose messages, each with its fix. Startup stops on any.

        ``info``: the result of an earlier ``server_info``.
        """
        info = self.server_info() if info is None else info
        return _server_problems(info, self._terms) if info else []

    def replica_problems(self, info: Mapping[str, str], *, is_watched: bool = False) -> list[StoreProblem]:
        """Problems of the replicas in ``info``. ``is_watched``: Sentinel should be able to promote one."""
        return list(replica_problems(info, is_required=self._terms.replicas > 0, is_watched=is_watched))


def _replicas_of(info: bytes) -> frozenset[Address]:
    """Addresses in ``INFO replication``. One that still receives the data confirms nothing."""
    return frozenset((found[1].decode(), int(found[2])) for found in _REPLICA.finditer(info))


def _waits_ms(timeout_ms: int, replicas: int) -> list[int]:
    """The wait for a confirmation, in parts. Each part asks the replicas again.

    Without being asked, a replica reports its offset on disk only once a second.
    """
    parts: list[int] = []
    part = _MIN_WAIT_MS if replicas else timeout_ms
    while (left := timeout_ms - sum(parts)) > 0:
        parts.append(min(part, left))
        part = min(2 * part, _MAX_WAIT_MS)
    return parts


def _server_problems(info: Mapping[str, str], terms: Terms) -> list[Problem]:
    problems = []
    version = tuple(int(part) for part in info["redis_version"].split(".")[:2])
    if version < _MIN_REDIS:
        problems.append(Problem(f"Redis {info['redis_version']} is too old.", "Use Redis 7.0 or newer, or Valkey."))
    if terms.fsync_timeout_ms is not None and version < (7, 2):
        name = "replica" if terms.replicas else "fsync"
        problems.append(
            Problem(
                f"ACCEPT_DURABILITY is {name}, but this Redis has no WAITAOF.", "Use Redis 7.2 or newer, or Valkey."
            )
        )
    if info.get("aof_enabled") != "1":
        problems.append(
            Problem("Redis keeps no append-only file: a restart would lose accepted messages.", "Set appendonly yes.")
        )
    policy = info.get("maxmemory_policy", "")
    if policy != "noeviction":
        problems.append(
            Problem(
                f"Redis may evict accepted messages (maxmemory-policy {policy}).", "Set maxmemory-policy noeviction."
            )
        )
    return problems
