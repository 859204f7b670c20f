"""Free stale claims and start due replays, until stopped."""

from __future__ import annotations

import signal
from _thread import start_new_thread
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dlq_app.worker import DlqWorker
from messages_app import conf
from messages_app.store.ledger import ledger
from messages_app.work.startup import refusal
from messages_app.work.store_losses import mark_keeper
from messages_app.work.upkeep import LEAVE_MS, Upkeep
from processes.watchdog import guard


class Command(BaseCommand):
    help = (
        "Start due automatic replays and replay batches, and release claims of replays that never started. Any number "
        "can run. SIGTERM: finish the claimed letters and exit 0; SIGUSR1: check now."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def handle(self, *args: Any, **options: Any) -> None:
        if wrong := refusal():
            raise CommandError(wrong)
        guard("dlq_worker", conf.watchdog_timeout_s())
        worker = DlqWorker()
        # On threads of their own: the main thread may hold the lock that they need at the moment of the signal.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: start_new_thread(worker.stop, ()))
        signal.signal(signal.SIGUSR1, lambda *_: start_new_thread(worker.nudge, ()))
        # It also moves and drains messages: with no message worker alive, letters still arrive.
        upkeep = Upkeep(
            ledger(), name=worker.name, role="dlq_worker", details=worker.details, leave_ms=LEAVE_MS,
            keep_marks=mark_keeper(),
        )  # fmt: skip
        upkeep.start()
        try:
            worker.run()
        finally:
            upkeep.stop()
