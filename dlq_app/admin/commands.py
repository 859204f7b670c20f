"""Lines to copy: what a page does, as a command and as a request. A shell can read no other meaning into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from wire.visible_text import json_text, shell_word

_WIDTH = 66
_KEY = '-H "Authorization: Api-Key $KEY"'


def manage(command: str, flags: Sequence[str] = (), ids: Sequence[str] = ()) -> str:
    """``manage.py command`` with flags that are quoted already, then ``--`` and ids: none is ever read as a flag."""
    operands = ["--", *map(shell_word, ids)] if ids else []
    return _wrapped([f"manage.py {command}", *flags, *operands])


def curl(url: str, body: Mapping[str, Any] | None = None, *, method: str = "GET") -> str:
    """A request with the key in ``$KEY``. Percent-encode what comes into ``url`` with ``path``."""
    parts = ["curl" if method == "GET" else f"curl -X {method}", _KEY]
    line = " ".join(parts) + " \\\n"
    if body is not None:
        line += f"  -H 'Content-Type: application/json' -d {shell_word(json_text(body))} \\\n"
    return f"{line}  {shell_word(url)}"


def path(*segments: str) -> str:
    """Segments of an address, none of which can be more than one."""
    return "/".join(quote(segment, safe="") for segment in segments)


def _wrapped(parts: Sequence[str]) -> str:
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > _WIDTH:
            lines[-1] += " \\"
            lines.append(f"  {part}")
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)
