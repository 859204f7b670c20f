"""Checks of what the system stands on: Redis, MongoDB, the database, the disk, and who works on the lanes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from django.apps import apps
from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.recorder import MigrationRecorder

from dlq_app.domain.errors import StoreUnavailable as LettersUnavailable
from dlq_app.domain.store_problem import StoreProblem, disk_problems
from dlq_app.services import backups
from dlq_app.services import figures as letter_figures
from dlq_app.store import mongo_state
from dlqsite.health.findings import Finding, Status, finding_of
from dlqsite.models import ApiKey
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import LedgerFigures
from messages_app.domain.redis_replicas import (
    GUARD,
    Sentinels,
    primary_away,
    replicas,
    sentinel_problems,
    unguarded,
)
from messages_app.domain.redis_state import (
    NOT_CHECKED,
    memory_limit,
    projected_bytes,
    refusal_problem,
    reported_problems,
)
from messages_app.store import presence
from messages_app.store.connection import sentinels
from messages_app.store.lane_workers import LaneWorkers, lane_workers
from messages_app.store.ledger import ledger
from messages_app.store.series import History, series
from wire.cached import Cached

#: Seconds for which tables and indexes that were there are taken to be there still.
SELDOM_S = 30.0
#: Outcomes that MongoDB takes wait less than this: the pause after its return is 15 s at most.
OUTBOX_S = 20.0
#: The rate of acceptances is that of the last hour, once there are samples of ten minutes.
_RATE_OVER_MS, _RATE_MIN_MS = 3_600_000, 600_000


def _seldom(ask: Callable[[], list[StoreProblem]]) -> Cached[[], list[StoreProblem]]:
    """A check that is repeated only after a while, as long as it finds nothing."""
    return Cached(ask, lambda found, took_s: 0 if found else SELDOM_S)


@dataclass(frozen=True, slots=True)
class RedisReport:
    """What Redis and its Sentinels report about themselves."""

    problems: list[StoreProblem]
    #: What Redis could not be asked.
    unasked: str = ""
    #: The risk of ``min-replicas-to-write 0``, if it is one.
    unguarded: str = ""
    facts: Mapping[str, object] = field(default_factory=dict)


def redis_report() -> RedisReport:
    """What Redis and its Sentinels report about themselves. Raises ``StoreUnavailable``."""
    identity = ledger().identity_problems()
    if {problem.code for problem in identity} & {"sentinel", "cluster"}:
        return RedisReport(identity)
    info = ledger().server_info()
    seen = sentinels()
    is_watched = seen is not None
    reported = [*reported_problems(info), *ledger().replica_problems(info, is_watched=is_watched)]
    if seen is not None:
        reported += sentinel_problems(seen)
    codes = {problem.code for problem in reported}
    unsafe = [
        StoreProblem(part="redis", code="unsafe", what=problem.what, fix=problem.fix)
        for problem in ledger().require_safe_redis(info)
    ]
    # INFO tells more of a replica than HELLO, which everybody may ask.
    identity = [problem for problem in identity if problem.code not in codes]
    return RedisReport(
        [*identity, *reported, *unsafe],
        "" if info else NOT_CHECKED,
        unguarded(info, is_watched=is_watched),
        _replication_facts(info, seen),
    )


def _replication_facts(info: Mapping[str, str], seen: Sentinels | None) -> dict[str, object]:
    found = replicas(info)
    facts: dict[str, object] = {"replicas": len(found)} if info else {}
    if found:
        facts["replicaLagSeconds"] = max(one.lag_s for one in found)
    if seen is not None:
        facts["primary"] = seen.primary
        facts["sentinels"] = {"of": seen.of, "answering": seen.answering, "withQuorum": seen.with_quorum}
    return facts


def redis_refusal(error: StoreUnavailable) -> StoreProblem:
    """The problem behind a rejected request to Redis."""
    problem = refusal_problem(error)
    if problem.code != "away":
        return problem
    seen = sentinels()
    return primary_away(seen) if seen is not None and seen.primary else problem


@dataclass(frozen=True, slots=True)
class Projection:
    """The bytes that Redis needs to remember ended messages for RECORD_TTL_S, and those that it can use."""

    needed: int
    limit: int
    told: str


MORE_MEMORY = "Give Redis more memory, or lower RECORD_TTL_S: docs/operations.md, Memory of Redis."


def memory_projection(info: Mapping[str, str], history: History) -> Projection | None:
    """What the rate of the last hour leads to; None without INFO, or without samples of ten minutes."""
    limit, what = memory_limit(info)
    last = history.last
    rate = history.rate("accepted", last.at_ms, over_ms=_RATE_OVER_MS) if last else None
    if last is None or rate is None or last.at_ms - history.samples[0].at_ms < _RATE_MIN_MS or not limit:
        return None
    needed = projected_bytes(rate, record_ttl_s=settings.RECORD_TTL_S, body_ttl_s=settings.BODY_TTL_S)
    told = (
        f"{rate:,.1f} messages/s for RECORD_TTL_S ({settings.RECORD_TTL_S / 3600:g} h) need about "
        f"{needed / 1024**2:,.0f} MB without payloads, {needed * 100 // limit} % of {what}"
    )
    return Projection(needed, limit, told)


def _overflow_problems() -> list[StoreProblem]:
    found = memory_projection(ledger().server_info(), series().history())
    if found is None or found.needed <= found.limit:
        return []
    what = f"Redis will run out of memory at the message rate of the last hour: {found.told}."
    return [StoreProblem(part="redis", code="memory_projected", what=what, fix=MORE_MEMORY)]


overflow_problems = _seldom(_overflow_problems)


def check_redis() -> Finding:
    """What Redis reports about itself, and whether its memory lasts."""
    try:
        report = redis_report()
        problems = report.problems
        if not any(problem.stops for problem in problems):
            problems = [*problems, *overflow_problems()]
    except StoreUnavailable as error:
        return finding_of([redis_refusal(error)])
    guard = f"{report.unguarded} {GUARD}" if report.unguarded else ""
    return finding_of(problems, report.facts, note=" ".join(filter(None, (report.unasked, guard))))


def check_intake() -> Finding:
    """Whether a message would be accepted: a small write on the same way."""
    try:
        ledger().try_write()
    except StoreUnavailable as error:
        return finding_of([redis_refusal(error)])
    return Finding(Status.HEALTHY)


_START_MONGODB = "Start it, or correct MONGODB_URL. Its log shows why it stopped, for example a full disk."
index_problems = _seldom(mongo_state.index_problems)
figures_problems = _seldom(letter_figures.problems)
backup_problems = _seldom(backups.problems)


def check_mongodb() -> Finding:
    try:
        problems, unasked = mongo_state.problems()
    except LettersUnavailable as error:
        # Its text names at most how the server refuses, such as AuthenticationFailed.
        what = error.detail if "refuses" in error.detail else "MongoDB does not answer."
        away = StoreProblem(part="mongodb", code="away", what=what, fix=_START_MONGODB, stops=True)
        return finding_of([away])
    if not any(problem.stops for problem in problems):
        problems = [*problems, *index_problems(), *figures_problems(), *backup_problems()]
    note = f"Not checked, because this MongoDB user has no permission for: {', '.join(unasked)}." if unasked else ""
    return finding_of(problems, note=note)


def check_database() -> Finding:
    try:
        return finding_of([*_read_only(connections["default"]), *schema_problems()])
    finally:
        connections.close_all()  # this thread's own


def database_problems() -> list[StoreProblem]:
    """What is wrong with the database, asked afresh."""
    return [*_read_only(connections["default"]), *_schema_problems()]


_Database = partial(StoreProblem, part="database")


def _read_only(connection: BaseDatabaseWrapper) -> Iterator[StoreProblem]:
    """Asks the database something, in any case."""
    is_sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1" if connection.vendor != "postgresql" else "SHOW transaction_read_only")
        (answer,) = cursor.fetchone()
    path = str(connection.settings_dict["NAME"])
    if answer == "on" or (is_sqlite and os.path.isfile(path) and not os.access(path, os.W_OK)):
        yield _Database(
            code="read_only",
            what="The database is read-only: users cannot sign in, and the audit log cannot be written.",
            fix=f"Make {path} writable for this user." if is_sqlite else "Point DATABASE_URL to the primary.",
        )


def _schema_problems() -> list[StoreProblem]:
    connection = connections["default"]
    there = set(connection.introspection.table_names())
    wanted = {model._meta.db_table for model in apps.get_models() if model._meta.managed and not model._meta.proxy}
    absent = sorted(wanted - there)
    fix = "Run manage.py prepare."
    if absent:
        named = ", ".join(absent[:3]) + (" and more" if len(absent) > 3 else "")
        keys = ApiKey._meta.db_table in absent
        what = f"Tables are missing in the database: {named}." + (" No API key can be checked." if keys else "")
        return [_Database(code="tables_missing", what=what, fix=fix, stops=keys)]
    pending = _latest_migrations() - set(MigrationRecorder(connection).applied_migrations())
    if pending:
        named = ", ".join(f"{app} {name}" for app, name in sorted(pending)[:3])
        return [
            _Database(
                code="migrations",
                what=f"Tables are from an earlier version: migration {named} is not applied.",
                fix=fix,
            )
        ]
    return []


@cache
def _latest_migrations() -> frozenset[tuple[str, str]]:
    """The newest migration of each app, read from its files once."""
    return frozenset(MigrationLoader(None).graph.leaf_nodes())


schema_problems = _seldom(_schema_problems)


def data_disk_problems() -> list[StoreProblem]:
    """Whether DATA_DIR, if there is one on this host, has room."""
    folder = Path(settings.DATA_DIR)
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return []  # nothing is kept here
    return [
        *disk_problems(
            "disk", f"The disk of DATA_DIR ({folder})", free, "Logs and the data there can no longer be written."
        )
    ]


def check_disk() -> Finding:
    return finding_of(data_disk_problems())


def lane_problems(seen: LaneWorkers) -> Iterator[StoreProblem]:
    if seen.is_suspended:
        until = "" if seen.suspended_ms is None else f" for {seen.suspended_ms / 1000:.0f} s more"
        yield StoreProblem(
            part="workers",
            code="suspended",
            what=f"Workers are suspended by rqsuspend{until}: no message is started.",
            fix="Run manage.py rqresume.",
            stops=True,
        )
    if seen.foreign:
        more = f" and {seen.foreign_count - len(seen.foreign)} more" if seen.foreign_count > len(seen.foreign) else ""
        yield StoreProblem(
            part="workers",
            code="foreign_worker",
            what="An RQ worker that cannot run messages takes jobs from the lanes, so messages are late: "
            f"{', '.join(seen.foreign)}{more}.",
            fix="Stop it. RQ's own worker on these lanes is manage.py rqworker.",
        )


def check_workers() -> Finding:
    alive = presence.present("worker")
    problems = [*lane_problems(lane_workers())]
    facts = {"alive": len(alive)}
    if not alive:
        return Finding(Status.DEGRADED, "No message worker is alive: messages wait.", facts, problems=tuple(problems))
    return finding_of(problems, facts)


def outbox_problems(figures: LedgerFigures) -> Iterator[StoreProblem]:
    """Outcomes that MongoDB should have taken by now, whatever the reason is."""
    oldest = figures.outbox_oldest_ms
    if oldest is not None and figures.now_ms - oldest > OUTBOX_S * 1000:
        yield mongo_state.outbox_problem(figures.outbox, (figures.now_ms - oldest) / 1000)
