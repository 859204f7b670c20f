"""One look at every source: new events become notifications, each with the mark of its source in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import Error as DatabaseError

from notify_app import conf
from notify_app.collecting import digest, sources
from notify_app.collecting.sources import Found, HealthSeen
from notify_app.domain import schedule
from notify_app.domain.policy import Limits, NotifyPolicy
from notify_app.store import marks, outbox
from processes.steps import step
from processes.turns import OutageLog
from wire.errors import ServiceError

log = logging.getLogger(__name__)

Source = Callable[[Any, Limits, datetime], Found]
#: Errors of a store that does not answer.
AWAY = (ServiceError, DatabaseError)


class Collector:
    """Looks at the sources. Each fails alone: while Redis does not answer, events of MongoDB are still found."""

    def __init__(
        self, health: Callable[[], HealthSeen] | None = None, *, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """``health``: returns the health of the system; without it health is no source.

        ``is_stopping``: a look ends before its next source. Each may wait for a store that does not respond.
        """
        self._is_stopping = is_stopping
        self._sources: dict[str, Source] = {
            "groups": sources.group_events,
            "breakers": sources.breaker_events,
            "age": sources.age_events,
            "batches": sources.batch_events,
            "accounting": sources.accounting_events,
        }
        if health is not None:
            self._sources["health"] = sources.health_events(health)
        self._outages: Mapping[str, OutageLog] = {
            name: OutageLog(log, "notify_source_away", "notify_source_back", source=name)
            for name in (*self._sources, "digest", "upkeep")
        }

    def look(self, now: datetime | None = None) -> int:
        """Look at every source once; return the number of new or changed notifications."""
        policy, at = conf.policy(), now or datetime.now(UTC)
        found = 0
        for name, source in self._sources.items():
            if self._is_stopping():
                return found
            found += self._guarded(name, lambda name=name, source=source: self._look_at(name, source, policy, at))  # type: ignore[misc]
        if self._is_stopping():
            return found
        found += self._guarded("digest", lambda: self._digest(policy, at))
        self._guarded("upkeep", lambda: self._upkeep(policy, at))
        return found

    def _guarded(self, name: str, task: Callable[[], int]) -> int:
        try:
            with step(f"look at {name}"):
                number = task()
        except AWAY as error:
            self._outages[name].failed(error)
            return 0
        except Exception:
            # A mistake in one source must not keep the others silent.
            log.exception("notify_source_broken", extra={"source": name})
            return 0
        self._outages[name].succeeded()
        return number

    def _look_at(self, name: str, source: Source, policy: NotifyPolicy, now: datetime) -> int:
        seen = marks.read(name)
        events, value = source(seen.value, policy.limits, now)
        if not events and value == seen.value:
            return 0
        recorded = 0

        def record() -> None:
            nonlocal recorded
            for event in events:
                wanted = [one for one in policy.recipients.values() if one.wants(event)]
                recorded += outbox.record(event, wanted, policy.limits, now)

        # False: another notifier has recorded these events.
        return recorded if marks.move(seen, value, record) else 0

    def _digest(self, policy: NotifyPolicy, now: datetime) -> int:
        day = schedule.digest_day(policy.digest, now)
        if day is None:
            return 0
        key = digest.key_of(day)
        missing = [policy.recipients[name] for name in policy.digest.recipients if not outbox.has(name, key)]
        return outbox.record(digest.build(day, now), missing, policy.limits, now) if missing else 0

    def _upkeep(self, policy: NotifyPolicy, now: datetime) -> int:
        outbox.give_up(now)
        return outbox.delete_old(timedelta(days=policy.limits.keep_days), now)
