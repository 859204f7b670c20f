"""Fill in the facets of dead letters."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from dlq_app.services import facets
from dlq_app.store.facet_filling import Filling
from management import terminal
from wire.errors import ServiceError


class Command(terminal.StrictCommand):
    help = (
        "Give existing letters the facets of facets.toml and the groups of groups.toml: after a change of one, of "
        "masking.toml or of FACETS_KEY, when every process has started with it, and after a restore. Letters can be "
        "used meanwhile. It can be killed at any time: the next run continues. Exit 0: all letters done; 1: not all."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--again", action="store_true", help="begin with the first letter")

    def handle(self, *args: Any, **options: Any) -> None:
        seen = Filling(policy="")

        def show(found: Filling) -> None:
            nonlocal seen
            seen = found
            if found.read % 10_000 == 0 and not found.is_complete:
                self.stderr.write(f"{found.read:,} letters read, {found.changed:,} changed")

        try:
            done = facets.fill(show, again=options["again"])
        except (ServiceError, KeyboardInterrupt) as error:
            self._record(seen.changed)
            why = str(error) or "Stopped."
            raise CommandError(f"{why} {seen.read:,} letters done so far. Start it again to continue.") from error
        self._record(done.changed)
        self.stdout.write(f"{done.changed:,} of {done.read:,} letters changed.")

    def _record(self, changed: int) -> None:
        if changed:
            record(terminal.actor(), "fill facets", kind="deadletter", name="facets", count=changed)
