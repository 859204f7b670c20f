"""The licence of this project, and that those of its packages allow it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from django.conf import settings

ROOT = Path(settings.BASE_DIR)
#: Parts of licence names. A package must have one of the first kind; the second kind alone is refused.
ALLOWED = ("MIT", "BSD", "Apache", "ISC", "PSF", "MPL", "Mozilla", "LGPL")
FORBIDDEN = re.compile(r"(?<!L)GPL|AGPL|SSPL|Commons Clause|BUSL|Non-?Commercial", re.IGNORECASE)


def packages() -> list[str]:
    """Every package of the runtime environment."""
    return re.findall(r"^([\w.-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)


def licence_of(package: str) -> str:
    """What the package says about itself; empty if it is not installed on this Python."""
    try:
        found: Any = metadata(package)
    except PackageNotFoundError:
        return ""
    named = [one.rpartition(" :: ")[2] for one in found.get_all("Classifier") or () if one.startswith("License")]
    return found.get("License-Expression") or "; ".join(named) or str(found.get("License") or "").partition("\n")[0]


def test_no_package_forbids_the_licence_of_this_project() -> None:
    found = {package: licence_of(package) for package in packages()}
    installed = {package: licence for package, licence in found.items() if licence}

    assert len(installed) > 40
    assert {name: one for name, one in installed.items() if not any(word in one for word in ALLOWED)} == {}
    assert {name: one for name, one in installed.items() if FORBIDDEN.search(one)} == {}


def test_every_package_is_in_the_table_of_its_licence() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("### Licences of packages")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in page.splitlines() if line.startswith("| ")]
    table = {re.sub(r" \(.*\)", "", name): licence for licence, names in rows[2:] for name in names.split(", ")}

    assert set(table) == set(packages())
    for word in ("MPL", "LGPL"):
        named = {name for name in packages() if word in licence_of(name)}
        assert named <= {name for name, licence in table.items() if word in licence}


def test_the_licence_is_named_where_tools_look_for_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert (project["license"], project["license-files"]) == ("MIT", ["LICENSE"])
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")
    assert "[MIT](LICENSE)" in (ROOT / "README.md").read_text(encoding="utf-8")
