"""Texts of notifications: plain, short, without markup that a chat or mail program would obey. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from wire.visible_text import one_line, without_unseen

MAX_TITLE = 150
MAX_LINE = 300
MAX_LINES = 40
#: Characters that Slack, Teams, Discord, Telegram or HTML interpret, with a plain replacement. Error texts are written
#: by clients: without this they could place links, mention all members, or imitate other parts of a message.
_MARKUP = str.maketrans("<>[]`|", "{}()'/") | {ord("@"): "(at)"}
#: Most programs make a link of this.
_LINK = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,15}):(?=//)")


def plain(text: str, limit: int = MAX_LINE) -> str:
    """External text for one line: no markup, no links, no control or invisible characters, at most ``limit`` long."""
    flat = without_unseen(one_line(text[: 4 * limit])).translate(_MARKUP)
    # "=?" begins an encoded word, which mail programs decode in a subject: into a link, for example.
    flat = " ".join(_LINK.sub(r"\1: ", flat).replace("=?", "= ?").split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A notification as it is sent."""

    id: str
    kind: str
    severity: str
    title: str
    text: str
    link: str = ""
    count: int = 1
    facts: dict[str, Any] = field(default_factory=dict)
    #: ISO 8601.
    at: str = ""


def text_of(lines: str, *, count: int, link: str) -> str:
    """The text below the title: what happened, how often, and where to look."""
    often = f"{count:,} events since the last notification about this." if count > 1 else ""
    return "\n".join(part for part in (lines, often, link) if part)
