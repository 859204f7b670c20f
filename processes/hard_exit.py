"""End a process without Python's exit handlers, but send its last spans and error reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NoReturn

log = logging.getLogger(__name__)

_acts: list[Callable[[], object]] = []


def before_hard_exit(act: Callable[[], object]) -> None:
    """Run ``act`` before a hard exit. It must end within seconds and be safe on any thread."""
    _acts.append(act)


def prepare() -> None:
    """Run what ``before_hard_exit`` was given."""
    for act in _acts:
        try:
            act()
        except Exception:
            log.exception("exit_act_failed")


def hard_exit(code: int) -> NoReturn:
    """Prepare, then end this process at once."""
    try:
        prepare()
    finally:
        os._exit(code)
