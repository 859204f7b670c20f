"""The diff between an edited payload and the original, with a bounded amount of work."""

from __future__ import annotations

import difflib
import json
import re
from typing import Final

#: Maximum characters of a diff.
MAX_DIFF: Final = 64 * 1024
#: Maximum lines of either payload that are compared. The worst case takes their square: about 0.1 s.
MAX_COMPARED: Final = 1000
_CONTEXT = 3
_HUNK = re.compile(r"@@ -(\d+)(.*) \+(\d+)(.*) @@")


def diff(before: str, after: str) -> str:
    """Unified diff of two payloads, each formatted as indented JSON.

    Compares ``MAX_COMPARED`` lines from the first difference on, and returns at most ``MAX_DIFF`` characters. A last
    line that begins with a backslash marks a diff that was cut.
    """
    old, new = _laid_out(before), _laid_out(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    skipped = max(0, start - _CONTEXT)
    shown_old = old[skipped : len(old) - end + _CONTEXT if end > _CONTEXT else len(old)]
    shown_new = new[skipped : len(new) - end + _CONTEXT if end > _CONTEXT else len(new)]
    rest = max(len(shown_old), len(shown_new)) - MAX_COMPARED
    lines = list(
        difflib.unified_diff(
            shown_old[:MAX_COMPARED],
            shown_new[:MAX_COMPARED],
            fromfile="original",
            tofile="edited",
            lineterm="",
            n=_CONTEXT,
        )
    )
    text = "\n".join(_HUNK.sub(lambda found: _shifted(found, skipped), line, count=1) for line in lines)
    if rest > 0:
        cut = f"\\ Cut: the {rest} lines from line {skipped + MAX_COMPARED + 1} on are not compared."
    elif len(text) > MAX_DIFF:
        cut = f"\\ Cut: the difference has {len(text)} characters."
    else:
        return text
    whole_lines = text[: MAX_DIFF - len(cut) - 1]
    if len(whole_lines) < len(text):
        whole_lines = whole_lines.rpartition("\n")[0] or whole_lines
    return f"{whole_lines}\n{cut}"


def _common(old: list[str], new: list[str]) -> int:
    """Number of equal lines at the beginning of both."""
    for at, (one, other) in enumerate(zip(old, new, strict=False)):
        if one != other:
            return at
    return min(len(old), len(new))


def _shifted(hunk: re.Match[str], by: int) -> str:
    """The header of a hunk with the line numbers of the whole payload. No line of a payload looks like a header."""
    return f"@@ -{int(hunk[1]) + by}{hunk[2]} +{int(hunk[3]) + by}{hunk[4]} @@"


def _laid_out(text: str) -> list[str]:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
    except (ValueError, RecursionError):
        return text.splitlines()
