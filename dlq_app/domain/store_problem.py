"""A problem of one part of the system, with its fix, as health, the console and doctor show it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Free bytes below which a disk counts as nearly full, and as full: stores need a few MB to start and to stop.
LOW_DISK = 256 * 1024**2
FULL_DISK = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProblem:
    """A state in which a part cannot do all its work, or soon cannot."""

    #: The part: ``redis``, ``mongodb``, ``database``, ``disk`` or ``workers``.
    part: str
    #: Identifies the problem within its part. Two sources that find the same problem use the same code.
    code: str
    #: A sentence that describes the problem.
    what: str
    #: A sentence with the fix.
    fix: str
    #: True: the part does not work at all. False: something is at risk, or soon will be.
    stops: bool = False


def disk_problems(part: str, disk: str, free: float, consequence: str) -> Iterator[StoreProblem]:
    """The problem of a disk that is full or nearly full. ``disk`` begins a sentence."""
    if free < FULL_DISK:
        yield StoreProblem(part=part, code="disk_full", what=f"{disk} is full. {consequence}", fix="Free space on it.")
    elif free < LOW_DISK:
        yield StoreProblem(
            part=part,
            code="disk_low",
            what=f"{disk} has only {free / 1024**2:.0f} MB left. {consequence}",
            fix="Free space on it.",
        )
