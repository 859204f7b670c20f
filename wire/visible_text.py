"""Show text from outside without invisible characters: on pages, terminals, in logs, JSON and shells.

All of them use one list of characters, so a text looks the same everywhere.
"""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

#: Invisible characters, and those that change how others are shown, except tab, line feed and carriage return.
#: Format and private-use characters, every space but U+0020, line and paragraph separators, half surrogates, variation
#: selectors, fillers that are letters or symbols for Unicode but blank on the screen, and unassigned code points that
#: Unicode reserves for more of the same.
_UNSEEN_RANGES = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680"
    "\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\uf8ff\ufdd0-\ufdef"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U00016fe4"
    "\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
_UNSEEN = re.compile(f"[{_UNSEEN_RANGES}]")
_UNSEEN_IN_LINE = re.compile(f"[{_UNSEEN_RANGES}\t\n\r]")
_BREAKS = re.compile(r"[\t\n\r]+")


def visible(text: str) -> str:
    r"""The text with unseen characters written as ``\u202e`` or ``\U000e0067``; line breaks and tabs stay.

    >>> visible("order\u202e17")
    'order\\u202e17'
    """
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_escape, text)


def without_unseen(text: str) -> str:
    """The text without unseen characters."""
    return _UNSEEN.sub("", text)


def one_line(text: str) -> str:
    """``visible`` text for one line of a terminal or a table: line breaks and tabs become a space."""
    return visible(_BREAKS.sub(" ", text))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON of ``value`` with each unseen character as a JSON escape."""
    return json_visible(json.dumps(value, ensure_ascii=False, indent=indent))


def json_visible(text: str) -> str:
    """The JSON text with each unseen character as a JSON escape."""
    return _UNSEEN.sub(_json_escape, text)


def shell_word(text: str) -> str:
    r"""Quote ``text`` as one argument of any POSIX shell.

    Unseen characters and line breaks are written in octal for ``printf``: a terminal that the line is pasted into would
    obey them, and a reader would not see them. A line feed at the very end is lost, as command substitution strips it.

    >>> shell_word("it's $(id)")
    '\'it\'"\'"\'s $(id)\''
    >>> shell_word("a\u200db")
    '"$(printf \'a\\342\\200\\215b\')"'
    """
    if not _UNSEEN_IN_LINE.search(text):
        return shlex.quote(text)
    plain = text.replace("\\", "\\\\").replace("%", "%%")
    # Apostrophes in octal, too, so that the quotes around stay a pair, and a dash that would begin an option of printf.
    escaped = re.sub(r"^-", r"\\055", _UNSEEN_IN_LINE.sub(_octal, plain).replace("'", "\\047"))
    return f"\"$(printf '{escaped}')\""


def shell_flag(name: str, value: object) -> str:
    """``--name value`` for a shell. A value that begins with a dash is joined by ``=``: it would be read as a flag."""
    text = str(value)
    return f"{name}{'=' if text.startswith('-') else ' '}{shell_word(text)}"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f"


def _octal(found: re.Match[str]) -> str:
    return "".join(f"\\{byte:03o}" for byte in found[0].encode("utf-8", "surrogatepass"))
