"""Limits of what people write about letters and groups, the same over REST, in the console and in commands."""

from __future__ import annotations

from typing import Final

#: Characters of a reason.
MAX_REASON: Final = 2000
#: Characters of a note.
MAX_NOTE: Final = 4000
#: Letters an hour, or letters, that end the ignoring of a group.
MAX_NUMBER: Final = 1_000_000
