"""Make everything true that must be true before the roles start. Safe to repeat."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand

from management import preparation


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

    def handle(self, *args: Any, **options: Any) -> None:
        if options["static_only"]:
            self.stdout.write(f"{preparation.collect_static_files()} static files collected.")
            return
        call_command("check")
        if not_checked := preparation.require_safe_redis():
            self.stdout.write(self.style.WARNING(not_checked))
        call_command("migrate", interactive=False, verbosity=0)
        preparation.ensure_indexes()
        collected = preparation.collect_static_files()
        if options["credentials"]:
            preparation.ensure_credentials(options["credentials"])
        else:
            preparation.ensure_named_administrator()
        self.stdout.write(f"Prepared. {collected} static files collected." if collected else "Prepared.")
