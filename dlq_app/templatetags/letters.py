"""How the console writes what senders wrote."""

from __future__ import annotations

from typing import Any

from django import template

from dlq_app.admin import tree

register = template.Library()


@register.filter
def visible(value: Any) -> str:
    """The text with characters that nobody sees, or that turn the direction of what follows, written as ``\\u202e``."""
    return tree.visible(str(value))
