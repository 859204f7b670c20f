"""How the console writes what senders wrote."""

from __future__ import annotations

from typing import Any

from django import template

from wire import visible_text

register = template.Library()


@register.filter
def visible(value: Any) -> str:
    """The text with characters that nobody sees, or that turn the direction of what follows, written as ``\\u202e``."""
    return visible_text.visible(str(value))


@register.filter
def shell(value: Any) -> str:
    """The text as one argument of a command that is shown to be copied."""
    return visible_text.shell_word(str(value))
