"""Who sits at the terminal, what may be written on it, and how a command says that it was called wrongly."""

from __future__ import annotations

import getpass
import sys
import time
from typing import Any, NoReturn, Protocol

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from management.elsewhere import stack_elsewhere
from wire.errors import ServiceError
from wire.visible_text import one_line


class _Out(Protocol):
    """A command's own stream, or any other."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class _Terminal(_Out, Protocol):
    def isatty(self) -> bool: ...


#: Seconds between two lines about the progress of a command.
_PROGRESS_EVERY_S = 2.0


class Counted:
    """Shows on a terminal how many things a command has handled: at most one line every two seconds."""

    def __init__(self, out: _Terminal) -> None:
        self._out = out
        self._shown_at = time.monotonic()

    def __call__(self, what: str, number: int) -> None:
        if time.monotonic() - self._shown_at >= _PROGRESS_EVERY_S and self._out.isatty():
            self._shown_at = time.monotonic()
            self._out.write(f"{number:,} {what} …")


class StrictCommand(BaseCommand):
    """A command that ends with 1 when its flags are wrong: argparse's own 2 means here that something was left out.

    If a store is not responding because ``DATA_DIR`` is not that of the running stack, its error adds the fix.
    """

    def execute(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute(*args, **options)
        except CommandError as error:
            cause = error.__cause__
            hint = stack_elsewhere() if isinstance(cause, ServiceError) and cause.status == 503 else ""
            if not hint:
                raise
            raise CommandError(f"{error} {hint}", returncode=error.returncode) from cause

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        leave = parser.exit

        def exit_(status: int = 0, message: str | None = None) -> NoReturn:
            leave(1 if status else 0, message)

        parser.exit = exit_  # type: ignore[method-assign]
        return parser


def actor() -> str:
    """Who gives the order, as histories and audits name them: ``cli:NAME``, by ``OPERATOR`` or the system's user."""
    if name := one_line(settings.OPERATOR.strip())[:150]:
        return f"cli:{name}"
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        # A container's user may have no name.
        return "cli"


def printable(text: str) -> str:
    """``text`` on one line of a terminal, with everything that is not seen or could steer it written out."""
    return one_line(text)


def can_ask() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def says_yes(question: str, out: _Out) -> bool:
    """Ask ``question`` on ``out``; True only for ``y`` or ``yes``. End of input is a no."""
    out.write(f"{question} [y/N] ")
    out.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
