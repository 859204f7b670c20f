"""Bring dead letters in from a file."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from typing import Any

from django.core.management.base import CommandError, CommandParser

from dlq_app.rest.contract import IMPORT_SUMMARY
from dlq_app.services import importing
from dlq_app.services.importing import Summary
from management import terminal
from wire.errors import ServiceError

_TELL_EVERY_S = 2.0
_TOLD = 20


class Command(terminal.StrictCommand):
    help = (
        "Import the JSON lines of an export. Existing letters are not changed, so the same file can be "
        "imported again. Exit 0: every letter of a complete file is imported; 2: lines were rejected, or the file is "
        "incomplete; 1: a store or the file is unavailable: import it again."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", metavar="FILE", help="or - for standard input")
        parser.add_argument(
            "--without-end", action="store_true", help="the file has no last line that confirms that it is complete"
        )
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        self._told_at = time.monotonic()
        name = options["file"]
        try:
            # The context closes it; standard input is not ours to close.
            source = nullcontext(sys.stdin.buffer) if name == "-" else open(name, "rb")  # noqa: SIM115
            with source as file:
                summary = importing.import_lines(file.read, actor=terminal.actor(), progress=self._progress)
        except OSError as error:
            raise CommandError(f"{name}: {error.strerror or error}") from error
        except ServiceError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(IMPORT_SUMMARY.write(summary)))
        else:
            self.stdout.write(f"{summary}.")
            for line, why in summary.errors[:_TOLD]:
                self.stderr.write(f"line {line}: {terminal.printable(why)}")
            if summary.refused > _TOLD:
                self.stderr.write(f"… and {summary.refused - _TOLD} more")
        trouble = self._trouble(summary, without_end=options["without_end"])
        if trouble:
            raise CommandError(trouble, returncode=2)

    def _trouble(self, summary: Summary, *, without_end: bool) -> str:
        if summary.complete is False:
            return "The file is incomplete: its last line has another number of letters, or reports missing ones."
        if summary.complete is None and not without_end:
            return "The file has no last line, so part of it may be missing. If it is complete, use --without-end."
        return f"{summary.refused} lines were rejected." if summary.refused else ""

    def _progress(self, summary: Summary) -> None:
        if time.monotonic() - self._told_at >= _TELL_EVERY_S and self.stderr.isatty():
            self._told_at = time.monotonic()
            self.stderr.write(f"line {summary.lines}: {summary} …")
