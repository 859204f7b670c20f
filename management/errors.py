"""Errors of the local stack. Each message is one line that says what to do."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot run. The message is one line for the person at the terminal."""


class Stopped(Exception):
    """The stack was stopped during its start."""
