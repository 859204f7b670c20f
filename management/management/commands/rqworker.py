"""RQ's own worker on our lanes: django-rq's command with defaults that fit, nothing else."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django_rq.management.commands import rqworker

from messages_app import conf
from messages_app.store.queues import NAMES
from messages_app.work.protection import announce_breakers
from messages_app.work.startup import refusal
from processes.watchdog import guard


class Command(rqworker.Command):
    help = "Run RQ's own worker, one forked process per message, on all lanes or the named ones."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(
            serializer="rq.serializers.JSONSerializer",
            job_class="messages_app.jobs.WakeUpJob",
            worker_class="messages_app.work.forking.ForkingWorker",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if wrong := refusal():
            raise CommandError(wrong)
        guard("rqworker", conf.watchdog_timeout_s())
        # Before it forks: each process that runs a message then leases probes for as long as its handler may take.
        announce_breakers()
        super().handle(*(args or NAMES), **options)
