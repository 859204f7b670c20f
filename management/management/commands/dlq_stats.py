"""Print figures about all dead letters."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from dlq_app import services
from dlq_app.errors import DeadLetterError


class Command(BaseCommand):
    help = "Print how many dead letters there are, by status, error type, message type and source."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            stats = services.stats()
        except DeadLetterError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(stats, indent=2, ensure_ascii=False))
            return
        age = stats["oldestOpenSeconds"]
        self.stdout.write(f"{stats['total']} dead letters, {stats['open']} open")
        if age is not None:
            self.stdout.write(f"oldest open: {age} s")
        top = {row["errorType"]: row["count"] for row in stats["topErrorTypes"]}
        sections = {"status": "byStatus", "type": "byType", "source": "bySource"}
        for title, counts in {**{t: stats[key] for t, key in sections.items()}, "error type": top}.items():
            self.stdout.write(f"\nby {title}")
            for name, count in counts.items():
                self.stdout.write(f"{count:>9}  {name}")
