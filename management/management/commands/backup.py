"""Write a backup of the dead letters, or verify one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from management import backup
from management.archive import Archive
from management.errors import ArchiveDamaged
from management.terminal import Counted, StrictCommand, actor, printable
from wire.errors import ServiceError


class Command(StrictCommand):
    help = (
        "Write letters, groups, replay batches, losses, API keys (hashes), users with roles (no passwords) and the "
        "audit log to one file. It contains secrets in payloads, and only its owner can read it. Open messages are in "
        "Redis and not in it. Exit 0: complete; 1: no file, or the file is damaged."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", metavar="FILE|DIR", help="a new file, or a folder: then the time names the file")
        parser.add_argument("--verify", action="store_true", help="only check the file against its own digests")
        parser.add_argument("--json", action="store_true", help="one JSON object at the end")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["verify"]:
                self._verify(Path(options["path"]), as_json=options["json"])
            else:
                self._make(backup.path_of(options["path"]), as_json=options["json"])
        except ArchiveDamaged as error:
            raise CommandError(printable(str(error))) from error
        except DatabaseError as error:
            message = "The database does not answer or lacks tables, so there is no backup. Start it, or run `prepare`."
            raise CommandError(message) from error
        except OSError as error:
            raise CommandError(f"{printable(options['path'])}: {error.strerror or error}") from error
        except ServiceError as error:
            raise CommandError(f"There is no backup: {error}") from error

    def _make(self, path: Path, *, as_json: bool) -> None:
        made = backup.make(path, by=actor(), progress=Counted(self.stderr))
        if as_json:
            shown = {"file": str(path), "bytes": made.size, "members": made.members, "oneInstant": made.is_one_instant}
            self.stdout.write(json.dumps(shown))
            return
        numbers = ", ".join(f"{number:,} {name}" for name, number in made.members.items())
        self.stdout.write(f"{printable(str(path))}: {numbers}. {made.size:,} bytes.")
        if not made.is_one_instant:
            self.stderr.write(
                "MongoDB is not a replica set, so letters that changed during the backup can be older or newer than "
                "others. Stop the roles during a backup, or use a replica set."
            )

    def _verify(self, path: Path, *, as_json: bool) -> None:
        archive = Archive(path)
        archive.verify()
        numbers = {name: member.lines for name, member in archive.members.items()}
        about = {name: archive.about.get(name) for name in ("madeAt", "version", "oneInstant")}
        if as_json:
            self.stdout.write(json.dumps({"file": str(path), **about, "members": numbers}))
        else:
            listed = ", ".join(f"{number:,} {name}" for name, number in numbers.items())
            self.stdout.write(printable(f"{path} is complete: {listed}. Made at {about['madeAt']}."))
