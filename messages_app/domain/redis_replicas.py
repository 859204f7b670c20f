"""Problems of Redis' replicas and Sentinels, from their reports. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dlq_app.domain.store_problem import StoreProblem

#: Seconds since a replica's last report after which it is behind. Replicas report once a second.
MAX_LAG_S = 10

_Problem = partial(StoreProblem, part="redis")


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its primary sees it."""

    address: str
    is_online: bool
    lag_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """What the Sentinels of a service say."""

    service: str
    primary: str
    of: int
    #: Those that name a primary, and those of them that could start a fail-over.
    answering: int
    with_quorum: int
    #: Address and trouble of each other one.
    troubles: Sequence[tuple[str, str]]


def replicas(info: Mapping[str, str]) -> list[Replica]:
    """The connected replicas in ``INFO`` of a primary."""
    found = []
    for name, value in info.items():
        if not (name.startswith("slave") and name[5:].isdigit()):
            continue
        facts = dict(pair.split("=", 1) for pair in value.split(",") if "=" in pair)
        host, port, lag = facts.get("ip", ""), facts.get("port", ""), facts.get("lag", "")
        shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        found.append(Replica(shown, facts.get("state") == "online", int(lag) if lag.isdigit() else 0))
    return found


def replica_problems(info: Mapping[str, str], *, is_required: bool, is_watched: bool) -> Iterator[StoreProblem]:
    """Problems in ``INFO`` of a primary.

    ``is_required``: an acceptance needs a replica. ``is_watched``: Sentinel should be able to promote one.
    """
    if info.get("role") != "master":
        return
    found = replicas(info)
    if not found and is_required:
        yield _Problem(
            code="no_replica",
            what="ACCEPT_DURABILITY is replica and Redis has no connected replica: no message is accepted.",
            fix="Connect a replica with appendonly yes, or set ACCEPT_DURABILITY to fsync or everysec.",
            stops=True,
        )
    elif not found and is_watched:
        yield _Problem(
            code="no_replica",
            what="Redis has no connected replica: Sentinel has no server to promote if the primary fails.",
            fix="Start the replicas. INFO replication on them shows what hinders them.",
        )
    late = [one for one in found if not one.is_online or one.lag_s >= MAX_LAG_S]
    if late:
        named = ", ".join(
            f"{one.address} ({f'silent for {one.lag_s} s' if one.is_online else 'copying the data'})" for one in late
        )
        yield _Problem(
            code="replica_behind",
            what=f"A replica of Redis is behind: {named}. A fail-over to it loses what it lacks.",
            fix="Look at that server, its disk and the network. A first copy of the data ends without help.",
        )


def sentinel_problems(seen: Sentinels) -> Iterator[StoreProblem]:
    """Problems of the Sentinels that do not stop the system: existing connections need none."""
    named = "; ".join(f"{address}: {trouble}" for address, trouble in seen.troubles)
    if not seen.answering:
        yield _Problem(
            code="sentinels_away",
            what=f"No Sentinel names a primary ({named}). There is no fail-over, and new connections fail.",
            fix="Start the Sentinels, or correct REDIS_URL.",
        )
    elif 2 * seen.with_quorum <= seen.of:
        yield _Problem(
            code="no_quorum",
            what=f"Only {seen.with_quorum} of {seen.of} Sentinels can start a fail-over"
            f"{f' ({named})' if named else ''}: if the primary fails, Redis stays down.",
            fix=f"Start the missing Sentinels. SENTINEL CKQUORUM {seen.service} shows what is missing.",
        )
    elif seen.troubles:
        yield _Problem(
            code="sentinels_missing",
            what=f"{seen.of - seen.answering} of {seen.of} Sentinels does not name the primary ({named}).",
            fix="Start it, or correct REDIS_URL.",
        )


def primary_away(seen: Sentinels) -> StoreProblem:
    """The problem of a primary that does not answer though Sentinel names it."""
    return _Problem(
        code="no_primary",
        what=f"The primary that Sentinel names ({seen.primary}) does not answer.",
        fix=f"Wait for the fail-over. If none starts: SENTINEL CKQUORUM {seen.service}, and Sentinel's log.",
        stops=True,
    )


def unguarded(info: Mapping[str, str], *, is_watched: bool) -> str:
    """What ``min-replicas-to-write 0`` risks; empty when it is set, or there is nothing to promote."""
    # INFO has this line only if both of its settings are above 0.
    if info.get("role") != "master" or "min_slaves_good_slaves" in info or not (is_watched or replicas(info)):
        return ""
    return (
        "min-replicas-to-write is 0: a primary that is cut off from its replicas goes on taking messages, "
        "which a fail-over loses."
    )


GUARD = "Set min-replicas-to-write 1 and min-replicas-max-lag 2: docs/operations.md, Sentinel."
