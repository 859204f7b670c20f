"""Lua scripts for Redis: read from an app's package, assembled from shared parts, named by their digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files

_USE = re.compile(r"^--@use (.+)$", re.MULTILINE)
#: The lines that ask the server for its time. Tests replace them by a clock of their own.
CLOCK = re.compile(r"^--@TIME$.*?^--@END$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    source: str
    sha: str


def read_sources(package: str) -> dict[str, str]:
    """The files of a package's folder ``lua`` by name; shared parts as ``shared/NAME``."""
    folder = files(package).joinpath("lua")
    return {
        f"{prefix}{entry.name.removesuffix('.lua')}": entry.read_text(encoding="utf-8")
        for prefix, place in (("", folder), ("shared/", folder.joinpath("shared")))
        for entry in place.iterdir()
        if entry.name.endswith(".lua")
    }


def load_scripts(package: str, change: Callable[[str, str], str] | None = None) -> Mapping[str, Script]:
    """The scripts of a package by name. ``change(name, source)`` may rewrite an assembled source.

    A line ``--@use a b`` is replaced by the parts ``shared/a.lua`` and ``shared/b.lua``.
    """
    sources = read_sources(package)
    scripts = {}
    for name, text in sources.items():
        if "/" in name:
            continue
        source = _USE.sub(lambda use: "".join(sources[f"shared/{part}"] for part in use[1].split()), text)
        if change is not None:
            source = change(name, source)
        # Redis names a script by its SHA-1; nothing is protected by it.
        scripts[name] = Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return scripts
