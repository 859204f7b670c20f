"""What others wrote and we ship is what the manifest says, with its licence."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
MANIFEST = ROOT / "static/vendor/manifest.json"
FILES = json.loads(MANIFEST.read_text())["files"]


@pytest.mark.parametrize("entry", FILES, ids=lambda entry: Path(entry["file"]).name)
def test_a_vendored_file_is_the_one_that_was_looked_at(entry: dict[str, str]) -> None:
    raw = (ROOT / entry["file"]).read_bytes()

    assert hashlib.sha256(raw).hexdigest() == entry["sha256"]
    # It names a file that is not shipped, at which collecting static files with hashed names stops.
    assert b"sourceMappingURL" not in raw
    folder = (ROOT / entry["file"]).parent
    stem = Path(entry["file"]).name.partition(".")[0]
    assert (folder / f"{stem}.LICENSE").read_text().strip()


def test_nothing_is_vendored_that_the_manifest_does_not_name() -> None:
    shipped = {path.name for path in MANIFEST.parent.iterdir() if path.suffix in (".js", ".css")}

    assert shipped == {Path(entry["file"]).name for entry in FILES if entry["file"].startswith("static/")}
