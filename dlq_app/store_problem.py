"""One thing that is wrong with a part of the system, with its fix: what health, the console and doctor show. Pure."""

from __future__ import annotations

from dataclasses import dataclass


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
