"""Make everything true that must be true before the roles start. Safe to repeat."""

from __future__ import annotations

import signal
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from management import preparation
from wire.visible_text import one_line

_LOOK_AGAIN_S = 2.0


class Command(BaseCommand):
    help = (
        "Check the configuration, then bring tables, MongoDB's indexes and static files up to date. "
        "Creates the first administrator when DJANGO_SUPERUSER_USERNAME and DJANGO_SUPERUSER_PASSWORD say who."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; run below, with the rest

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--credentials",
            type=Path,
            metavar="FILE",
            help="Keep a ready API key and the first administrator's generated password in this private file",
        )
        parser.add_argument("--static-only", action="store_true", help="Only collect static files; needs no store")

        parser.add_argument(
            "--wait",
            action="store_true",
            help="Change nothing; wait until another run has finished (for init containers)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["static_only"]:
            self.stdout.write(f"{preparation.collect_static_files()} static files collected.")
            return
        if options["wait"]:
            self._wait()
            return
        call_command("check")
        if not_checked := preparation.require_safe_redis():
            self.stdout.write(self.style.WARNING(not_checked))
        call_command("migrate", interactive=False, verbosity=0)
        preparation.ensure_indexes()
        preparation.record_policies()
        collected = preparation.collect_static_files()
        if options["credentials"]:
            preparation.ensure_credentials(options["credentials"])
        else:
            preparation.ensure_named_administrator()
        self.stdout.write(f"Prepared. {collected} static files collected." if collected else "Prepared.")

    def _wait(self) -> None:
        """Return once nothing is left to do. It has no time limit of its own."""
        told = ""
        # Process 1 of a container ignores SIGTERM unless it has a handler.
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            while problem := preparation.unprepared():
                if problem != told:
                    self.stdout.write(f"Waiting for prepare: {one_line(problem)}")
                    self.stdout.flush()
                    told = problem
                time.sleep(_LOOK_AGAIN_S)
        finally:
            signal.signal(signal.SIGTERM, before)
        self.stdout.write("Prepared.")
