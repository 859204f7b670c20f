"""Hides what looks like a secret: by the names of keys in JSON, by ``name=value`` in texts. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dlq_app.errors import PolicyError

MASK = "•••"
FILE = "masking.toml"
_NOT_ALNUM = re.compile(r"[^a-z0-9]")
_NAME = re.compile(r"[a-z0-9]{2,64}\Z")
#: Names of keys, and their length, that are remembered as secret or not.
_KEPT_NAMES, _KEPT_LENGTH = 2000, 100


@dataclass(frozen=True)
class MaskingPolicy:
    """Which keys hide their values. Names are compared in lower case, without ``-``, ``_`` and other signs."""

    #: A key is secret when its name contains one of these …
    contains: tuple[str, ...] = (
        "password",
        "passwd",
        "secret",
        "token",
        "authorization",
        "apikey",
        "credential",
        "privatekey",
    )
    #: … or is exactly one of these.
    exact: frozenset[str] = field(default_factory=lambda: frozenset({"pin", "cvc", "cvv", "pwd", "auth", "cookie"}))

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> MaskingPolicy:
        """The policy in a parsed ``masking.toml``; raises ``PolicyError`` naming key, value and what is accepted."""
        for key, names in raw.items():
            if key not in ("contains", "exact"):
                raise PolicyError(f"{FILE}: {key} = {names!r}: unknown key; accepted: contains, exact")
            if not isinstance(names, list | tuple) or not all(isinstance(n, str) and _NAME.match(n) for n in names):
                accepted = "a list of names of 2 to 64 lower-case letters or digits"
                raise PolicyError(f"{FILE}: {key} = {names!r}: value not allowed; accepted: {accepted}")
        default = cls()
        return cls(tuple(raw.get("contains", default.contains)), frozenset(raw.get("exact", default.exact)))

    def is_secret(self, key: str) -> bool:
        """Whether the value of a key with this name is hidden."""
        known = self._known.get(key)
        if known is None:
            name = _NOT_ALNUM.sub("", key.lower())
            known = name in self.exact or any(part in name for part in self.contains)
            # Letters share their keys; what a client invents must not fill the memory.
            if len(key) <= _KEPT_LENGTH:
                if len(self._known) >= _KEPT_NAMES:
                    self._known.clear()
                self._known[key] = known
        return known

    @cached_property
    def _known(self) -> dict[str, bool]:
        return {}

    def may_show(self, text: str) -> bool:
        """Whether ``mask_text`` may find something: a quick look that never misses, and is often enough."""
        if ":" not in text and "=" not in text:
            return False
        if not text.isascii():
            return True  # other letters may count as the same without regard to case
        squeezed = text.lower().replace("_", "").replace("-", "").replace(" ", "")
        return any(name in squeezed for name in self.contains)

    @cached_property
    def _in_text(self) -> re.Pattern[str]:
        # Between the letters of a name the signs that comparing keys ignores may stand: api_key, Api-Key.
        names = [r"[-_ ]?".join(name) for name in self.contains]
        return re.compile(
            rf"(?i)((?:{'|'.join(names)})[\w-]{{0,40}}[\"']?[ \t]{{0,3}}[:=][ \t]{{0,3}})"
            r"(\"[^\"\n]{0,4000}\"|'[^'\n]{0,4000}'"
            r"|(?:(?:bearer|basic|api-key|token)[ \t]{1,3})?[^\s\"',;&)\]}]{1,4000})"
        )


def mask(value: Any, policy: MaskingPolicy, depth: int = 64) -> Any:
    """A copy of a JSON value in which the values of secret keys, whatever they are, read ``MASK``."""
    if depth == 0:
        return MASK
    if isinstance(value, str | int | float | None):
        return value
    if isinstance(value, Mapping):
        return {
            key: MASK if policy.is_secret(str(key)) and inner not in (None, "") else mask(inner, policy, depth - 1)
            for key, inner in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [mask(inner, policy, depth - 1) for inner in value]
    return value


def mask_text(text: str, policy: MaskingPolicy) -> str:
    """The text with the values of ``name=value``, ``name: value`` and ``"name": "value"`` hidden for secret names."""
    if not policy.may_show(text):
        return text
    return policy._in_text.sub(lambda found: _hidden(found[1], found[2]), text)


class _Repeated(Exception):
    """An object gives a key twice."""


def mask_json(text: str, policy: MaskingPolicy) -> str:
    """JSON text with secret values hidden, all others as they were written; text that is no JSON is masked as text."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
        if mask(value, policy) == value:
            return text
    except _Repeated:
        pass  # Python would keep only the last of them, and nobody could tell whether another one was a secret
    except (ValueError, RecursionError):
        return mask_text(text, policy)
    # Slower: keeps every digit and every key.
    from dlq_app import payload

    try:
        node = payload.parse(text)
    except payload.NotJson:
        # Nested deeper than intake accepts.
        return json.dumps(mask(json.loads(text), policy), ensure_ascii=False)
    hidden = payload.masked(node, policy)
    return text if hidden == node else payload.written(hidden)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Repeated
    return found


def _hidden(name: str, value: str) -> str:
    quote = value[0] if value[:1] in "\"'" else ""
    return f"{name}{quote}{MASK}{quote}"
