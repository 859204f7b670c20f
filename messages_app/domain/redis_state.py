"""Problems of the Redis server, from its reports and its errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial

from dlq_app.domain.store_problem import StoreProblem

#: Share of a limit (memory, clients) above which to warn.
NEARLY = 0.8

#: Bytes of Redis' memory for a message with a payload of 20 bytes that ended: while its payload and attempts are kept,
#: and after that. Measured over 10 000 messages; docs/operations.md has the figures.
ENDED_BYTES, REMEMBERED_BYTES = 1590, 675

_Problem = partial(StoreProblem, part="redis")

_MORE_MEMORY = "Raise maxmemory. Or keep less: lower RECORD_TTL_S, or bring MongoDB back if outcomes wait for it."
_DISK = "Make room on Redis' disk. Its log says more; writes go on by themselves."
_SNAPSHOT = (
    "Make room on Redis' disk, then run BGSAVE. If you need no snapshots beside the append-only file, switch them off: "
    'CONFIG SET save "".'
)
_PRIMARY = "Point REDIS_URL to the primary. Or promote this server: REPLICAOF NO ONE."
_CLIENTS = "Raise maxclients, or start fewer processes."

#: Pattern of an error, code, meaning and fix. The first match counts.
_REFUSALS: tuple[tuple[str, str, str, str], ...] = (
    (r"None of \d+ Sentinels? answers", "sentinels_away",
     "No Sentinel in REDIS_URL answers: the primary is not known.", "Start the Sentinels, or correct REDIS_URL."),
    (r"Sentinel knows no service", "service_unknown", "The Sentinels do not know the service that REDIS_URL names.",
     "Correct the name behind the hosts in REDIS_URL. SENTINEL MASTERS lists the services."),
    (r"Sentinel refuses", "sentinel_no_access", "The Sentinels refuse the user or the password.",
     "Correct sentinel_username and sentinel_password in REDIS_URL."),
    (r"earlier primary than was known", "sentinels_outdated",
     "Only Sentinels that were cut off answer: they name an earlier primary.",
     "Start the other Sentinels, or repair the network to them."),
    (r"OutOfMemoryError|\bOOM\b", "memory_full", "Redis is full: it refuses writes (maxmemory).", _MORE_MEMORY),
    (r"MISCONF.*(AOF|append)", "aof_write_failed",
     "Redis refuses writes: it cannot write its append-only file. Its disk is full or broken.", _DISK),
    (r"\bMISCONF\b", "snapshot_failed", "Redis refuses writes: its last snapshot failed (MISCONF).", _SNAPSHOT),
    (r"NOREPLICAS", "too_few_replicas",
     "Redis refuses writes: fewer replicas are connected than min-replicas-to-write asks for.",
     "Bring the replicas back, or lower min-replicas-to-write."),
    (r"BusyLoadingError|\bLOADING\b", "loading", "Redis is loading its data and answers once that is done.",
     "Wait. INFO persistence shows loading_eta_seconds."),
    (r"ReadOnlyError|MasterDownError|\b(READONLY|MASTERDOWN|UNBLOCKED)\b", "read_only",
     "REDIS_URL leads to a replica, which takes no writes.", _PRIMARY),
    (r"\bBUSY\b", "busy_script", "A script keeps Redis busy: nothing else is served.",
     "Run SCRIPT KILL, and find out who runs scripts there."),
    (r"CLUSTERDOWN|MOVED|CROSSSLOT", "cluster", "Redis is a cluster, which is not supported.",
     "Use one primary with replicas."),
    (r"max(imum)? number of clients", "clients_full", "Redis accepts no more connections (maxclients).", _CLIENTS),
    (r"AuthenticationError|\b(NOAUTH|WRONGPASS)\b", "no_access", "Redis refuses the user or the password.",
     "Correct them in REDIS_URL."),
    (r"NoPermissionError|\bNOPERM\b|ACL failure|no permissions?", "no_permission",
     "The Redis user lacks a permission that intake needs.",
     "Allow it what ACL LOG says was denied."),
    (r"did not confirm|\bWAITAOF\b", "not_confirmed",
     "Redis does not confirm in time that a message is stored as safely as ACCEPT_DURABILITY asks for.",
     "Look at Redis' disk. For `replica`, a replica with appendonly yes must be connected."),
)  # fmt: skip


def refusal_problem(error: BaseException) -> StoreProblem:
    """The problem behind a rejected write; ``away`` for a server that does not answer."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    said = " ".join(f"{type(one).__name__}: {one}" for one in chain)
    for pattern, code, what, fix in _REFUSALS:
        if re.search(pattern, said):
            return _Problem(code=code, what=what, fix=fix, stops=True)
    return _Problem(
        code="away", what="Redis does not answer.", fix="Start it, or correct REDIS_URL.", stops=True
    )  # fmt: skip


def writes_paused() -> StoreProblem:
    """The problem of a server that answers reads but not writes."""
    return _Problem(
        code="paused",
        what="Redis answers but takes no writes: a fail-over is under way, writes are paused, or its disk stalls.",
        fix="Wait for the end of the fail-over. Else run CLIENT UNPAUSE, and look at Redis' disk.",
        stops=True,
    )


#: Shown instead of the checks of ``INFO``.
NOT_CHECKED = "This Redis user may not run INFO: append-only file, eviction, memory, disk and replicas are not checked."
ALLOW_INFO = "Check them yourself, or allow it: ACL SETUSER name +info."


def identity_problems(hello: Mapping[str, str]) -> Iterator[StoreProblem]:
    """Reasons to reject this kind of server, from ``HELLO``, which needs no permission."""
    mode = hello.get("mode", "")
    if mode == "sentinel":
        yield _Problem(
            code="sentinel",
            what="REDIS_URL leads to a Sentinel, which keeps no messages.",
            fix="Set REDIS_URL to redis+sentinel://HOST:26379,HOST:26379/SERVICE/NUMBER.",
            stops=True,
        )
    elif mode == "cluster":
        yield _Problem(
            code="cluster",
            what="REDIS_URL leads to a node of a Redis Cluster, which is not supported.",
            fix="Set REDIS_URL to one primary, with replicas.",
            stops=True,
        )
    elif hello.get("role", "master") != "master":
        yield _Problem(
            code="read_only", what="REDIS_URL leads to a replica, which takes no writes.", fix=_PRIMARY, stops=True
        )


def reported_problems(info: Mapping[str, str]) -> Iterator[StoreProblem]:
    """Problems that ``INFO`` shows. Only a write shows whether writes are accepted."""
    if info.get("role") == "slave":
        link = "" if info.get("master_link_status") == "up" else " Its link to the primary is down."
        yield _Problem(
            code="read_only",
            what=f"REDIS_URL leads to a replica, which takes no writes.{link}",
            fix=_PRIMARY,
            stops=True,
        )
    if info.get("master_failover_state", "no-failover") != "no-failover":
        yield _Problem(
            code="paused",
            what="A fail-over of Redis is under way: it takes no writes until that is over.",
            fix="Wait. FAILOVER ABORT ends it early.",
        )
    if info.get("loading", "0") != "0" or info.get("async_loading", "0") != "0":
        yield refusal_problem(ValueError("LOADING"))
    yield from _memory(info)
    if info.get("aof_last_write_status", "ok") != "ok":
        yield _Problem(
            code="aof_write_failed",
            what="Redis cannot write its append-only file: its disk is full or broken. Writes are refused.",
            fix=_DISK,
        )
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield _Problem(
            code="aof_rewrite_failed",
            what="Redis could not rewrite its append-only file, which grows until that succeeds.",
            fix="Make room on Redis' disk and in memory for a fork, then run BGREWRITEAOF.",
        )
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        yield _Problem(
            code="snapshot_failed",
            what="The last snapshot of Redis failed. With save points it refuses writes until one succeeds.",
            fix=_SNAPSHOT,
        )
    clients, most = _number(info, "connected_clients"), _number(info, "maxclients")
    if most and clients >= most:
        yield _Problem(
            code="clients_full", what=f"Redis accepts no more connections: {clients:,} of {most:,}.", fix=_CLIENTS
        )
    elif most and clients > NEARLY * most:
        yield _Problem(
            code="clients_high", what=f"Redis serves {clients:,} of at most {most:,} connections.", fix=_CLIENTS
        )


def _memory(info: Mapping[str, str]) -> Iterator[StoreProblem]:
    used, limit = _number(info, "used_memory"), _number(info, "maxmemory")
    if not limit or used <= NEARLY * limit:
        return
    share = f"{used * 100 // limit} % of maxmemory ({limit / 1024**2:,.0f} MB) {{}} used"
    if used >= limit:
        yield _Problem(
            code="memory_full", what=f"Redis is full: {share.format('are')}. Intake stops.", fix=_MORE_MEMORY
        )
    else:
        yield _Problem(
            code="memory_high", what=f"Redis is nearly full: {share.format('are')}. At 100 % intake stops.",
            fix=_MORE_MEMORY,
        )  # fmt: skip


def _number(info: Mapping[str, str], name: str) -> int:
    text = info.get(name, "")
    return int(text) if text.isdigit() else 0


def projected_bytes(rate: float, *, record_ttl_s: float, body_ttl_s: float) -> int:
    """Expected memory of ended messages after ``rate`` messages a second for ``record_ttl_s``.

    For small payloads that succeed. Payloads add their size for ``body_ttl_s``.
    """
    whole_s = min(body_ttl_s, record_ttl_s)
    return round(rate * (whole_s * ENDED_BYTES + (record_ttl_s - whole_s) * REMEMBERED_BYTES))


def memory_limit(info: Mapping[str, str]) -> tuple[int, str]:
    """Maximum memory of Redis, and the source of the limit; 0 when unknown."""
    limit = _number(info, "maxmemory")
    return (limit, "maxmemory") if limit else (_number(info, "total_system_memory"), "the host's memory")
