"""Rebuild the search words of dead letters."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from audit_app.lines import record
from dlq_app import conf
from dlq_app.store import repository
from management import terminal
from wire.errors import ServiceError


class Command(terminal.StrictCommand):
    help = (
        "Make the words that dead letters are found by anew: after an update that changes them, and after a change of "
        "masking.toml, so that no search finds a word that is masked now. Letters can be used meanwhile. Exit 0: all "
        "letters done; 1: not all, and it says from where to go on."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--after", default="", metavar="ID", help="go on behind this message id")

    def handle(self, *args: Any, **options: Any) -> None:
        after, read, changed = str(options["after"]), 0, 0
        try:
            while True:
                step = repository.letters().refresh_words(after, conf.masking_policy())
                read, changed = read + step.read, changed + step.changed
                if not step.last:
                    break
                after = step.last
        except (ServiceError, KeyboardInterrupt) as error:
            self._record(changed)
            why = str(error) or "Stopped."
            go_on = f"Go on with --after={terminal.printable(after)}." if after else "Start it again."
            raise CommandError(f"{why} {changed} of {read} letters changed so far. {go_on}") from error
        self._record(changed)
        self.stdout.write(f"{changed} of {read} letters changed.")

    def _record(self, changed: int) -> None:
        if changed:
            record(terminal.actor(), "refresh search", kind="deadletter", name="words to search by", count=changed)
