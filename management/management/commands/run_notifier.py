"""Find events and send notifications, until stopped."""

from __future__ import annotations

import signal
import threading
from _thread import start_new_thread
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dlqsite.health.findings import Status
from dlqsite.health.notifications import ROLE
from dlqsite.health.report import doctor
from management.cron import Cron, Duty, Heartbeat
from messages_app import conf
from messages_app.domain.errors import StoreUnavailable
from messages_app.work.startup import refusal
from notify_app import conf as notify_conf
from notify_app.collecting.sources import HealthSeen
from notify_app.senders.addresses import problems
from notify_app.worker import Notifier
from processes.essential import Essential
from processes.watchdog import guard
from wire.errors import PolicyError

#: Seconds between two reports that this process is alive.
BEAT_S = 5.0


class Command(BaseCommand):
    help = (
        "Notify the recipients of the policy of new groups, open breakers, stopped batches and other events, and send "
        "the digest. Any number can run. SIGTERM: finish what is being sent and exit 0."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def handle(self, *args: Any, **options: Any) -> None:
        if wrong := _reason_not_to_start():
            raise CommandError(wrong)
        guard(ROLE, conf.watchdog_timeout_s())
        notifier, stop, heartbeat = Notifier(_health), threading.Event(), Heartbeat(ROLE)

        def end() -> None:
            stop.set()
            notifier.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            # On a thread of its own: the main thread may hold the lock that it needs at the moment of the signal.
            signal.signal(number, lambda *_: start_new_thread(end, ()))
        beats = Cron([Duty("heartbeat", BEAT_S, heartbeat.beat)], stop)
        Essential(beats.run, "heartbeat", may_end=stop.is_set).start()
        notifier.run(conf.shutdown_grace_s())
        with suppress(StoreUnavailable):  # then it is forgotten after a while
            heartbeat.end()


def _reason_not_to_start() -> str:
    """Why no notifier can run, with the fix; empty if it can."""
    try:
        policy = notify_conf.policy()
    except PolicyError as error:
        return str(error)
    if not policy.recipients:
        return f"{policy.file} has no recipients: nothing is sent. Add one, or do not start this role."
    wrong = [one for recipient in policy.recipients.values() for one in problems(recipient)]
    return " ".join(wrong) or refusal()


def _health() -> HealthSeen:
    found = doctor().look()
    wrong = {name: check.detail for name, check in found.checks.items() if check.status is not Status.HEALTHY}
    return HealthSeen(found.status.value, wrong)
