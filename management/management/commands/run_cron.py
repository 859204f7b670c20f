"""Run the periodic duties until SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
from _thread import start_new_thread
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from management.cron import Cron, Heartbeat, duties
from messages_app import conf
from messages_app.domain.errors import StoreUnavailable
from messages_app.work.startup import refusal
from messages_app.work.store_losses import mark_keeper
from processes.watchdog import guard

log = logging.getLogger(__name__)


class Command(BaseCommand):
    help = (
        "Run the periodic tasks: start due replays, check the accounts. Any number can run; stops cleanly on SIGTERM."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def handle(self, *args: Any, **options: Any) -> None:
        if wrong := refusal():
            raise CommandError(wrong)
        guard("cron", conf.watchdog_timeout_s())
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            # On a thread of its own: the main thread may hold the event's lock at the moment of the signal.
            signal.signal(number, lambda *_: start_new_thread(stop.set, ()))
        heartbeat = Heartbeat()
        log.info("cron_started", extra={"cron": heartbeat.name})
        Cron(duties(heartbeat), stop).run()
        # What is stopped for a restore has its last mark in MongoDB.
        mark_keeper(every_s=0)()
        with suppress(StoreUnavailable):  # then it is forgotten after a while
            heartbeat.end()
        log.info("cron_stopped", extra={"cron": heartbeat.name})
