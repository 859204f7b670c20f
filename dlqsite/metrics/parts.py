"""What each part of the system reports: kept figures only, so that a scrape costs the same for any number of letters.

Each function asks the stores afresh. Values that a process had kept would differ between processes, and a counter that
is lower in the next answer looks like a restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from django.db import connections

from breaker_app import services as breakers
from breaker_app.held import PRIORITIES
from breaker_app.states import State as BreakerState
from dlq_app.domain.replay_batch import FAILED_NEW, FAILED_SAME, SUCCEEDED
from dlq_app.services import backups, figures, letter_counts
from dlq_app.services.recording import REPLAYS
from dlq_app.store import repository
from dlqsite.health import report
from dlqsite.health.findings import Status
from dlqsite.health.notifications import ROLE as NOTIFIER
from dlqsite.metrics.http import DURATIONS, REQUESTS
from dlqsite.metrics.samples import Samples, split
from messages_app import registry
from messages_app.domain.redis_state import memory_limit
from messages_app.rest.committer import BUSY, GROUPED, GROUPS
from messages_app.rest.intake import DUPLICATES
from messages_app.store import presence
from messages_app.store.books import books
from messages_app.store.ledger import ledger
from messages_app.store.measurements import measurements
from messages_app.work.runner import HANDLER
from notify_app import conf as notify_conf
from notify_app import services as notifications
from wire.errors import ServiceError

#: Label of every type without a handler: types from outside cannot make up series.
OTHER: Final = "other"
#: These have a value even if none is alive.
ROLES: Final = ("worker", "dlq_worker", "cron")
_HEALTH: Final = {Status.HEALTHY: 0, Status.DEGRADED: 1, Status.UNHEALTHY: 2}


class NotCurrent(ServiceError):
    """The stored figures are missing or were not renewed in time."""


def read_ledger() -> Samples:
    """Queues, outbox, and counts of attempts."""
    found, tallies, info, samples = ledger().figures(), ledger().tallies(), ledger().server_info(), Samples()
    for lane in found.lanes:
        oldest = lane.oldest_ms if lane.waiting else None
        samples.put("dlq_queue_messages", lane.waiting, lane.name)
        samples.put("dlq_queue_oldest_seconds", _age(oldest, found.now_ms), lane.name)
    samples.put("dlq_messages_scheduled", found.scheduled)
    samples.put("dlq_messages_retry_waiting", found.retry_wait)
    samples.put("dlq_messages_running", found.running)
    samples.put("dlq_messages_overdue", found.overdue)
    samples.put("dlq_outbox_outcomes", found.outbox)
    samples.put("dlq_outbox_oldest_seconds", _age(found.outbox_oldest_ms, found.now_ms))
    samples.put("dlq_quarantined_outcomes", found.quarantined)
    for outcome, tally in (("succeeded", "done"), ("failed", "failed"), ("held", "held"), ("lost", "lost")):
        samples.put("dlq_attempts_total", tallies.get(tally, 0), outcome)
    samples.put("dlq_messages_recovered_total", tallies.get("lost", 0))
    samples.put("dlq_letters_created_total", tallies.get("died", 0))
    if info:  # empty without the permission
        samples.put("dlq_redis_replicas", int(info.get("connected_slaves", 0)))
        samples.put("dlq_redis_memory_bytes", int(info["used_memory"]))
        samples.put("dlq_redis_memory_limit_bytes", memory_limit(info)[0])
    return samples


def read_accounts() -> Samples:
    """Accepted, ended and open messages by type."""
    samples = Samples()
    for name in (*registry.types(), OTHER):
        samples.put("dlq_messages_accepted_total", 0, name)
        samples.put("dlq_messages_open", 0, name)
        for outcome in ("done", "dead"):
            samples.put("dlq_messages_ended_total", 0, name, outcome)
            samples.put("dlq_messages_reopened_total", 0, name, outcome)
    for row in ledger().counted():
        name = _type(row.type)
        samples.put("dlq_messages_accepted_total", row.accepted, name)
        samples.put("dlq_messages_ended_total", row.done, name, "done")
        samples.put("dlq_messages_ended_total", row.dead, name, "dead")
        samples.put("dlq_messages_reopened_total", row.reopened_done, name, "done")
        samples.put("dlq_messages_reopened_total", row.reopened_dead, name, "dead")
    wrong = 0
    for account in books():
        samples.put("dlq_messages_open", account.open, _type(account.type))
        wrong += account.wrong
    samples.put("dlq_accounting_difference_messages", wrong)
    return samples


def read_letters() -> Samples:
    """Letters by status. Raises ``NotCurrent`` when the DLQ worker does not count them."""
    kept = figures.kept()
    if kept is None:
        raise NotCurrent("The DLQ worker has not counted the letters in time.")
    snapshot, age_s = kept
    samples = Samples()
    for status, count in snapshot.by_status.items():
        samples.put("dlq_letters", count, status)
    oldest = snapshot.oldest_open_at
    samples.put(
        "dlq_letters_oldest_open_seconds",
        max(0.0, (snapshot.as_of - oldest).total_seconds() + age_s) if oldest else 0,
    )
    return samples


def read_letter_counts() -> Samples:
    """Resolved and late letters, stopped batches. Raises ``NotCurrent`` when cron does not count them."""
    found = letter_counts.read()
    if found is None:
        raise NotCurrent("Cron has not counted resolved and late letters in time.")
    samples = Samples()
    for resolution, count in found.resolved.items():
        samples.put("dlq_letters_resolved_total", count, resolution)
    samples.put("dlq_letters_due_total", found.due)
    samples.put("dlq_letters_missed_total", found.missed)
    samples.put("dlq_batches_stopped_total", found.stopped_batches)
    return samples


def read_batches() -> Samples:
    """Unfinished replay batches by stage."""
    samples = Samples()
    for stage, count in repository.batches().unfinished_by_stage().items():
        samples.put("dlq_batches", count, stage)
    return samples


def read_backups() -> Samples:
    """When the last backup succeeded; nothing while none is recorded."""
    samples, last = Samples(), backups.last_success()
    if last is not None:
        samples.put("dlq_backup_last_success_timestamp_seconds", last.timestamp())
    return samples


def read_breakers() -> Samples:
    """State of each breaker, since when, the messages that it holds, and how often it changed."""
    samples = Samples()
    for card in breakers.with_held(breakers.cards()):
        for priority in PRIORITIES if card.held else ():
            samples.put("dlq_breaker_held_messages", getattr(card.held, priority), card.name, priority)
        for state in BreakerState:
            samples.put("dlq_breaker_state", card.seen.state is state, card.name, state.value)
        if card.since or card.seen.state is BreakerState.CLOSED:
            since = card.since.timestamp() if card.since else 0
            samples.put("dlq_breaker_left_closed_timestamp_seconds", since, card.name)
    for name, count in breakers.transition_counts().items():
        samples.put("dlq_breaker_transitions_total", count, name)
    return samples


def read_health() -> Samples:
    """The checks of health. A check that could not find out leaves out what it would have counted."""
    checks, samples = report.doctor().look().checks, Samples()
    for name, finding in checks.items():
        samples.put("dlq_health_check", _HEALTH[finding.status], name)
    for check, fact, metric in (
        ("losses", "unacknowledged", "dlq_store_losses_open"),
        ("letters", "lacking", "dlq_letters_lacking_outcomes"),
    ):
        if fact in checks[check].facts:
            samples.put(metric, checks[check].facts[fact])
    return samples


def read_processes() -> Samples:
    """Processes by role. Web processes do not report themselves."""
    samples = Samples()
    for role in (*ROLES, *((NOTIFIER,) if notify_conf.policy().recipients else ())):
        samples.put("dlq_processes", 0, role)
    for process in presence.present():
        samples.put("dlq_processes", 1, process.role)
    return samples


def read_measurements() -> Samples:
    """What the processes have measured themselves: HTTP, handlers, duplicates, replays."""
    found, samples = split(measurements().read()), Samples()
    for name, kind in (
        ("dlq_duplicates_total", DUPLICATES),
        ("dlq_intake_groups_total", GROUPS),
        ("dlq_intake_grouped_total", GROUPED),
        ("dlq_intake_busy_total", BUSY),
    ):
        samples.put(name, sum(count for _, count in found.get(kind, ())))
    for outcome in (SUCCEEDED, FAILED_SAME, FAILED_NEW):
        samples.put("dlq_replays_total", 0, outcome)
    for labels, count in found.get(REPLAYS, ()):
        samples.put("dlq_replays_total", count, *labels)
    for labels, count in found.get(REQUESTS, ()):
        samples.put("dlq_http_requests_total", count, *labels)
    for (method, route, place), count in found.get(DURATIONS, ()):
        samples.put_duration("dlq_http_request_duration_seconds", (method, route), place, count)
    for (type_, outcome, place), count in found.get(HANDLER, ()):
        samples.put_duration("dlq_handler_duration_seconds", (_type(type_), outcome), place, count)
    return samples


def read_notifications() -> Samples:
    """Notifications by state. They are in the database."""
    samples = Samples()
    try:
        found = notifications.figures()
    finally:
        connections.close_all()  # this thread's own
    for state, count in found.totals.items():
        samples.put("dlq_notifications_total", count, state)
    samples.put("dlq_notifications_waiting", found.waiting)
    return samples


#: What ``dlq_collector_up`` names.
PARTS: Final[Mapping[str, Callable[[], Samples]]] = {
    "ledger": read_ledger,
    "accounts": read_accounts,
    "letters": read_letters,
    "letter_counts": read_letter_counts,
    "batches": read_batches,
    "backups": read_backups,
    "breakers": read_breakers,
    "health": read_health,
    "processes": read_processes,
    "measurements": read_measurements,
    "notifications": read_notifications,
}


def _type(name: str) -> str:
    return name if registry.get(name) else OTHER


def _age(since_ms: int | None, now_ms: int) -> float:
    return 0.0 if since_ms is None else max(0, now_ms - since_ms) / 1000
