"""Restore a backup into an empty installation."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, cast

from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from management import backup
from management.archive import Archive
from management.errors import ArchiveDamaged, RestoreRefused
from management.terminal import Counted, StrictCommand, actor, can_ask, printable, says_yes
from wire.errors import ServiceError


class Command(StrictCommand):
    help = (
        "Verify a file of `backup` and restore it into an empty MongoDB database, and into Django's database what is "
        "missing there. Stop all roles first. It starts no replay: batches come back paused, and letters whose replay "
        "was in progress need a decision. Killed or failed, run it again with the same file. Exit 0: complete; 1: not."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE")
        parser.add_argument(
            "--hold", action="store_true", help="letters with an automatic replay need a decision instead"
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument("--json", action="store_true", help="one JSON object at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            archive = Archive(Path(options["file"]))
            archive.verify()
            number = archive.members["dead_letters"].lines if "dead_letters" in archive.members else 0
            if not options["yes"]:
                if not can_ask():
                    raise CommandError(f"Would restore {number:,} letters. No one can be asked here: use --yes.")
                question = f"Restore {number:,} letters of {archive.about.get('madeAt')}?"
                if not says_yes(printable(question), cast("TextIO", self.stderr._out)):
                    return
            done = backup.apply(archive, by=actor(), hold=options["hold"], progress=Counted(self.stderr))
        except (ArchiveDamaged, RestoreRefused) as error:
            raise CommandError(printable(str(error))) from error
        except DatabaseError as error:
            message = "The database does not answer or lacks tables. Start it or run `prepare`, then run this again."
            raise CommandError(message) from error
        except OSError as error:
            raise CommandError(f"{printable(options['file'])}: {error.strerror or error}") from error
        except ServiceError as error:
            raise CommandError(f"{error} The restore has not ended. Run it again with the same file.") from error
        if options["json"]:
            self.stdout.write(json.dumps(asdict(done)))
        else:
            self._report(done)

    def _report(self, done: backup.Restored) -> None:
        numbers = ", ".join(f"{number:,} {name}" for name, number in done.added.items())
        self.stdout.write(f"Restored: {numbers}.")
        there = ", ".join(f"{number:,} {name}" for name, number in done.there.items() if number)
        if there:
            self.stdout.write(f"There already, and unchanged: {there}.")
        if done.interrupted:
            self.stdout.write(f"{done.interrupted:,} letters need a decision: their replay was in progress.")
        if done.held:
            self.stdout.write(f"{done.held:,} letters with an automatic replay are held and need a decision.")
        if done.automatic:
            self.stdout.write(f"{done.automatic:,} letters replay automatically when they are due and the roles run.")
        if done.paused_batches:
            self.stdout.write(f"{done.paused_batches:,} replay batches are paused. Resume or cancel them.")
        self.stdout.write("Next: manage.py reconcile --fix, then start the roles, then manage.py doctor.")
