"""One thing that is wrong with a part of the system, with its fix: what health, the console and doctor show. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Free bytes below which a disk is nearly full, and full: stores need a few MB to start and to close their files.
LOW_DISK = 256 * 1024**2
FULL_DISK = 16 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreProblem:
    """A state in which a part cannot do all of its work."""

    #: The part: ``redis``, ``mongodb``, ``database``, ``disk`` or ``workers``.
    part: str
    #: Tells problems of one part apart. Two sources that find the same thing use the same code.
    code: str
    #: A sentence that names the state.
    what: str
    #: A sentence that says what to do.
    fix: str
    #: Whether the part does not do its work at all; else something is at risk, or soon will be.
    stops: bool = False


def disk_problems(part: str, disk: str, free: float, consequence: str) -> Iterator[StoreProblem]:
    """A disk with little room left, or with none. ``disk`` begins a sentence."""
    if free < FULL_DISK:
        yield StoreProblem(part=part, code="disk_full", what=f"{disk} is full. {consequence}", fix="Make room on it.")
    elif free < LOW_DISK:
        yield StoreProblem(
            part=part,
            code="disk_low",
            what=f"{disk} has only {free / 1024**2:.0f} MB left. {consequence}",
            fix="Make room on it.",
        )
