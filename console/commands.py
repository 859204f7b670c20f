"""Commands to copy: the action of a page for manage.py and for curl, quoted for the shell.

A line runs as it is copied, in any folder. If the reason is not known, the line takes it from the variable ``REASON``,
and the shell does not run it without one: a placeholder would be stored as the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from django.conf import settings

from wire.visible_text import json_text, shell_flag, shell_word

_WIDTH = 66
_KEY = '-H "Authorization: Api-Key $KEY"'
#: The shell stops with this text if the variable is not set.
_REASON = '"${REASON:?set it to the reason}"'


def reason_flag(reason: str) -> str:
    """``--reason`` with the given reason, or with the variable ``REASON`` if it is empty."""
    return shell_flag("--reason", reason) if reason else f"--reason={_REASON}"


def manage(command: str, flags: Sequence[str] = (), ids: Sequence[str] = ()) -> str:
    """The command with quoted flags, then ``--`` and ids, which are never parsed as flags.

    The setting ``COMMAND_PREFIX`` is how commands are called on the hosts of this installation.
    """
    operands = ["--", *map(shell_word, ids)] if ids else []
    return _wrapped([f"{settings.COMMAND_PREFIX} {command}", *flags, *operands])


def curl(url: str, body: Mapping[str, Any] | None = None, *, method: str = "GET", asks: str = "") -> str:
    """A request with the key in ``$KEY``. Percent-encode parts of ``url`` with ``path``.

    ``asks``: a field of the body that the variable ``REASON`` gives.
    """
    parts = ["curl" if method == "GET" else f"curl -X {method}", _KEY]
    line = " ".join(parts) + " \\\n"
    if body is not None:
        data = shell_word(json_text(body))
        if asks:
            begin = json_text({**body, asks: ""}).removesuffix('"}')
            data = f"""{shell_word(begin)}{_REASON}'"}}'"""
        line += f"  -H 'Content-Type: application/json' -d {data} \\\n"
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
