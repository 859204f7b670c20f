"""Running a command as an operator does, in this process."""

from __future__ import annotations

from io import StringIO

from django.core.management import call_command


def run(*line: str) -> str:
    """What a command prints, errors left out; raises what it raises."""
    out = StringIO()
    call_command(*line, stdout=out, stderr=StringIO())
    return out.getvalue()
