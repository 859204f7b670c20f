"""The Lua scripts of messages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial

from wire import scripts
from wire.scripts import CLOCK, Script

load_scripts = partial(scripts.load_scripts, "messages_app")


@cache
def shipped() -> Mapping[str, Script]:
    """The scripts as they are, read once."""
    return load_scripts()


__all__ = ["CLOCK", "Script", "load_scripts", "shipped"]
