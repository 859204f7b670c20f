"""Policy files: the shipped ones, and those of ``POLICY_DIR``, which replace them by name."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

BASE = Path(__file__).resolve().parent.parent
SHIPPED = Path(__file__).resolve().parent / "policies"


class PolicyFileError(ImproperlyConfigured):
    """A policy file or ``POLICY_DIR`` cannot be used. No process starts: defaults in its place would look fine."""


class PolicyFiles:
    """Finds and reads policy files. ``directory`` is ``POLICY_DIR``; empty: only the shipped files.

    Raises ``PolicyFileError`` for a directory that cannot be read, and for an unknown file in it.
    """

    def __init__(self, directory: str, *, base: Path = BASE, shipped: Path = SHIPPED) -> None:
        self._base = base
        self._shipped = shipped
        #: Names of all policies, such as ``retry``.
        self.names = sorted(path.stem for path in shipped.glob("*.toml"))
        #: Files of ``POLICY_DIR``, by name of the policy.
        self.own: dict[str, Path] = {}
        self.directory = base / directory if directory else None
        if self.directory:
            self._look_into(self.directory)

    def _look_into(self, folder: Path) -> None:
        known = [f"{name}.toml" for name in self.names]
        try:
            # Hidden ones are not ours: Kubernetes mounts a ConfigMap with `..data` beside the files.
            found = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        except OSError as error:
            raise PolicyFileError(f"POLICY_DIR: {folder} cannot be read: {error.strerror}") from error
        for name in found:
            if name in known:
                self.own[name.removesuffix(".toml")] = folder / name
            else:
                close = get_close_matches(name, known, 1)
                guess = f" Did you mean {close[0]}?" if close else ""
                raise PolicyFileError(
                    f"POLICY_DIR: {folder / name} is not a policy file.{guess} Allowed names: {', '.join(known)}"
                )

    def file(self, name: str) -> str:
        """The file that defines a policy, as errors name it: in ``POLICY_DIR`` if it is there, else the shipped one."""
        own = self.own.get(name)
        return str(own) if own else _shown(self._shipped / f"{name}.toml", self._base)

    def read(self, name: str) -> dict[str, Any]:
        """The parsed policy; empty if a shipped file is missing. Raises ``PolicyFileError`` if it cannot be read."""
        file = self.file(name)
        if name not in self.own and not (self._base / file).exists():
            return {}
        found, problem = self.read_file(file)
        if problem:
            raise PolicyFileError(problem)
        return found

    def read_file(self, file: str) -> tuple[dict[str, Any], str]:
        """The parsed file, and what is wrong with it. A relative path starts at the project."""
        try:
            return tomllib.loads((self._base / file).read_text(encoding="utf-8")), ""
        except (OSError, ValueError) as error:
            return {}, f"{file} cannot be read: {error}"


def _shown(path: Path, base: Path) -> str:
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
