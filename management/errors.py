"""What may go wrong with the local stack, each said in one line that names the way out."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot run. The message is one line for the person at the terminal."""


class Stopped(Exception):
    """The stack was stopped during its start."""
