"""What can go wrong in a handler: error types, their kinds, and the one table that classifies exceptions."""

from __future__ import annotations

from enum import StrEnum


class ErrorKind(StrEnum):
    """Whether trying again can help; ``unknown`` needs a person in the end."""

    TRANSIENT = "transient"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"
