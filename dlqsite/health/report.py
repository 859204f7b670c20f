"""Health: is the process alive, can it serve, and how is every part. Probes cost next to nothing and never hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db import Error as DatabaseError
from django.db import connections
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from breaker_app.services import cards
from breaker_app.states import State as BreakerState
from dlq_app.domain.store_problem import StoreProblem
from dlqsite.access import OPEN, known_keys, may
from dlqsite.database import AWAY
from dlqsite.health import losses
from dlqsite.health.findings import Finding, Status, finding_of
from dlqsite.health.notifications import notification_finding
from dlqsite.health.store_checks import (
    check_database,
    check_disk,
    check_intake,
    check_mongodb,
    check_redis,
    check_workers,
    outbox_problems,
)
from messages_app.domain.redis_state import writes_paused
from messages_app.store import presence
from messages_app.store.books import books
from messages_app.store.ledger import ledger
from wire.contract import COUNT, OBJECT, TEXT, Field, Shape, choice, envelope, optional
from wire.errors import ServiceError

#: Every check has this long; what has not answered by then is taken for down.
TIMEOUT_S = 2.0
#: Findings are kept for this long, so that no number of probes costs more than one round a second.
KEEP_S = 1.0

_started = time.monotonic()


@dataclass(frozen=True, slots=True)
class Health:
    """All findings of one round, and what they come to."""

    status: Status
    checks: Mapping[str, Finding]
    #: What is wrong with the parts, once each, and since when this process has seen it.
    problems: tuple[tuple[StoreProblem, datetime], ...] = ()


# -- the checks


def _presence_of(role: str, missing: str) -> Finding:
    alive = presence.present(role)
    if not alive:
        return Finding(Status.DEGRADED, missing, {"alive": 0})
    return Finding(Status.HEALTHY, facts={"alive": len(alive)})


def check_scheduler() -> Finding:
    """Retries and lost messages are moved by every worker; the cron role does the periodic duties."""
    overdue = ledger().figures().overdue
    found = _presence_of("cron", "No cron process is alive: due replays and account checks wait.")
    facts = {**found.facts, "overdue": overdue}
    if overdue:
        return Finding(Status.DEGRADED, f"{overdue} messages are more than 5 s late.", facts)
    return Finding(found.status, found.detail, facts)


def check_dlq_worker() -> Finding:
    return _presence_of("dlq_worker", "No DLQ worker is alive: automatic replays and replay batches wait.")


def check_queues() -> Finding:
    figures = ledger().figures()
    facts = {
        "waiting": {lane.name: lane.waiting for lane in figures.lanes},
        "running": figures.running,
        "scheduled": figures.scheduled,
        "retryWait": figures.retry_wait,
        "deadPending": figures.outbox,
        "quarantined": figures.quarantined,
    }
    waits = finding_of(outbox_problems(figures), facts)
    if figures.quarantined:
        detail = f"{figures.quarantined} outcomes could not be recorded and need a decision. {waits.detail}".rstrip()
        return Finding(Status.DEGRADED, detail, facts, problems=waits.problems)
    return waits


def check_breakers() -> Finding:
    states = {card.name: card.seen.state for card in cards()}
    opened = sorted(name for name, state in states.items() if state in (BreakerState.OPEN, BreakerState.FORCED_OPEN))
    facts = {"states": {name: state.value for name, state in states.items()}}
    if opened:
        return Finding(Status.DEGRADED, f"Open: {', '.join(opened)}.", facts)
    return Finding(Status.HEALTHY, facts=facts)


def check_accounting() -> Finding:
    """Check accepted = done + open + dead, none negative. Moves count in one step: differences are permanent."""
    differing = [row for row in books() if row.wrong]
    facts = {"differences": len(differing)}
    if differing:
        where = ", ".join(f"{row.type} on {row.day[:4]}-{row.day[4:6]}-{row.day[6:]}" for row in differing[:3])
        facts["messages"] = sum(row.wrong for row in differing)
        return Finding(Status.DEGRADED, f"Not accounted for: {facts['messages']} of {where}.", facts)
    return Finding(Status.HEALTHY, facts=facts)


def check_losses() -> Finding:
    """Neither store fell back to an earlier state, as far as marks tell, or a person knows of it."""
    detail, facts = losses.seen()
    return Finding(Status.DEGRADED if detail else Status.HEALTHY, detail, facts)


def check_letters() -> Finding:
    """The dead letters have every outcome that Redis remembers, as far as cron has compared them."""
    detail, facts = losses.lacking()
    return Finding(Status.DEGRADED if detail else Status.HEALTHY, detail, facts)


def check_clocks() -> Finding:
    """Nothing is decided by the clocks of processes, but their logs and what they show is read by them."""
    alive = [*presence.present(), presence.this_process("web")]
    facts = {
        "processes": [
            {"name": one.name, "role": one.role, "host": one.host, "clockOffMs": one.clock_off_ms}
            for one in sorted(alive, key=lambda one: (one.host, one.name))
        ]
    }
    wrong = presence.wrong_clocks(alive)
    if wrong:
        detail = f"Clocks differ from Redis': {'; '.join(wrong)}. Run an NTP client there."
        return Finding(Status.DEGRADED, detail, facts)
    return Finding(Status.HEALTHY, facts=facts)


def check_notifications() -> Finding:
    """Users are notified: a notifier runs if there are recipients, and nothing failed or waits too long."""
    try:
        return notification_finding(datetime.now(UTC))
    finally:
        connections.close_all()  # this thread's own


CHECKS: Mapping[str, Callable[[], Finding]] = {
    "redis": check_redis,
    "intake": check_intake,
    "mongodb": check_mongodb,
    "database": check_database,
    "disk": check_disk,
    "workers": check_workers,
    "scheduler": check_scheduler,
    "dlqWorker": check_dlq_worker,
    "queues": check_queues,
    "breakers": check_breakers,
    "accounting": check_accounting,
    "losses": check_losses,
    "letters": check_letters,
    "clocks": check_clocks,
    "notifications": check_notifications,
}
#: Without these nothing can be accepted or shown. MongoDB is not among them: intake and workers go on without it.
VITAL = frozenset({"redis", "intake", "database"})
#: What processes report of themselves. They report by writing to Redis.
_PRESENCE = ("workers", "scheduler", "dlqWorker", "notifications")
_EXPECTED = (ServiceError, DatabaseError)


def _timed(check: Callable[[], Finding]) -> Finding:
    began = time.perf_counter()
    try:
        found = check()
    except _EXPECTED as error:
        # The text of a driver's error may hold addresses and passwords; the kind of error is enough here.
        found = Finding(Status.UNHEALTHY, f"No answer ({type(error).__name__}).")
    took_ms = round((time.perf_counter() - began) * 1000, 1)
    return replace(found, latency_ms=took_ms)


class Doctor:
    """Runs the checks concurrently and caches the findings for a second. Concurrent callers share one run."""

    def __init__(self, checks: Mapping[str, Callable[[], Finding]], *, timeout_s: float = TIMEOUT_S) -> None:
        self._checks = checks
        self._timeout_s = timeout_s
        # Twice as many threads as checks: a round that hangs must not make the next one look as if it did.
        self._threads = ThreadPoolExecutor(2 * len(checks), thread_name_prefix="health")
        self._lock = threading.Lock()
        self._kept: tuple[float, Health] | None = None
        self._since: dict[tuple[str, str], datetime] = {}
        #: Until then (monotonic) processes may not have had the time to report themselves again.
        self._unheard_until = 0.0

    def look(self) -> Health:
        """The findings. While another thread looks, those of before, unless they are too old: then wait for it."""
        kept = self._kept
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        # A part that hangs would else hold every thread that is asked meanwhile.
        if kept is not None and self._lock.locked() and kept[0] > time.monotonic() - self._timeout_s - KEEP_S:
            return kept[1]
        with self._lock:
            kept = self._kept
            if kept is not None and kept[0] > time.monotonic():
                return kept[1]
            health = self._round()
            self._kept = (time.monotonic() + KEEP_S, health)
            return health

    def _round(self) -> Health:
        asked = {name: self._threads.submit(_timed, check) for name, check in self._checks.items()}
        wait(asked.values(), timeout=self._timeout_s)
        findings = _with_causes({name: self._finding(future) for name, future in asked.items()})
        if findings.get("intake", _WELL).status is Status.UNHEALTHY:
            self._unheard_until = time.monotonic() + presence.SILENCE_MS / 1000
        elif time.monotonic() < self._unheard_until:
            findings = _without_absence(findings, "Not known yet: no process could report itself until a moment ago.")
        problems = _merged(problem for finding in findings.values() for problem in finding.problems)
        now = datetime.now(UTC)
        self._since = {key: self._since.get(key, now) for key in problems}
        told = tuple((problem, self._since[key]) for key, problem in problems.items())
        return Health(overall(findings), findings, told)

    def _finding(self, future: Future[Finding]) -> Finding:
        if not future.done():
            future.cancel()
            return Finding(
                Status.UNHEALTHY,
                f"No answer within {self._timeout_s:g} s.",
                latency_ms=self._timeout_s * 1000,
                is_silent=True,
            )
        return future.result()


_WELL = Finding(Status.HEALTHY)


def _with_causes(findings: Mapping[str, Finding]) -> Mapping[str, Finding]:
    """The findings, each with its real cause: a finding that only follows from another names that one."""
    redis, intake = findings.get("redis", _WELL), findings.get("intake", _WELL)
    codes = {problem.code for problem in intake.problems}
    if redis.status is not Status.UNHEALTHY and (intake.is_silent or "away" in codes):
        # One that answers is not away.
        intake = replace(finding_of([writes_paused()]), latency_ms=intake.latency_ms)
        findings = {**findings, "intake": intake}
    if intake.status is Status.UNHEALTHY:
        findings = _without_absence(findings, "Not known: Redis rejects writes, so no process can report itself.")
        queues = findings.get("queues", _WELL)
        for problem in queues.problems:
            # MongoDB may have taken them long ago: nobody can note it in Redis.
            why = "Outcomes wait: Redis rejects writes, so none can be noted as recorded."
            queues = replace(queues, detail=queues.detail.replace(f"{problem.what} {problem.fix}", why), problems=())
        findings = {**findings, "queues": queues}
    return findings


def _without_absence(findings: Mapping[str, Finding], why: str) -> Mapping[str, Finding]:
    """The findings without missing roles that could not report themselves."""
    return {
        name: replace(
            finding, status=Status.DEGRADED, detail=why, facts={k: v for k, v in finding.facts.items() if k != "alive"}
        )
        if name in _PRESENCE and finding.facts.get("alive") == 0
        else finding
        for name, finding in findings.items()
    }


def _merged(problems: Iterable[StoreProblem]) -> dict[tuple[str, str], StoreProblem]:
    """Each problem once, with its first text; stopping if any source reports it as stopping."""
    found: dict[tuple[str, str], StoreProblem] = {}
    for problem in problems:
        key = (problem.part, problem.code)
        first = found.setdefault(key, problem)
        found[key] = replace(first, stops=first.stops or problem.stops)
    return found


def overall(findings: Mapping[str, Finding]) -> Status:
    """Unhealthy without a vital part, degraded when any other is not as it should be."""
    if any(findings[name].status is Status.UNHEALTHY for name in VITAL & findings.keys()):
        return Status.UNHEALTHY
    if any(finding.status is not Status.HEALTHY for finding in findings.values()):
        return Status.DEGRADED
    return Status.HEALTHY


@cache
def doctor() -> Doctor:
    """The one that looks at everything."""
    return Doctor(CHECKS)


@cache
def gatekeeper() -> Doctor:
    """The one that looks only at what accepting messages depends on."""
    return Doctor({name: CHECKS[name] for name in sorted(VITAL)})


def can_accept() -> bool:
    """Whether this process can accept messages."""
    checks = gatekeeper().look().checks
    stopped = {name for name, found in checks.items() if found.status is Status.UNHEALTHY}
    if "database" in stopped and not checks["database"].problems:
        # It does not answer, so keys that were verified in the last minutes are good.
        return stopped == {"database"} and known_keys.is_useful_while_away()
    return not stopped


# -- the views


HEALTH_OUT = envelope(
    "Health",
    Shape(
        "HealthData",
        Field("status", choice(Status)),
        optional("checks", OBJECT, "Per part: status, detail, figures, latencyMs. Only with a key that may read."),
        optional("version", TEXT),
        optional("uptimeSeconds", COUNT),
    ),
)
PROBE_OUT = envelope("Probe", Shape("ProbeData", Field("status", TEXT)))


class LiveView(APIView):
    """The process answers."""

    required_scopes: ClassVar = {"GET": OPEN}
    authentication_classes = ()
    throttle_classes = ()

    @extend_schema(
        operation_id="live",
        tags=["System"],
        summary="Check that the process is alive",
        description="Depends on nothing else: restart the process when this fails.",
        responses={200: PROBE_OUT},
    )
    def get(self, request: Request) -> Response:
        return Response({"data": {"status": "alive"}})


class ReadyView(APIView):
    """Messages can be accepted."""

    required_scopes: ClassVar = {"GET": OPEN}
    authentication_classes = ()
    throttle_classes = ()

    @extend_schema(
        operation_id="ready",
        tags=["System"],
        summary="Check that messages can be accepted",
        description=(
            "Whether messages can be accepted: Redis takes writes, and the database answers or did so in the last "
            "minutes, for which this process keeps verified keys. Send no requests here while this fails. MongoDB and "
            "workers are not checked: messages are accepted without them."
        ),
        responses={200: PROBE_OUT, 503: OpenApiResponse(PROBE_OUT, description="Not now.")},
    )
    def get(self, request: Request) -> Response:
        ready = can_accept()
        return Response({"data": {"status": "ready" if ready else "not_ready"}}, status=200 if ready else 503)


class HealthView(APIView):
    """Every part."""

    required_scopes: ClassVar = {"GET": OPEN}
    throttle_classes = ()

    def perform_authentication(self, request: Request) -> None:
        try:
            super().perform_authentication(request)
        except AWAY:  # a key that cannot be verified gets the status alone
            request.user, request.auth = AnonymousUser(), None

    @extend_schema(
        operation_id="health",
        tags=["System"],
        summary="Get the health of every part",
        description=(
            "The status alone for everybody; what each check found with a key that may read. `degraded` while "
            "MongoDB or a worker is away: messages are still accepted. `unhealthy` while Redis is away or refuses "
            "writes, and without the database."
        ),
        responses={200: HEALTH_OUT, 503: OpenApiResponse(HEALTH_OUT, description="Unhealthy.")},
        examples=[OpenApiExample("Short", value={"data": {"status": "healthy"}}, response_only=True)],
    )
    def get(self, request: Request) -> Response:
        health = doctor().look()
        data: dict[str, Any] = {"status": health.status.value}
        if may(request, "read"):
            data |= {
                "checks": {name: finding.wire() for name, finding in health.checks.items()},
                "version": settings.VERSION,
                "uptimeSeconds": int(time.monotonic() - _started),
            }
        return Response({"data": data}, status=503 if health.status is Status.UNHEALTHY else 200)
