"""Hide secrets: values of JSON keys by their names, and secrets inside strings. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from dlq_app.domain import text_secrets
from dlq_app.domain.payload import Hidden, Node, NotJson, Object, parse, written
from wire.fields import list_of, matching
from wire.policy import read_table

MASK: Final = text_secrets.MASK
FILE = "masking.toml"
_NOT_ALNUM = re.compile(r"[^a-z0-9]")
_ACCEPTED = "a list of names of 2 to 64 lower-case letters or digits"
_names = list_of(matching(r"[a-z0-9]{2,64}", _ACCEPTED), 0, 1000, _ACCEPTED)
#: Maximum number of cached results for names of keys and short texts, and maximum length of these.
_KEPT_NAMES, _KEPT_LENGTH = 2000, 100
#: Letters of other alphabets that look like Latin ones in lower case.
_LOOKALIKES = str.maketrans(
    "авсԁеҽһіјкӏмнорԛгѕтуѵԝхүαβεηικνορτυχωγɑɡıɩȷʀ",
    "abcdeehijklmhopqrstyvwxyabenikvoptuxwyagiijr",
)
#: Keys of an object whose value is a name, and keys whose value belongs to that name.
_NAMING = frozenset({"name", "key", "field", "header", "param", "parameter", "variable", "attribute", "property"})
_VALUED = frozenset({"value", "val"})


@dataclass(frozen=True)
class MaskingPolicy:
    """Which keys hide their values. Names are compared as ``folded`` gives them."""

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
        found = read_table(raw, {"contains": _names, "exact": _names}, FILE)
        default = cls()
        return cls(found.get("contains", default.contains), frozenset(found.get("exact", default.exact)))

    def is_secret(self, key: str) -> bool:
        """Whether the value of a key with this name is hidden."""
        known = self._known.get(key)
        if known is None:
            name = folded(key)
            known = name in self.exact or any(part in name for part in self.contains)
            # Letters share their keys; keys that a client invents must not fill the memory.
            if len(key) <= _KEPT_LENGTH:
                if len(self._known) >= _KEPT_NAMES:
                    self._known.clear()
                self._known[key] = known
        return known

    @cached_property
    def _known(self) -> dict[str, bool]:
        return {}

    def may_show(self, text: str) -> bool:
        """Whether ``mask_text`` can find a secret: fast, and never False by mistake."""
        if text_secrets.may_hide(text):
            return True
        if not text_secrets.has_separator(text):
            return False
        if not text.isascii() or "\\u" in text:
            return True  # look-alike letters or escapes can spell a name
        squeezed = text.lower().replace("_", "").replace("-", "").replace(" ", "")
        return any(name in squeezed for name in self._names)

    @cached_property
    def _masked_texts(self) -> dict[str, str]:
        return {}

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return (*self.contains, *self.exact)


def folded(name: str) -> str:
    r"""The form in which names are compared: lower case, only letters and digits, look-alikes as Latin letters.

    >>> folded("X-Api-Key"), folded("P\u0430ssword")
    ('xapikey', 'password')
    """
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name).casefold().translate(_LOOKALIKES)
        name = "".join(sign for sign in unicodedata.normalize("NFD", name) if not unicodedata.combining(sign))
    return _NOT_ALNUM.sub("", name.lower())


def names_a_secret(pairs: Iterable[tuple[str, Any]], policy: MaskingPolicy) -> bool:
    """Whether an object such as ``{"name": "password", "value": …}`` names a secret in one field, its value in another.

    The value is then hidden in those keys for which ``holds_value`` is true.
    """
    return any(
        isinstance(inner, str) and len(inner) <= _KEPT_LENGTH and key.lower() in _NAMING and policy.is_secret(inner)
        for key, inner in pairs
    )


def holds_value(key: str) -> bool:
    """Whether the value of this key belongs to the name in another field."""
    return key.lower() in _VALUED


def is_named_pair(item: Sequence[Any], policy: MaskingPolicy) -> bool:
    """Whether an item of a list is a pair such as ``["Authorization", …]``."""
    return len(item) == 2 and isinstance(item[0], str) and len(item[0]) <= _KEPT_LENGTH and policy.is_secret(item[0])


def mask(value: Any, policy: MaskingPolicy, depth: int = 64) -> Any:
    """A copy of a JSON value: ``MASK`` instead of the values of secret keys, strings masked by ``mask_text``."""
    if depth == 0:
        return MASK
    if isinstance(value, str):
        return mask_text(value, policy)
    if isinstance(value, int | float | None):
        return value
    if isinstance(value, Mapping):
        pairs = [(str(key), inner) for key, inner in value.items()]
        is_named = any(holds_value(key) for key, _ in pairs) and names_a_secret(pairs, policy)
        return {
            key: MASK
            if inner not in (None, "") and (policy.is_secret(str(key)) or (is_named and holds_value(str(key))))
            else mask(inner, policy, depth - 1)
            for key, inner in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [
            [inner[0], MASK] if _is_pair(inner) and is_named_pair(inner, policy) else mask(inner, policy, depth - 1)
            for inner in value
        ]
    return value


def _is_pair(item: Any) -> bool:
    return isinstance(item, list | tuple) and len(item) == 2 and item[1] not in (None, "")


def mask_text(text: str, policy: MaskingPolicy) -> str:
    """The text with secrets hidden, as JSON if it is JSON, else by names, URLs and shapes (``text_secrets``)."""
    if len(text) > _KEPT_LENGTH:
        return _mask_text(text, policy)
    known = policy._masked_texts.get(text)
    if known is None:
        # Letters share their short texts, so results are cached.
        if len(policy._masked_texts) >= _KEPT_NAMES:
            policy._masked_texts.clear()
        known = policy._masked_texts[text] = _mask_text(text, policy)
    return known


def _mask_text(text: str, policy: MaskingPolicy) -> str:
    if not policy.may_show(text):
        return text
    if text.lstrip()[:1] in ("{", "[", '"'):
        return mask_json(text, policy)
    return text_secrets.hide(text, policy.is_secret)


class _Repeated(Exception):
    """An object gives a key twice."""


def mask_json(text: str, policy: MaskingPolicy) -> str:
    """JSON text with secret values hidden and the others unchanged; text that is not JSON is masked as plain text."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
        if mask(value, policy) == value:
            return text
    except _Repeated:
        pass  # Python would keep only the last value, and another one could be a secret
    except (ValueError, RecursionError):
        return text_secrets.hide(text, policy.is_secret)
    # Slow path: keeps every digit and every key.
    try:
        node = parse(text)
    except NotJson:
        # Nested deeper than intake accepts.
        return json.dumps(mask(json.loads(text), policy), ensure_ascii=False)
    hidden = masked(node, policy)
    return text if hidden == node else written(hidden)


def masked(node: Node, policy: MaskingPolicy) -> Node:
    """``mask`` for a parsed payload: whole values read ``Hidden``, parts of strings ``MASK``."""
    match node:
        case Object(pairs):
            is_named = any(holds_value(key) for key, _ in pairs) and names_a_secret(pairs, policy)
            return Object(
                tuple(
                    (
                        key,
                        Hidden()
                        if inner not in (None, "") and (policy.is_secret(key) or (is_named and holds_value(key)))
                        else masked(inner, policy),
                    )
                    for key, inner in pairs
                )
            )
        case list():
            return [
                [inner[0], Hidden()]
                if isinstance(inner, list) and is_named_pair(inner, policy) and inner[1] not in (None, "")
                else masked(inner, policy)
                for inner in node
            ]
        case str():
            return mask_text(node, policy)
    return node


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Repeated
    return found
