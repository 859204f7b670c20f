"""Errors of the local stack and of backups. Each message is one line that says what to do."""

from __future__ import annotations


class StackError(Exception):
    """The stack cannot run. The message is one line for the person at the terminal."""


class Stopped(Exception):
    """The stack was stopped during its start."""


class ArchiveDamaged(Exception):
    """A file is no complete backup. The message names the file and the damaged member."""


class RestoreRefused(Exception):
    """A backup cannot be restored here. The message gives the reason and what to do; nothing was changed."""
