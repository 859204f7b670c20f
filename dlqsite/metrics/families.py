"""Every metric: name, kind, labels and meaning. ``docs/metrics.md`` describes each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. ``labels`` in the order of the samples."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


def _table(*families: Family) -> Mapping[str, Family]:
    return {family.name: family for family in families}


FAMILIES: Final = _table(
    Family("dlq_build_info", GAUGE, "Version of this web process; always 1.", ("version", "python", "django")),
    Family("dlq_collector_up", GAUGE, "1 if this part could be read; at 0 its metrics are absent.", ("part",)),
    # Messages
    Family("dlq_messages_accepted_total", COUNTER, "Messages accepted.", ("type",)),
    Family("dlq_messages_ended_total", COUNTER, "Times a message ended, replays included.", ("type", "outcome")),
    Family("dlq_messages_reopened_total", COUNTER, "Times an ended message was started again.", ("type", "outcome")),
    Family("dlq_messages_open", GAUGE, "Messages accepted and not ended.", ("type",)),
    Family("dlq_messages_recovered_total", COUNTER, "Runs lost with their process."),
    Family("dlq_duplicates_total", COUNTER, "Submitted messages whose id was known."),
    Family("dlq_intake_groups_total", COUNTER, "Groups of submissions sent to Redis."),
    Family("dlq_intake_grouped_total", COUNTER, "Submissions in these groups."),
    Family("dlq_intake_busy_total", COUNTER, "Submissions refused because too many waited for Redis."),
    Family("dlq_attempts_total", COUNTER, "Attempts that ended; held: rejected by a breaker.", ("outcome",)),
    Family("dlq_handler_duration_seconds", HISTOGRAM, "Time in the handler.", ("type", "outcome")),
    Family("dlq_queue_messages", GAUGE, "Messages waiting in the lane.", ("lane",)),
    Family("dlq_queue_oldest_seconds", GAUGE, "Longest wait in the lane; 0 if it is empty.", ("lane",)),
    Family("dlq_messages_scheduled", GAUGE, "Messages waiting for their time or for a breaker."),
    Family("dlq_messages_retry_waiting", GAUGE, "Messages waiting for their next attempt."),
    Family("dlq_messages_running", GAUGE, "Messages being processed."),
    Family("dlq_messages_overdue", GAUGE, "Messages that should have been moved more than 5 s ago."),
    Family("dlq_outbox_outcomes", GAUGE, "Outcomes that MongoDB has not acknowledged."),
    Family("dlq_outbox_oldest_seconds", GAUGE, "Age of the oldest of these; 0 if there is none."),
    Family("dlq_quarantined_outcomes", GAUGE, "Outcomes that MongoDB can never store."),
    Family("dlq_accounting_difference_messages", GAUGE, "Messages for which the accounts do not add up."),
    # Letters
    Family("dlq_letters", GAUGE, "Dead letters.", ("status",)),
    Family("dlq_letters_oldest_open_seconds", GAUGE, "Age of the oldest open letter; 0 if there is none."),
    Family("dlq_letters_created_total", COUNTER, "Messages given up for the first time."),
    Family("dlq_letters_resolved_total", COUNTER, "Letters resolved.", ("resolution",)),
    Family("dlq_letters_due_total", COUNTER, "Letters whose time for their resolution is over."),
    Family("dlq_letters_missed_total", COUNTER, "Those of them that were not resolved in time."),
    Family("dlq_objective_ratio", GAUGE, "Share of the letters that should be resolved in time."),
    Family("dlq_objective_seconds", GAUGE, "Time in which a letter should be resolved."),
    Family("dlq_replays_total", COUNTER, "Replays that ended.", ("outcome",)),
    Family("dlq_batches", GAUGE, "Replay batches that are not over.", ("stage",)),
    Family("dlq_batches_stopped_total", COUNTER, "Replay batches that stopped automatically."),
    # Breakers
    Family("dlq_breaker_state", GAUGE, "1 for the state of the breaker, 0 for the others.", ("breaker", "state")),
    Family("dlq_breaker_left_closed_timestamp_seconds", GAUGE, "When it left CLOSED; 0 while CLOSED.", ("breaker",)),
    Family("dlq_breaker_held_messages", GAUGE, "Messages that it holds.", ("breaker", "priority")),
    Family("dlq_breaker_transitions_total", COUNTER, "Changes of the breaker's state.", ("breaker",)),
    # The system
    Family("dlq_processes", GAUGE, "Processes that report themselves.", ("role",)),
    Family("dlq_health_check", GAUGE, "0 healthy, 1 degraded, 2 unhealthy.", ("check",)),
    Family("dlq_notifications_total", COUNTER, "Notifications that reached this state.", ("state",)),
    Family("dlq_notifications_waiting", GAUGE, "Notifications that will be sent."),
    Family("dlq_store_losses_open", GAUGE, "Losses of stores that no one has acknowledged."),
    Family("dlq_letters_lacking_outcomes", GAUGE, "Outcomes in Redis that the letters lack, as far as compared."),
    Family("dlq_backup_last_success_timestamp_seconds", GAUGE, "When the last backup succeeded."),
    Family("dlq_redis_replicas", GAUGE, "Replicas connected to Redis."),
    Family("dlq_redis_memory_bytes", GAUGE, "Memory in use by Redis."),
    Family("dlq_redis_memory_limit_bytes", GAUGE, "maxmemory, or without it the memory of Redis' host."),
    Family("dlq_http_requests_total", COUNTER, "HTTP requests answered.", ("method", "route", "status")),
    Family("dlq_http_request_duration_seconds", HISTOGRAM, "Time until the answer is ready.", ("method", "route")),
)
