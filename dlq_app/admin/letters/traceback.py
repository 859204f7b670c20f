"""Readable traceback: the application's frames first, innermost on top; library frames are summarised. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dlq_app.domain.fingerprint import Frame

_FRAME = re.compile(r'[ \t|+]*File "(?P<file>[^"\n]{1,500})", line (?P<line>\d{1,9}), in (?P<function>[^\n]{1,200})\Z')
_PACKAGE = re.compile(r"(?:site|dist)-packages/([^/.]+)")
_MAX_SOURCE = 500
_MAX_FRAMES = 200


@dataclass(frozen=True, slots=True)
class Shown:
    """A frame and its line of code, if known."""

    frame: Frame
    source: str


@dataclass(frozen=True, slots=True)
class Stack:
    """The frames of a traceback, innermost first; empty if the text is not a traceback."""

    own: Sequence[Shown]
    libraries: Sequence[Shown]
    #: ``httpx 8, httpcore 5``.
    library_names: str


def stack(text: str) -> Stack:
    """Parse a traceback; chained exceptions are joined in order."""
    found: list[Shown] = []
    for line in text.splitlines():
        matched = _FRAME.match(line)
        if matched:
            frame = Frame(matched["file"], int(matched["line"]), matched["function"])
            found.append(Shown(frame, ""))
        elif found and not found[-1].source and line.startswith(("    ", "\t", "  |")) and not _is_marker(line):
            found[-1] = Shown(found[-1].frame, line.strip()[:_MAX_SOURCE])
    found = found[-_MAX_FRAMES:][::-1]
    libraries = [shown for shown in found if not shown.frame.is_application]
    names = Counter(_package(shown.frame.file) for shown in libraries)
    return Stack(
        own=[shown for shown in found if shown.frame.is_application],
        libraries=libraries,
        library_names=", ".join(f"{name} {count}" for name, count in names.most_common(5)),
    )


def _is_marker(line: str) -> bool:
    """Marker line ``^^^^^^`` below code."""
    return not line.strip(" ^~|+-\t")


def _package(file: str) -> str:
    found = _PACKAGE.search(file.replace("\\", "/"))
    return found[1] if found else "python"
