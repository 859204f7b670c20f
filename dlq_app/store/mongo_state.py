"""Problems of MongoDB, from its own reports: cheap queries without writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pymongo
from pymongo.errors import AutoReconnect, NotPrimaryError, OperationFailure

from dlq_app.domain.store_problem import StoreProblem, disk_problems
from dlq_app.store import indexes
from dlq_app.store.mongo import client, database, translated

#: Seconds for all queries of one check.
LOOK_S = 1.5
_UNAUTHORIZED = 13

_Problem = partial(StoreProblem, part="mongodb")


def problems() -> tuple[list[StoreProblem], list[str]]:
    """Problems, and the checks for which a permission is missing. Raises ``StoreUnavailable`` without an answer."""
    unasked: list[str] = []
    with translated(), pymongo.timeout(LOOK_S):
        try:
            found = [*_role(database().command("hello"))]
            for name, look in (("the fsync lock", _lock), ("the free disk space", _disk)):
                try:
                    found += look()
                except OperationFailure as error:
                    if error.code != _UNAUTHORIZED:
                        raise
                    unasked.append(name)
        except (AutoReconnect, NotPrimaryError):
            # Only a primary was asked for: others may have answered the driver in the meantime.
            if not _is_without_primary():
                raise
            return [_no_primary()], []
    return found, unasked


def index_problems() -> list[StoreProblem]:
    """Missing indexes, with the consequence. Raises ``StoreUnavailable``."""
    absent = indexes.missing(database())
    fix = "Run manage.py prepare."
    if indexes.UNIQUE in absent:
        what = f"MongoDB is missing the unique index {indexes.UNIQUE}: a message can get two letters."
        if len(absent) > 1:
            what += f" {len(absent) - 1} other indexes are missing too."
        return [_Problem(code="unique_index", what=what, fix=fix)]
    if absent:
        named = ", ".join(absent[:3]) + (" and more" if len(absent) > 3 else "")
        return [
            _Problem(code="indexes", what=f"MongoDB is missing indexes ({named}): lists and figures are slow.", fix=fix)
        ]
    return []


def outbox_problem(waiting: int, oldest_s: float) -> StoreProblem:
    """The problem of outcomes that wait for MongoDB for too long."""
    number = f"{waiting:,} outcome{' waits' if waiting == 1 else 's wait'}"
    return _Problem(
        code="outbox_waits",
        what=f"{number} for MongoDB, the oldest for {oldest_s:.0f} s: it rejects them or is slow.",
        fix="Read why in the logs of the workers (store_away). Then look at MongoDB: its log, its disk, its members.",
    )


def _role(hello: Mapping[str, Any]) -> Iterator[StoreProblem]:
    if hello.get("isWritablePrimary"):
        return
    if hello.get("primary"):
        yield _Problem(
            code="not_primary",
            what="MONGODB_URL names one member that is not the primary: it takes no writes.",
            fix="Name every member and the replica set in MONGODB_URL, without directConnection.",
            stops=True,
        )
    else:
        yield _no_primary()


def _no_primary() -> StoreProblem:
    return _Problem(
        code="no_primary",
        what="MongoDB has no primary: it takes no writes.",
        fix="Wait for the election. If it does not end, restart members until a majority runs.",
        stops=True,
    )


def _is_without_primary() -> bool:
    """Whether members of a replica set answer, and none of them is its primary."""
    kinds = {server.server_type_name for server in client().topology_description.server_descriptions().values()}
    return "RSPrimary" not in kinds and bool(kinds & {"RSSecondary", "RSOther", "RSArbiter"})


def _lock() -> Iterator[StoreProblem]:
    if client().admin.command({"currentOp": 1, "$ownOps": True}).get("fsyncLock"):
        yield _Problem(
            code="locked",
            what="MongoDB is locked against writes (fsync).",
            fix="Wait for the backup that locked it. Or run db.fsyncUnlock().",
            stops=True,
        )


def _disk() -> Iterator[StoreProblem]:
    stats = database().command("dbStats")
    total, used = stats.get("fsTotalSize"), stats.get("fsUsedSize")
    if total and used is not None:
        yield from disk_problems("mongodb", "MongoDB's disk", total - used, "MongoDB stops when it is full.")
