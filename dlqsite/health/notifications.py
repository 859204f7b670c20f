"""Whether users are notified: the check of notifications, for health and `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from dlq_app.domain.store_problem import StoreProblem
from dlqsite.health.findings import Finding, Status
from messages_app.store import presence
from notify_app import conf, services
from notify_app.store.outbox import OutboxFigures

#: A notification that is due longer than this is late: a notifier sends within seconds.
LATE: Final = timedelta(minutes=10)
ROLE: Final = "notifier"
MISSING: Final = "No notifier is alive: users are not notified."


def problems(found: OutboxFigures, now: datetime) -> Iterator[StoreProblem]:
    """What is wrong with the notifications, each with its fix."""

    def problem(code: str, what: str, fix: str) -> StoreProblem:
        return StoreProblem(part="notifications", code=code, what=what, fix=fix)

    decide = "Fix the cause; then send them again or dismiss them on the page Notifications."
    if found.failed:
        yield problem("failed", f"{_counted(found.failed)} could not be sent.", decide)
    if found.uncertain:
        yield problem("uncertain", f"{_counted(found.uncertain)} may not have arrived.", decide)
    if found.retrying:
        why = f": {found.retry_error}" if found.retry_error else "."
        fix = "Try the recipient: manage.py notify --test NAME."
        yield problem("retrying", f"{_counted(found.retrying)} cannot be sent at the moment{why}", fix)
    if found.waiting_since is not None and now - found.waiting_since > LATE:
        minutes = round((now - found.waiting_since).total_seconds() / 60)
        fix = "Check the notifier's log, and that its policy has the recipient."
        yield problem("late", f"A notification has been due for {minutes} min.", fix)


def notification_finding(now: datetime) -> Finding:
    """Healthy without recipients: then nothing is sent."""
    recipients = conf.policy().recipients
    found = services.figures()
    facts: dict[str, Any] = {
        "recipients": len(recipients),
        "waiting": found.waiting,
        "failed": found.failed,
        "uncertain": found.uncertain,
    }
    wrong = [f"{one.what} {one.fix}" for one in problems(found, now)]
    if recipients:
        facts["alive"] = len(presence.present(ROLE))
        if not facts["alive"]:
            wrong.insert(0, f"{MISSING} Start manage.py run_notifier.")
    return Finding(Status.DEGRADED if wrong else Status.HEALTHY, " ".join(wrong), facts)


def _counted(number: int) -> str:
    return f"{number:,} notification{'' if number == 1 else 's'}"
