"""Buttons of the console."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One button, or why it is locked."""

    name: str
    label: str
    icon: str
    url: str = ""
    hint: str = ""
    #: Reason why it is locked; empty if it may be pressed.
    locked: str = ""
    is_primary: bool = False
    is_danger: bool = False
