"""Put hidden values back into an edited payload. Pure."""

from __future__ import annotations

import json

from dlq_app.domain.masking import MASK, MaskingPolicy, masked
from dlq_app.domain.payload import Node, Object, written

_UNKNOWN = f"reads {MASK}, but the original has no hidden value there"
_LOCKED = "holds hidden values and was changed: write every value in it yourself, or edit outside of it"


class NotRestorable(ValueError):
    """An edited payload has ``MASK`` in a place whose hidden value is unknown or ambiguous."""

    def __init__(self, path: str, why: str = _UNKNOWN) -> None:
        self.path = path
        super().__init__(f"{path} {why}")


def restored(edited: Node, original: Node, policy: MaskingPolicy) -> Node:
    """``edited`` with every hidden value put back from the same place of ``original``.

    The place is the path of keys. In a list elements move, so no path is certain: a list that holds a hidden value must
    read as it was shown. So must a string of which a part is hidden. Raises ``NotRestorable`` with the path, also when
    a value would be put back where it would no longer be hidden.
    """
    found = _restored(edited, original, masked(original, policy), "payload")
    if _meaning(masked(found, policy)) != _meaning(masked(edited, policy)):
        raise NotRestorable("payload", f"reads {MASK} in a place where the value would be shown")
    return found


def _restored(edited: Node, original: Node, shown: Node, path: str) -> Node:
    """``shown`` is ``original`` with its secrets hidden."""
    if not _has_mask(edited):
        return edited
    if isinstance(edited, Object) and not _is_repeated(edited) and not _is_repeated(original):
        before: dict[str, tuple[Node, Node]] = {}
        if isinstance(original, Object) and isinstance(shown, Object):
            before = {name: (one, seen) for (name, one), (_, seen) in zip(original.pairs, shown.pairs, strict=True)}
        found = []
        for name, inner in edited.pairs:
            found.append((name, _restored(inner, *before.get(name, (None, None)), f"{path}.{name}")))
        return Object(tuple(found))
    if _reads_as(edited, shown):
        return original
    if shown == original:
        raise NotRestorable(path)
    if isinstance(edited, str) and isinstance(shown, str):
        why = f"reads {MASK}, and the text around it was changed: write the whole text, or leave it as it was"
        raise NotRestorable(path, why)
    raise NotRestorable(path, _LOCKED if isinstance(original, list | Object) else _UNKNOWN)


def _is_repeated(node: Node) -> bool:
    return isinstance(node, Object) and len({name for name, _ in node.pairs}) < len(node.pairs)


def _reads_as(edited: Node, shown: Node) -> bool:
    if isinstance(edited, Object):
        return written(edited) == written(shown)  # comparing meanings would drop repeated keys
    return _meaning(edited) == _meaning(shown)


def _has_mask(node: Node) -> bool:
    """Whether an edited value reads ``MASK``, in whole or in part."""
    match node:
        case Object(pairs):
            return any(_has_mask(inner) for _, inner in pairs)
        case list():
            return any(_has_mask(inner) for inner in node)
        case str():
            return MASK in node
    return False


def _meaning(node: Node) -> str:
    """The same text for equal values: clients write numbers and the order of keys in their own way."""
    return json.dumps(json.loads(written(node), parse_float=_number), sort_keys=True)


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
