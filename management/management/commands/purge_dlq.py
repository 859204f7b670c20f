"""Delete letters that were resolved long ago."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any, TextIO, cast

from django.core.management.base import CommandError, CommandParser

from dlq_app.domain.errors import CriteriaInvalid
from dlq_app.services import purging
from management import terminal
from management.filters import add_filter_arguments, criteria_from
from wire.errors import ServiceError

_AGE = re.compile(r"([0-9]{1,6})([mhdw])\Z")
_FLAGS = {"olderThan": "older-than"}
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Command(terminal.StrictCommand):
    help = (
        "Delete dead letters for good: those that are resolved, were so longer ago than --older-than (an hour at "
        "least), and fit the filter. Shows how many and asks, unless --yes. Exit 0: done, or nothing to do; 1: not, or "
        "not all of it. MongoDB itself deletes them after keep_resolved_days; this is for sooner."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--older-than", required=True, metavar="AGE", help="such as 90m, 12h, 30d, 8w")
        parser.add_argument("--dry-run", action="store_true", help="only say how many")
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")
        add_filter_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        criteria, age = criteria_from(options), age_of(options["older_than"])
        deleted = 0

        def progress(so_far: int) -> None:
            nonlocal deleted
            deleted = so_far

        try:
            found = purging.count(criteria, age)
            what = f"{'at least ' if found.is_capped else ''}{found.count} resolved letters"
            goes_on = not options["dry_run"] and found.count > 0
            if goes_on and not options["yes"]:
                if not terminal.can_ask():
                    raise CommandError(f"Would delete {what}. Nobody can be asked here: say --yes, or --dry-run.")
                # On stderr, without the line end that the command's own stream adds: stdout may be read by a program.
                goes_on = terminal.says_yes(f"Delete {what} for good?", cast("TextIO", self.stderr._out))
            if goes_on:
                purging.purge(criteria, age, actor=terminal.actor(), progress=progress)
        except CriteriaInvalid as error:
            wrong = [f"--{_FLAGS.get(entry['field'], entry['field'])}: {entry['message']}" for entry in error.errors]
            raise CommandError("; ".join(wrong) + ".") from error
        except ServiceError as error:
            raise CommandError(f"{error} Deleted so far: {deleted}.") from error
        if options["json"]:
            figures = {"matched": found.count, "matchedIsCapped": found.is_capped, "deleted": deleted}
            self.stdout.write(json.dumps({**figures, "dryRun": options["dry_run"]}))
        elif options["dry_run"]:
            self.stdout.write(f"Would delete {what}.")
        else:
            self.stdout.write(f"{deleted} deleted.")


def age_of(text: str, flag: str = "--older-than") -> timedelta:
    """The span that ``30d`` and the like name; raises ``CommandError`` for anything else."""
    found = _AGE.match(text)
    if not found:
        raise CommandError(f"{flag} must be a number with its unit, such as 90m, 12h, 30d or 8w.")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
