"""The version, read from the first heading of ``CHANGELOG.md`` so that it is written down in one place."""

from __future__ import annotations

import re
from pathlib import Path

_HEADING = re.compile(r"^##\s+v?(\d+\.\d+\.\d+\S*)", re.MULTILINE)


def read_version(changelog: Path) -> str:
    """The newest released version, ``0.0.0`` when the file is missing or names none."""
    try:
        found = _HEADING.search(changelog.read_text(encoding="utf-8"))
    except OSError:
        return "0.0.0"  # an image without the file still has to start
    return found[1] if found else "0.0.0"


VERSION = read_version(Path(__file__).resolve().parent.parent / "CHANGELOG.md")
