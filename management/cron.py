"""The cron role: small duties at fixed intervals. Each finds out what is due, so any number of crons may run."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from processes.names import process_name
from processes.steps import is_stuck, step
from processes.turns import OutageLog
from wire.errors import StoreUnavailable

log = logging.getLogger(__name__)

#: Days whose accounts are looked at every minute; all of them are looked at every hour.
RECENT_DAYS = 2
#: Letters replayed by one turn; the next turn takes the rest.
REPLAYS_A_TURN = 500


@dataclass(frozen=True, slots=True)
class Duty:
    """Something to do every ``every_s`` seconds. May run on several hosts at once."""

    name: str
    every_s: float
    run: Callable[[], object]


@dataclass(slots=True)
class Cron:
    """Runs duties in one thread, the first time at once. One that fails is logged and tried again at its next turn.

    That a store keeps it from being done is logged once when it begins and once when it ends.
    """

    duties: Sequence[Duty]
    stop: threading.Event
    monotonic: Callable[[], float] = time.monotonic
    _next: dict[str, float] = field(default_factory=dict)
    _outages: dict[str, OutageLog] = field(default_factory=dict)

    def run(self) -> None:
        """Return soon after ``stop`` is set; a duty under way is finished."""
        while not self.stop.is_set():
            self.stop.wait(min(self.turn(), 60.0))

    def turn(self) -> float:
        """Do what is due and return the seconds until something else is."""
        for duty in self.duties:
            if self.stop.is_set():
                return 0.0
            if self.monotonic() < self._next.get(duty.name, 0.0):
                continue
            # Before it runs: a slow duty does not drift, and one that raises is not tried at once.
            self._next[duty.name] = self.monotonic() + duty.every_s
            self._do(duty)
        return max(0.0, min(self._next.values()) - self.monotonic()) if self._next else 60.0

    def _do(self, duty: Duty) -> None:
        outage = self._outages.setdefault(duty.name, OutageLog(log, "duty_waits", "duty_goes_on", duty=duty.name))
        try:
            with step(duty.name):
                duty.run()
        except StoreUnavailable as error:
            outage.failed(error)
        except Exception:
            # Whatever it is, the other duties are still due.
            log.exception("duty_failed", extra={"duty": duty.name})
        else:
            outage.succeeded()


def replay_what_is_due() -> None:
    """Replay the letters whose automatic replay is due. The DLQ worker does the same; a letter goes to one of them."""
    from dlq_app.services.dead_letters import record_round, replay_due

    record_round(replay_due(REPLAYS_A_TURN))


def delete_expired_sessions() -> None:
    """Delete sessions of the console that have expired. Each start of a sign-in at the identity provider makes one."""
    from django.contrib.sessions.models import Session
    from django.db import close_old_connections
    from django.utils import timezone

    from dlqsite.database import AWAY, HEADING

    close_old_connections()  # the last one may be an hour old
    try:
        Session.objects.filter(expire_date__lt=timezone.now()).delete()
    except AWAY as error:
        raise StoreUnavailable(HEADING) from error


def delete_expired_drafts() -> None:
    """Delete drafts of edited payloads that were neither replayed nor discarded."""
    from django.db import close_old_connections

    from dlq_app.models import EditDraft
    from dlqsite.database import AWAY, HEADING

    close_old_connections()  # the last one may be a day old
    try:
        EditDraft.delete_expired()
    except AWAY as error:
        raise StoreUnavailable(HEADING) from error


def delete_old_audit_lines() -> None:
    """Delete lines of the audit log that are older than ``AUDIT_KEEP_DAYS``."""
    from django.conf import settings
    from django.db import close_old_connections, connection

    from audit_app.lines import delete_older_than, record
    from dlqsite.database import AWAY, HEADING

    days = settings.AUDIT_KEEP_DAYS
    if not days:
        return
    if not connection.in_atomic_block:
        close_old_connections()  # the last one may be a day old
    try:
        if deleted := delete_older_than(timedelta(days=days)):
            record("system", f"deleted lines older than {days} days", kind="auditline", count=deleted)
    except AWAY as error:
        raise StoreUnavailable(HEADING) from error


class Accounts:
    """Compares the accounts and logs when a difference appears, changes or ends."""

    def __init__(self, rows: Callable[[int], Sequence[Any]]) -> None:
        self._rows = rows
        self._known: dict[tuple[str, str], tuple[int, int]] = {}

    def check(self, days: int) -> None:
        """Look at the last ``days`` days. A move and its counting are one step, so no difference is a passing one."""
        for row in self._rows(days):
            key, wrong = (row.day, row.type), (row.difference, row.below_zero)
            if wrong != self._known.get(key, (0, 0)):
                self._known[key] = wrong
                details = {"day": row.day, "type": row.type, "difference": row.difference, "accepted": row.accepted}
                if row.below_zero:
                    details["below_zero"] = row.below_zero
                if any(wrong):
                    log.error("accounts_differ", extra=details)
                else:
                    log.warning("accounts_agree_again", extra=details)


class Heartbeat:
    """Says that this process is alive and which role it plays."""

    def __init__(self, role: str = "cron") -> None:
        self.role = role
        self.name = f"{role}-{process_name()}"
        self._started_at_ms = time.time_ns() // 1_000_000
        self._heard = False

    def beat(self) -> None:
        """Announce this process, unless one of its steps hangs."""
        from messages_app.store import presence

        if is_stuck():
            return
        self._heard = False
        presence.announce(self.name, self.role, started_at_ms=self._started_at_ms)
        self._heard = True

    def end(self) -> None:
        """Remove this process from the list, unless the store was unavailable: then the entry expires."""
        from messages_app.store import presence

        if self._heard:
            presence.withdraw(self.name)


def duties(heartbeat: Heartbeat) -> list[Duty]:
    """What the cron role does, with its intervals."""
    from dlq_app.services import letter_counts
    from messages_app.store.ledger import ledger
    from messages_app.store.series import series
    from messages_app.work import reconciliation
    from messages_app.work.store_losses import mark_keeper

    accounts = Accounts(lambda days: ledger().accounting(days))
    return [
        Duty("heartbeat", 5, heartbeat.beat),
        Duty("note the figures", 5, series().sample),
        Duty("keep the ledger's mark", 10, mark_keeper(every_s=0)),
        Duty("replay what is due", 60, replay_what_is_due),
        Duty("carry the accounts", 30, lambda: ledger().carry_accounts()),
        Duty("count the letters", 30, letter_counts.advance),
        Duty("check recent accounts", 60, lambda: accounts.check(RECENT_DAYS)),
        Duty("compare the letters", 60, reconciliation.check),
        Duty("check all accounts", 3600, lambda: accounts.check(400)),
        Duty("forget expired accounts", 86_400, lambda: ledger().forget_accounts()),
        Duty("delete expired sessions", 3600, delete_expired_sessions),
        Duty("delete expired drafts", 86_400, delete_expired_drafts),
        Duty("delete old audit lines", 86_400, delete_old_audit_lines),
    ]
