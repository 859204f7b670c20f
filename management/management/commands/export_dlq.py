"""Write dead letters to a file."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import Error as DatabaseError

from audit_app.lines import record
from dlq_app.services.exporting import FORMS, Export
from management import terminal
from management.filters import add_filter_arguments, criteria_from
from wire.errors import ServiceError

log = logging.getLogger(__name__)

_TELL_EVERY_S = 2.0
Write = Callable[[bytes], object]


class Command(terminal.StrictCommand):
    help = (
        "Write the matching dead letters, in order of message id, to a file or to standard output. "
        "Secrets are masked, and lines with masked values cannot be imported: a backup needs "
        "--reveal. Exit 0: all of them; 2: documents that are no letters were left out; 1: not all, and no file."
    )
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own attribute; `prepare` has checked

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--format", choices=list(FORMS), default="jsonl", help="jsonl unless given")
        parser.add_argument(
            "--output", metavar="FILE", help="readable by its owner only; it appears when it is complete"
        )
        parser.add_argument(
            "--reveal",
            action="store_true",
            help="do not mask secrets; needs --reason, and is recorded in the audit log",
        )
        parser.add_argument("--reason", default="", metavar="TEXT", help="why secrets are needed; only with --reveal")
        add_filter_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        criteria = criteria_from(options)
        reason = str(options["reason"]).strip()
        if bool(reason) != options["reveal"]:
            raise CommandError(
                '--reveal needs a --reason, and only --reveal takes one: --reveal --reason="INC-7, backup"'
            )
        export = Export(criteria, form=options["format"], reveal=options["reveal"])
        if export.reveal:
            self._record(criteria.as_text(), reason)
        try:
            if options["output"]:
                with whole_file(Path(options["output"])) as write:
                    self._write(export, write)
            else:
                self._write(export, _standard_output(self.stdout))
        except BrokenPipeError as error:
            # Standard output is closed again at exit, which would complain a second time.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise CommandError(f"The reader closed the pipe after {export.count} letters.") from error
        except OSError as error:
            raise CommandError(f"{options['output'] or 'standard output'}: {error.strerror or error}") from error
        except ServiceError as error:
            raise CommandError(f"Stopped after {export.count} letters: {error}") from error
        self.stderr.write(f"{export.count} letters written.", self.style.SUCCESS)
        if export.unreadable:
            raise CommandError(f"{export.unreadable} documents that are not letters were skipped.", returncode=2)

    def _record(self, which: str, reason: str) -> None:
        """Write down who exports secrets and why, before the first line leaves."""
        by = terminal.actor()
        log.warning("secrets_exported", extra={"by": by, "filter": which, "why": reason})
        try:
            record(by, "reveal letters", kind="deadletter", name="export", why=f"{which}: {reason}", must=True)
        except DatabaseError as error:
            told = "Nothing was exported: the audit log cannot be written. Start the database or run `prepare`."
            raise CommandError(told) from error

    def _write(self, export: Export, write: Write) -> None:
        told_at = time.monotonic()
        for chunk in export.chunks():
            write(chunk)
            if time.monotonic() - told_at >= _TELL_EVERY_S and self.stderr.isatty():
                told_at = time.monotonic()
                self.stderr.write(f"{export.count} …")


@contextmanager
def whole_file(path: Path) -> Iterator[Write]:
    """Write beside ``path`` and put it in its place at the end; when something goes wrong nothing is left."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _standard_output(stream: Any) -> Write:
    """Bytes to a command's stream; to its text where it was given one without bytes below."""
    below = getattr(getattr(stream, "_out", stream), "buffer", None)
    if below is not None:
        return lambda chunk: (below.write(chunk), below.flush())
    return lambda chunk: stream.write(chunk.decode(), ending="")
