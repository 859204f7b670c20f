"""Who sits at the terminal, and what may be written on it."""

from __future__ import annotations

import getpass
import sys
from typing import Protocol


class _Out(Protocol):
    """A command's own stream, or any other."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def actor() -> str:
    """Who gives the order, as histories and audits name them: ``cli:NAME``."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):
        # A container's user may have no name.
        return "cli"


def printable(text: str) -> str:
    """``text`` on one line of a terminal, without anything that could steer it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def can_ask() -> bool:
    """Whether a person can answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()


def says_yes(question: str, out: _Out) -> bool:
    """Ask ``question`` on ``out``; True only for ``y`` or ``yes``. End of input is a no."""
    out.write(f"{question} [y/N] ")
    out.flush()
    return sys.stdin.readline().strip().casefold() in ("y", "yes")
