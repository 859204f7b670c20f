"""Durations in words."""

from __future__ import annotations


def took(seconds: float) -> str:
    """``32 min``, ``4 h 12 min``, ``3 d 4 h``."""
    whole = max(int(seconds), 0)
    for unit, size, below, below_size in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60)):
        if whole >= size:
            rest = whole % size // below_size
            return f"{whole // size} {unit} {rest} {below}" if rest else f"{whole // size} {unit}"
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"
