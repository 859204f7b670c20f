"""The ledger's Lua scripts: read from the package, put together with the parts they share, named by their digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_USE = re.compile(r"^--@use (.+)$", re.MULTILINE)
#: Around the lines that ask the server for its time. Tests put a clock of their own here; production has no way to.
CLOCK = re.compile(r"^--@TIME$.*?^--@END$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Script:
    name: str
    source: str
    sha: str


def load_scripts(change: Callable[[str, str], str] | None = None) -> Mapping[str, Script]:
    """Every script by name. ``change(name, source)`` may rewrite a finished source: for tests only.

    ``--@use a b`` stands for the parts ``shared/a.lua`` and ``shared/b.lua``: what a wake-up is, is said once.
    """
    folder = files("messages_app").joinpath("lua")
    shared = {
        part.name.removesuffix(".lua"): part.read_text(encoding="utf-8")
        for part in folder.joinpath("shared").iterdir()
        if part.name.endswith(".lua")
    }
    scripts = {}
    for entry in folder.iterdir():
        if not entry.name.endswith(".lua"):
            continue
        name = entry.name.removesuffix(".lua")
        source = _USE.sub(
            lambda use: "".join(shared[part] for part in use[1].split()), entry.read_text(encoding="utf-8")
        )
        if change is not None:
            source = change(name, source)
        # Redis names a script by its SHA-1; nothing is protected by it.
        scripts[name] = Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return scripts


@cache
def shipped() -> Mapping[str, Script]:
    """The scripts as they are, read once."""
    return load_scripts()
