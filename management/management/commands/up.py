"""Run the whole system on this machine until Ctrl-C."""

from __future__ import annotations

import os
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from management.errors import StackError
from management.output import Output
from management.stack import Options, Stack


class Command(BaseCommand):
    help = (
        "Run the whole system on this machine: stores, web, workers, cron. "
        "PORT, HOST, DATA_DIR, REDIS_URL, MONGODB_URL, DATABASE_URL, WORKERS, WEB_PROCESSES, WEB_THREADS configure it."
    )
    # The roles check themselves, in `prepare`, once they have their stores.
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute

    def handle(self, *args: Any, **options: Any) -> None:
        os.umask(0o077)  # of all children: logs and data, SQLite's journals included, are this user's alone
        try:
            Stack(Options.from_environment(os.environ), os.environ, Output(sys.stdout).say).run()
        except StackError as error:
            raise CommandError(str(error)) from error
