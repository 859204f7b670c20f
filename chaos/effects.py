"""The effects file: one line for each run of a handler that reached its end."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

#: Environment variable with the path of the file.
FILE_VARIABLE = "CHAOS_EFFECTS"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: of the first epoch if ``replay`` is empty, else of that replay. ``attempt`` counts from 1."""

    replay: str
    attempt: int
    succeeded: bool


def line(message_id: str, replay: str | None, attempt: int, *, succeeded: bool) -> bytes:
    return f"{message_id} {replay or '-'} {attempt} {'ok' if succeeded else 'failed'}\n".encode()


def read(path: Path) -> dict[str, list[Run]]:
    """All runs by message id, in the order in which they ended. No file: no runs."""
    found: dict[str, list[Run]] = defaultdict(list)
    if path.is_file():
        for text in path.read_text().splitlines():
            message_id, replay, attempt, outcome = text.split(" ")
            found[message_id].append(Run("" if replay == "-" else replay, int(attempt), outcome == "ok"))
    return found
