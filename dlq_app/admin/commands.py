"""Commands to copy: the action of a page for manage.py and for curl, quoted for the shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from wire.visible_text import json_text, shell_word

_WIDTH = 66
_KEY = '-H "Authorization: Api-Key $KEY"'


def manage(command: str, flags: Sequence[str] = (), ids: Sequence[str] = ()) -> str:
    """``manage.py command`` with quoted flags, then ``--`` and ids, which are never parsed as flags."""
    operands = ["--", *map(shell_word, ids)] if ids else []
    return _wrapped([f"manage.py {command}", *flags, *operands])


def curl(url: str, body: Mapping[str, Any] | None = None, *, method: str = "GET") -> str:
    """A request with the key in ``$KEY``. Percent-encode parts of ``url`` with ``path``."""
    parts = ["curl" if method == "GET" else f"curl -X {method}", _KEY]
    line = " ".join(parts) + " \\\n"
    if body is not None:
        line += f"  -H 'Content-Type: application/json' -d {shell_word(json_text(body))} \\\n"
    return f"{line}  {shell_word(url)}"


def path(*segments: str) -> str:
    """Percent-encoded path segments; a value never becomes two segments."""
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
