"""Check everything that this installation depends on, with a fix for each problem."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from errno import ENOSPC
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import ERROR, run_checks
from django.db import Error as DatabaseError
from django.db import connection as database_connection
from django.db.migrations.executor import MigrationExecutor

from breaker_app.services import cards
from breaker_app.states import State as BreakerState
from dlq_app.domain.store_problem import StoreProblem
from dlq_app.services import figures as letter_figures
from dlq_app.store import indexes, mongo_state, repository
from dlq_app.store.mongo import database, translated
from dlqsite.health import notifications, store_checks
from dlqsite.models import ApiKey
from dlqsite.sign_in import second_factor
from messages_app.conf import durability
from messages_app.domain.errors import StoreUnavailable
from messages_app.domain.records import Presence
from messages_app.domain.redis_replicas import GUARD
from messages_app.domain.redis_state import (
    ALLOW_INFO,
    NEARLY,
    writes_paused,
)
from messages_app.store import presence
from messages_app.store.connection import sentinels
from messages_app.store.lane_workers import lane_workers
from messages_app.store.ledger import ledger
from messages_app.store.recorded_outcomes import recorded_outcomes
from messages_app.store.series import History, series
from messages_app.work import reconciliation, store_losses
from notify_app import conf as notify_conf
from notify_app import services as notify_services
from wire.errors import ServiceError

#: Leases and due times are compared across hosts; more than this (ms) makes them wrong in ways that people notice.
CLOCK_TOLERANCE_MS = 1000
#: Free bytes under DATA_DIR below which it is worth a warning.
DISK_WARNING = 1024**3
#: Problems that only grow into something: a warning. Every other one is a failure.
_WARNINGS = frozenset(
    {"memory_high", "clients_high", "disk_low", "figures_old", "foreign_worker", "replica_behind", "sentinels_missing"}
)
#: Outcomes that are compared with the letters: all of them, if there are no more.
COMPARED = 10_000


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check. ``fix`` is empty when there is nothing to do."""

    name: str
    status: Status
    detail: str
    fix: str = ""


def _ok(name: str, detail: str) -> Finding:
    return Finding(name, Status.OK, detail)


def _warn(name: str, detail: str, fix: str) -> Finding:
    return Finding(name, Status.WARN, detail, fix)


def _fail(name: str, detail: str, fix: str) -> Finding:
    return Finding(name, Status.FAIL, detail, fix)


def check_packages() -> Iterator[Finding]:
    yield _ok("python", f"Python {'.'.join(map(str, sys.version_info[:3]))}")
    lock = settings.BASE_DIR / "requirements.txt"
    pins = dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)(?: \\)?$", lock.read_text(encoding="utf-8"), re.MULTILINE))
    others = [f"{name} {_installed(name)} instead of {pin}" for name, pin in pins.items() if _installed(name) != pin]
    if others:
        yield _warn("packages", "; ".join(others), "Install the pinned ones: make install.")
    else:
        yield _ok("packages", f"{len(pins)} packages as pinned")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(missing)"


def check_settings() -> Iterator[Finding]:
    """The system checks: settings and every policy file. Those for deployment too, once the site is served by https."""
    found = run_checks(include_deployment_checks=bool(getattr(settings, "HTTPS", False)))
    for message in found:
        name = f"settings {message.id or ''}".strip()
        fix = str(message.hint or "See the message.")
        if message.level >= ERROR:
            yield _fail(name, str(message.msg), fix)
        else:
            yield _warn(name, str(message.msg), fix)
    if not found:
        yield _ok("settings", "settings and policies are valid")
    own = ", ".join(_policy_files())
    yield _ok("policy files", f"{own}; the others as shipped" if own else "as shipped")
    if settings.EXTRA_APPS:
        yield _ok("extra apps", ", ".join(settings.EXTRA_APPS))
    if not getattr(settings, "HTTPS", True):
        yield _warn(
            "https", "plain http is served", "Keep it on loopback; for others set HTTPS=true behind a TLS proxy."
        )
    if settings.DEMO_HANDLER and settings.ENVIRONMENT != "local":
        yield _warn(
            "demo", f"messages of type demo can occupy the workers of {settings.ENVIRONMENT}", "Set DEMO_HANDLER=false."
        )
    else:
        yield _ok("demo", f"messages of type demo are {'accepted' if settings.DEMO_HANDLER else 'rejected'}")
    lanes = settings.RQ_QUEUES
    pickled = [name for name, queue in lanes.items() if queue.get("SERIALIZER") != "rq.serializers.JSONSerializer"]
    if pickled:
        yield _fail(
            "serializer",
            f"the queues {', '.join(pickled)} do not use JSON: whoever writes to Redis could run code",
            "Set SERIALIZER to rq.serializers.JSONSerializer for every queue.",
        )
    else:
        yield _ok("serializer", "every queue uses JSON")


def _policy_files() -> list[str]:
    """Policy files that are not the shipped ones."""
    named = (settings.SIGN_IN_POLICY_FILE, settings.DELIVERY_POLICY_FILE, settings.NOTIFY_POLICY_FILE)
    chosen = {
        **{name: settings.POLICIES.file(name) for name in settings.POLICIES.names},
        **dict(zip(("sign_in", "delivery", "notify"), named, strict=True)),
    }
    return [file for name, file in sorted(chosen.items()) if file != f"dlqsite/policies/{name}.toml"]


def check_data_directory() -> Iterator[Finding]:
    path = Path(settings.DATA_DIR)
    try:
        with tempfile.TemporaryFile(dir=path):
            free = shutil.disk_usage(path).free
    except OSError as error:
        fix = "Make room on its disk." if error.errno == ENOSPC else "Create it for this user, or set DATA_DIR."
        yield _fail("data directory", f"{path}: {error.strerror}", fix)
        return
    if path.stat().st_mode & 0o077:
        yield _warn(
            "data directory",
            f"{path} is open to other users of this host",
            f"chmod 700 {shlex.quote(str(path))}",
        )
    full = [problem for problem in store_checks.data_disk_problems() if problem.code == "disk_full"]
    if full:
        yield from _problems(full)
    elif free < DISK_WARNING:
        yield _warn(
            "data directory", f"{path} has {free // 1024**2} MB left", "Make room: stores stop when it is full."
        )
    else:
        yield _ok("data directory", f"{path} is writable, {free // 1024**3} GB free")


def check_static_files() -> Iterator[Finding]:
    if (Path(settings.STATIC_ROOT) / "staticfiles.json").is_file():
        yield _ok("static files", "collected")
    else:
        yield _warn("static files", "not collected: served slowly, without compression", "Run manage.py prepare.")


def check_database() -> Iterator[Finding]:
    # Migrations are named below, with their number.
    problems = [problem for problem in store_checks.database_problems() if problem.code != "migrations"]
    yield from _problems(problems)
    if any(problem.code == "tables_missing" for problem in problems):
        return
    executor = MigrationExecutor(database_connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        yield _fail("database", f"{len(plan)} migrations are not applied", "Run manage.py migrate.")
        return
    yield _ok("database", f"{database_connection.vendor}, every migration is applied")
    if get_user_model().objects.filter(is_superuser=True, is_active=True).exists():
        yield _ok("administrator", "there is an active superuser")
    else:
        yield _warn("administrator", "there is no active superuser", "Run manage.py createsuperuser.")
    keys = ApiKey.objects.filter(revoked=False).count()
    if keys:
        yield _ok("api keys", f"{keys} not revoked")
    else:
        yield _warn("api keys", "no client can submit", "Run manage.py create_api_key NAME --scope submit.")


def check_redis() -> Iterator[Finding]:
    report = store_checks.redis_report()
    problems = report.problems
    try:
        ledger().try_write()
    except StoreUnavailable as error:
        refusal = store_checks.redis_refusal(error)
        if refusal.code in ("away", "no_primary"):  # it has just answered
            refusal = writes_paused()
        # Its own report has more detail than its refusals.
        problems = [*problems, *([] if refusal.code in {one.code for one in problems} else [refusal])]
    else:
        yield _ok("redis writes", f"confirmed as ACCEPT_DURABILITY={durability()} requires")
    yield from _problems(problems)
    info = ledger().server_info()
    if not info:
        yield _warn("redis", report.unasked, ALLOW_INFO)
    elif not problems:
        server = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
        yield _ok("redis", f"{server}, append-only file on, no eviction")
    if report.unguarded:
        yield _warn("redis replicas", report.unguarded, GUARD)
    elif count := report.facts.get("replicas"):
        yield _ok("redis replicas", f"{count} connected, each heard within {report.facts['replicaLagSeconds']} s")
    seen = sentinels()
    if seen is not None and seen.with_quorum == seen.of:
        yield _ok("sentinels", f"{seen.of} name {seen.primary} and can start a fail-over")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit and used <= NEARLY * limit:
        yield _ok("redis memory", f"{used * 100 // limit} % of maxmemory are used")
    if not any(problem.stops for problem in problems):
        yield from check_remembered(info, series().history())
        began = time.time()
        theirs = ledger().now_ms()
        yield from _clock("clock of redis", theirs, began, time.time())


def check_remembered(info: Mapping[str, str], history: History) -> Iterator[Finding]:
    """Whether Redis has the memory to remember ended messages for RECORD_TTL_S at the rate of the last hour."""
    name = "memory projection"
    found = store_checks.memory_projection(info, history)
    if found is None:
        yield _ok(name, "not known: it needs INFO, and samples of ten minutes")
    elif found.needed > found.limit:
        yield _fail(name, found.told, store_checks.MORE_MEMORY)
    elif found.needed > NEARLY * found.limit:
        yield _warn(name, found.told, store_checks.MORE_MEMORY)
    else:
        yield _ok(name, found.told)


def _problems(problems: Iterable[StoreProblem]) -> Iterator[Finding]:
    for problem in problems:
        name = problem.part if problem.code == "unsafe" else f"{problem.part} {problem.code.replace('_', ' ')}"
        tell = _warn if problem.code in _WARNINGS else _fail
        yield tell(name, problem.what, problem.fix)


def _clock(name: str, theirs_ms: float, began_s: float, ended_s: float) -> Iterator[Finding]:
    # The time of the round trip is no difference of the clocks.
    off = max(began_s * 1000 - theirs_ms, theirs_ms - ended_s * 1000, 0.0)
    if off >= CLOCK_TOLERANCE_MS:
        yield _fail(name, f"differs from this host's by {off / 1000:.1f} s", "Run an NTP client on both hosts.")
    else:
        yield _ok(name, f"within {CLOCK_TOLERANCE_MS // 1000} s of this host's")


def check_mongodb() -> Iterator[Finding]:
    problems, unasked = mongo_state.problems()
    yield from _problems(problems)
    if any(problem.stops for problem in problems):
        return  # the rest would wait for a primary
    if unasked:
        yield _warn(
            "mongodb", f"this user has no permission for: {', '.join(unasked)}", "Give it the role clusterMonitor."
        )
    yield from _problems(letter_figures.problems())
    with translated():
        letters = database()
        began = time.time()
        hello = letters.command("hello")
        ended = time.time()
        found = str(letters.command("buildInfo")["version"])
    major = int(found.split(".", maxsplit=1)[0])
    fix = "Use MongoDB 7.0 or newer in production; the embedded one is for development."
    if major < 5:
        yield _fail("mongodb", f"MongoDB {found} is too old", fix)
    elif major < 7:
        yield _warn("mongodb", f"MongoDB {found} is past its end of life", fix)
    else:
        yield _ok("mongodb", f"MongoDB {found}")
    concern = letters.write_concern.document
    if concern.get("w") == "majority" and concern.get("j", True):
        yield _ok("mongodb writes", "acknowledged by a majority, journalled")
    else:
        yield _fail("mongodb writes", f"write concern is {concern}", "Remove w and journal from MONGODB_URL.")
    if not hello.get("setName"):
        yield _warn(
            "mongodb replica set", "a standalone server", "Make it a replica set: one server's disk is one disk."
        )
    elif not hello.get("isWritablePrimary"):
        yield _warn("mongodb replica set", "this member is not the primary", "Name every member in MONGODB_URL.")
    else:
        yield _ok("mongodb replica set", f"{hello['setName']}, {len(hello.get('hosts', []))} member(s)")
    local = hello["localTime"]
    yield from _clock("clock of mongodb", local.timestamp() * 1000, began, ended)
    missing = indexes.missing(letters)
    if missing:
        yield _fail("indexes", f"missing or different: {', '.join(missing)}", "Run manage.py prepare.")
    else:
        yield _ok("indexes", "every index is there, the unique one included")
    retired = indexes.retired(letters)
    if retired:
        yield _warn(
            "old indexes",
            f"used by the last version only, and slow down every write of a letter: {', '.join(retired)}",
            "When no process of the last version runs, run manage.py prepare.",
        )
    unreadable = repository.letters().unreadable(repository.MAX_NAMED)
    if unreadable:
        count = f"{len(unreadable)}{' or more' if len(unreadable) == repository.MAX_NAMED else ''}"
        named = "; ".join(f"{one.id}: {one}" for one in unreadable)
        yield _fail(
            "documents",
            f"{count} documents in the collection dead_letters are not letters and are skipped ({named})",
            "Correct or delete them in MongoDB: something other than this system wrote them.",
        )
    else:
        yield _ok("documents", "every document is a letter")


_ROLES = {
    "worker": ("messages wait", "Start manage.py run_worker."),
    "dlq_worker": ("automatic replays and replay batches wait", "Start manage.py run_dlq_worker."),
    "cron": ("accounts are not checked", "Start manage.py run_cron."),
}


def check_notifications() -> Iterator[Finding]:
    recipients = notify_conf.policy().recipients
    if not recipients:
        yield _ok("notifications", "no recipients in the policy: nothing is sent")
        return
    found = [*notifications.problems(notify_services.figures(), datetime.now(UTC))]
    for problem in found:
        yield _warn(f"notifications {problem.code}", problem.what, problem.fix)
    if not presence.present(notifications.ROLE):
        yield _fail(notifications.ROLE, "none is alive: users are not notified", "Start manage.py run_notifier.")
    elif not found:
        yield _ok("notifications", f"{len(recipients)} recipient(s), a notifier is alive, nothing waits too long")


def check_roles() -> Iterator[Finding]:
    yield from _problems(store_checks.lane_problems(lane_workers()))
    wrong = presence.wrong_clocks(presence.present())
    if wrong:
        yield _fail("clocks of processes", f"differ from Redis': {'; '.join(wrong)}", "Run an NTP client on that host.")
    else:
        yield _ok("clocks of processes", f"within {presence.CLOCK_TOLERANCE_MS // 1000} s of Redis'")
    by_role = {role: presence.present(role) for role in _ROLES}
    can_report = all(by_role.values()) or _takes_writes()
    for role, (consequence, fix) in _ROLES.items():
        alive = by_role[role]
        if not alive and not can_report:
            yield _warn(role, "not known: Redis rejects writes, so no process can report itself", "Fix Redis first.")
        elif alive:
            yield _ok(role, f"{len(alive)} alive on {', '.join(sorted({one.host for one in alive}))}")
        else:
            yield _fail(role, f"none is alive: {consequence}", fix)


def _takes_writes() -> bool:
    try:
        ledger().try_write()
    except StoreUnavailable:
        return False
    return True


def check_work() -> Iterator[Finding]:
    figures = ledger().figures()
    if figures.overdue:
        yield _warn("overdue", f"{figures.overdue} messages are late by more than 5 s", "Check the workers' logs.")
    else:
        yield _ok("overdue", "no message is late")
    late = [*store_checks.outbox_problems(figures)]
    if late and not _takes_writes():
        yield _warn("outbox", f"outcomes wait ({figures.outbox}): Redis rejects writes", "Fix Redis first.")
    else:
        for problem in late:
            yield _warn("outbox", problem.what, problem.fix)
    if not late:
        yield _ok("outbox", f"{figures.outbox} outcomes wait for MongoDB")
    if figures.quarantined:
        yield _fail(
            "quarantine",
            f"{figures.quarantined} outcomes could not be stored in MongoDB",
            "See why: manage.py quarantine list. Fix the cause, then: manage.py quarantine release --all.",
        )
    else:
        yield _ok("quarantine", "empty")
    wrong = [row for row in ledger().accounting() if row.wrong]
    if wrong:
        named = ", ".join(
            f"{row.day} {row.type}: " + (f"{row.difference:+d}" if row.difference else f"{row.below_zero} below zero")
            for row in wrong[:5]
        )
        yield _fail(
            "accounts", f"accepted is not done + dead + open ({named})", "Look for a restored or flushed Redis."
        )
    else:
        yield _ok("accounts", "accepted = done + dead + open")


def check_losses() -> Iterator[Finding]:
    known = store_losses.open_losses()
    for loss in known.losses:
        yield _fail(f"loss {loss.id}", store_losses.sentence(loss), store_losses.advice(loss))
    if known.incomplete:
        yield _warn("losses", known.incomplete, "Check MongoDB.")
    elif not known.losses:
        yield _ok("losses", "neither store fell back to an earlier state, or every loss is acknowledged")


def check_letters() -> Iterator[Finding]:
    found = reconciliation.compare(COMPARED)
    of = f"{found.looked_at:,} of {found.of:,} outcomes that Redis remembers"
    lacking = recorded_outcomes().lacking_count()
    if lacking:
        yield _fail(
            "letters",
            f"of {of}, the letters lack at least {lacking:,}",
            "Run manage.py bring_again --since 24h --dry-run.",
        )
    else:
        yield _ok("letters", f"they have {of}")


def check_breakers() -> Iterator[Finding]:
    states = {card.name: card.seen.state for card in cards()}
    for name, state in states.items():
        if state in (BreakerState.OPEN, BreakerState.FORCED_OPEN):
            yield _warn(
                f"breaker {name}", state.value, f"Check the service it protects; manage.py breaker show {name}."
            )
    if not any(state in (BreakerState.OPEN, BreakerState.FORCED_OPEN) for state in states.values()):
        yield _ok("breakers", f"{len(states)} known, none open")


@dataclass(frozen=True, slots=True)
class Check:
    """Check of one part. ``needs`` names a part without which it cannot run."""

    part: str
    run: Callable[[], Iterator[Finding]]
    needs: str = ""


def check_sign_in() -> Iterator[Finding]:
    """Second factors that cannot be read, the identity provider, and a way in without it."""
    if lost := second_factor.unreadable():
        names = ", ".join(user.get_username() for user in lost[:10])
        yield _fail(
            "second factor",
            f"{len(lost)} were stored with another SECRET_KEY, so these users cannot log in: {names}",
            "Restore the SECRET_KEY, or run manage.py reset_second_factor --unreadable.",
        )
    if not settings.OIDC_ISSUER:
        return
    from dlqsite.sign_in import provider  # imports the library only if it is used

    try:
        provider.reachable()
    except provider.Unavailable as error:
        fix = "Check the provider, OIDC_ISSUER and the network. Superusers can log in with a password."
        yield _fail("single sign-on", f"{settings.OIDC_NAME}: {error.said}", fix)
    else:
        yield _ok("single sign-on", f"{settings.OIDC_NAME} responds")
    superusers = get_user_model().objects.filter(is_superuser=True, is_active=True)
    if not any(user.has_usable_password() for user in superusers):
        yield _warn(
            "single sign-on",
            "no superuser has a password, so no one can log in while the provider is unavailable",
            "Run manage.py createsuperuser, and keep the password in a safe place.",
        )


CHECKS: Sequence[Check] = (
    Check("packages", check_packages),
    Check("settings", check_settings),
    Check("data directory", check_data_directory),
    Check("static files", check_static_files),
    Check("database", check_database),
    Check("sign-in", check_sign_in, needs="database"),
    Check("redis", check_redis),
    Check("mongodb", check_mongodb),
    Check("roles", check_roles, needs="redis"),
    Check("work", check_work, needs="redis"),
    Check("losses", check_losses, needs="redis"),
    Check("letters", check_letters, needs="mongodb"),
    Check("breakers", check_breakers, needs="redis"),
    Check("notifications", check_notifications, needs="redis"),
)
_FIXES = {
    "redis": "Start it, or set REDIS_URL.",
    "mongodb": "Start it, or set MONGODB_URL.",
    "database": "Start it, or set DATABASE_URL.",
}


def diagnose(checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """All findings, part by part. An unavailable part is one finding, and checks that need it are skipped."""
    away: set[str] = set()
    for check in checks:
        if check.needs in away:
            yield _warn(check.part, f"not checked, because {check.needs} does not answer", f"Fix {check.needs} first.")
            continue
        try:
            yield from check.run()
        except (ServiceError, DatabaseError) as error:
            away.add(check.part)
            refusal = store_checks.redis_refusal(error) if isinstance(error, StoreUnavailable) else None
            if refusal is not None and refusal.code != "away":
                yield _fail(check.part, refusal.what, refusal.fix)
            else:
                yield _fail(check.part, str(error), _FIXES.get(check.part, "See the message."))


def alive_here() -> tuple[list[Presence], list[Presence]]:
    """The processes on this host (a container is one) that report themselves alive, and those that run but are silent.

    A process is silent when it is stopped, holds its interpreter, or cannot reach Redis. One that has ended is neither.
    """
    reporting = {one.name for one in presence.present()}
    newest: dict[int, Presence] = {}
    for one in presence.present(silence_ms=presence.FORGET_MS):
        if one.host == socket.gethostname() and one.seen_at_ms >= newest.get(one.pid, one).seen_at_ms:
            newest[one.pid] = one
    alive = [one for one in newest.values() if one.name in reporting]
    return alive, [one for one in newest.values() if one.name not in reporting and _still_runs(one)]


def _still_runs(one: Presence) -> bool:
    """Whether its process runs, and is not a later one with the same id."""
    try:
        return psutil.Process(one.pid).create_time() * 1000 < one.seen_at_ms + 10 * CLOCK_TOLERANCE_MS
    except psutil.Error:
        return False
