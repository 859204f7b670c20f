"""Run messages on the threads of one process, until stopped."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from messages_app import conf
from messages_app.work.startup import refusal
from messages_app.worker import make_worker
from processes.watchdog import guard


class Command(BaseCommand):
    help = (
        "Run messages on the threads of one process. SIGTERM: stop claiming, finish running messages (up to "
        "WORKER_SHUTDOWN_GRACE seconds), requeue the rest, exit 0. Exits 1 when too many handlers hang: let a "
        "supervisor start it again."
    )

    #: What a worker relies on. Other checks load every URL and view: a third more memory in a process without any.
    requires_system_checks = ("messages_app", "breaker_app")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--concurrency", type=int, help="messages run at the same time (WORKER_CONCURRENCY)")
        parser.add_argument("--burst", action="store_true", help="stop when no message is waiting")

    def handle(self, *args: Any, **options: Any) -> None:
        if wrong := refusal():
            raise CommandError(wrong)
        guard("worker", conf.watchdog_timeout_s())
        worker = make_worker(options["concurrency"])
        worker.work(burst=options["burst"])
        if worker.exit_code:
            sys.exit(worker.exit_code)
