"""A payload as people see and edit it: parsed without losing a digit or a key, laid out, masked, and put back. Pure.

Python's own round trip is not good enough to show what a client sent: ``1.10`` would become ``1.1``, a repeated key
would vanish. Here numbers keep their text and objects are lists of pairs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from dlq_app.domain.masking import MASK, MaskingPolicy, holds_value, is_named_pair, mask_text, names_a_secret

#: Deeper than intake accepts; a letter written by hand may hold anything.
MAX_DEPTH = 64
#: Elements of one list that were changed and hide something: so many are told apart, with more it is not certain.
_MOST_COMPARED = 200
_UNCERTAIN = (
    "and which of the original's hidden values belongs there is not certain: "
    "write the value itself, or leave the list around it as it was"
)


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Object:
    """An object: its keys in their order, repeated ones included."""

    pairs: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Hidden:
    """A value that is not shown at all, because of the name of its key."""


Node: TypeAlias = "Object | list[Node] | Number | Hidden | str | bool | None"


class NotJson(ValueError):
    """The text is no JSON. ``line`` and ``column`` count from 1; 0 when nobody can say where."""

    def __init__(self, why: str, line: int = 0, column: int = 0) -> None:
        self.line, self.column = line, column
        where = f" (line {line}, column {column})" if line else ""
        super().__init__(f"{why}{where}")


class NotRestorable(ValueError):
    """A hidden value stands where the original has none, or where it could be one of several."""

    def __init__(self, path: str, why: str = "but the original has no hidden value there") -> None:
        self.path = path
        super().__init__(f"{path} reads {MASK}, {why}")


def parse(text: str) -> Node:
    """The value in ``text``; ``NotJson`` says where it goes wrong."""
    try:
        value: Node = json.loads(
            text,
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
            object_pairs_hook=lambda pairs: Object(tuple(pairs)),
        )
    except json.JSONDecodeError as error:
        raise NotJson(error.msg, error.lineno, error.colno) from error
    except NotJson:
        raise
    except (ValueError, RecursionError) as error:
        raise NotJson("nested too deep" if isinstance(error, RecursionError) else str(error)) from error
    if _depth(value) > MAX_DEPTH:
        raise NotJson("nested too deep")
    return value


def masked(node: Node, policy: MaskingPolicy) -> Node:
    """The same with secrets hidden, as ``masking.mask`` hides them: whole values, and parts of strings."""
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


def restored(edited: Node, original: Node, policy: MaskingPolicy) -> Node:
    """``edited`` with every hidden value put back from the same place of ``original``: people edit around secrets.

    In lists, whose elements may have been moved, added and removed, the same place is the element that it is certain to
    be. A string of which a part is hidden is put back whole, so it must read as it was shown. Raises ``NotRestorable``
    naming the place when the original hides nothing there, or when it is not certain; also when something would be put
    back where it would no longer be hidden.
    """
    found = _restored(edited, original, masked(original, policy), "payload")
    if masked(found, policy) != masked(edited, policy):
        raise NotRestorable("payload", "in a place where the value would be shown")
    return found


def written(node: Node, *, indent: int | None = None) -> str:
    """JSON text of a value: on one line, or laid out. Hidden values read ``MASK``."""
    return "".join(_written(node, indent, 0))


def _restored(edited: Node, original: Node, shown: Node, path: str) -> Node:
    """``shown`` is ``original`` with its secrets hidden."""
    match edited:
        case Object(pairs):
            fields = (
                [(name, inner, seen[1]) for (name, inner), seen in zip(original.pairs, shown.pairs, strict=True)]
                if isinstance(original, Object) and isinstance(shown, Object)
                else []
            )
            repeated = {name: n for name, n in Counter(name for name, _, _ in fields).items() if n > 1}
            now = Counter(name for name, _ in pairs)
            found: list[tuple[str, Node]] = []
            for name, inner in pairs:
                if repeated.get(name, now[name]) != now[name] and _hidden_in(inner):
                    raise NotRestorable(f"{path}.{name}", _UNCERTAIN)
                # The first of the same name that is not taken yet: repeated keys keep their order.
                place = next((n for n, one in enumerate(fields) if one[0] == name), None)
                _, counterpart, seen = fields.pop(place) if place is not None else (name, None, None)
                found.append((name, _restored(inner, counterpart, seen, f"{path}.{name}")))
            return Object(tuple(found))
        case list():
            before = (original, shown) if isinstance(original, list) and isinstance(shown, list) else ([], [])
            others = _counterparts(edited, *before, path)
            return [_restored(inner, *others.get(n, (None, None)), f"{path}[{n}]") for n, inner in enumerate(edited)]
        case str() if MASK in edited:
            return _put_back(edited, original, shown, path)
    return edited


def _put_back(edited: str, original: Node, shown: Node, path: str) -> Node:
    """The original of a string in which ``MASK`` stands."""
    if edited == (MASK if isinstance(shown, Hidden) else shown):
        return original
    if isinstance(shown, str) and shown != original:
        raise NotRestorable(path, "and the text around it was changed: write the whole text, or leave it as it was")
    raise NotRestorable(path)


def _counterparts(
    edited: list[Node], original: list[Node], shown: list[Node], path: str
) -> dict[int, tuple[Node, Node]]:
    """For the elements of an edited list in which something is hidden: those of the original, and as they are shown.

    An element that reads as one of the original is that one, wherever it stands now. One that was changed is what stood
    in its place, if that is the only one missing, or if nothing was added or removed and it resembles no other as much.
    """
    hiding = [n for n, inner in enumerate(edited) if _hidden_in(inner)]
    if not hiding:
        return {}
    before, now = _places([_meaning(one) for one in shown]), _places([_meaning(one) for one in edited])
    found: dict[int, int] = {}
    missing = {m for m, one in enumerate(shown) if one != original[m]}
    for meaning, places in before.items():
        here = now.get(meaning, [])
        if len(here) == len(places) or len({written(original[m]) for m in places}) == 1:
            # Which of several that read the same cannot matter, or they are all there, in their order.
            found |= {n: places[min(nth, len(places) - 1)] for nth, n in enumerate(here)}
            missing -= set(places[: len(here)])
        elif set(here) & set(hiding):
            raise NotRestorable(f"{path}[{here[0]}]", _UNCERTAIN)
    changed = [n for n in hiding if n not in found]
    for n in changed:
        if missing == {n} and len(changed) == 1:
            found[n] = n
        elif missing:
            if len(edited) != len(original) or not _is_in_place(n, edited, shown, missing):
                raise NotRestorable(f"{path}[{n}]", _UNCERTAIN)
            found[n] = n
    return {n: (original[m], shown[m]) for n, m in found.items()}


def _is_in_place(n: int, edited: list[Node], shown: list[Node], missing: set[int]) -> bool:
    """Whether the changed element is more like the one that stood in its place than like any other that is missing."""
    if n not in missing or len(missing) > _MOST_COMPARED:
        return False
    mine = _leaves(edited[n])
    alike = len(mine & _leaves(shown[n]))
    rivals = [shown[m] for m in missing if m != n and _meaning(shown[m]) != _meaning(shown[n])]
    return all(len(mine & _leaves(rival)) < alike for rival in rivals)


def _hidden_in(node: Node) -> bool:
    """Whether something in an edited value reads ``MASK``, in whole or in part."""
    match node:
        case Object(pairs):
            return any(_hidden_in(inner) for _, inner in pairs)
        case list():
            return any(_hidden_in(inner) for inner in node)
        case str():
            return MASK in node
    return False


def _places(meanings: list[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for n, meaning in enumerate(meanings):
        found.setdefault(meaning, []).append(n)
    return found


def _meaning(node: Node) -> str:
    """The same text for what means the same: a client may have written numbers and the order of keys anew."""
    return json.dumps(json.loads(written(node), parse_float=_number), sort_keys=True)


def _number(text: str) -> float | int:
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _leaves(node: Node) -> set[tuple[str, str]]:
    """What stands where in a value, less what is hidden."""
    found: set[tuple[str, str]] = set()
    left = [("", node)]
    while left:
        path, inner = left.pop()
        if isinstance(inner, Object):
            left += [(f"{path}.{key}", one) for key, one in inner.pairs]
        elif isinstance(inner, list):
            left += [(f"{path}[{n}]", one) for n, one in enumerate(inner)]
        elif not isinstance(inner, Hidden) and inner != MASK:
            found.add((path, _meaning(inner)))
    return found


def _written(node: Node, indent: int | None, depth: int) -> Iterator[str]:
    match node:
        case Object(pairs):
            parts: list[tuple[str, Node]] = [(f"{_quoted(key)}: ", inner) for key, inner in pairs]
            yield from _block("{", parts, "}", indent, depth)
        case list():
            yield from _block("[", [("", inner) for inner in node], "]", indent, depth)
        case Number(text):
            yield text
        case Hidden():
            yield _quoted(MASK)
        case str():
            yield _quoted(node)
        case _:
            yield {True: "true", False: "false", None: "null"}[node]


def _block(begin: str, parts: list[tuple[str, Node]], end: str, indent: int | None, depth: int) -> Iterator[str]:
    line = "" if indent is None else "\n" + " " * (indent * (depth + 1))
    yield begin
    for n, (label, inner) in enumerate(parts):
        yield f"{',' if n else ''}{line or (' ' if n else '')}{label}"
        yield from _written(inner, indent, depth + 1)
    if parts and indent is not None:
        yield "\n" + " " * (indent * depth)
    yield end


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _depth(value: Node) -> int:
    """How deep the value is nested, found without recursion."""
    deepest, left = 0, [(value, 1)]
    while left:
        node, depth = left.pop()
        deepest = max(deepest, depth)
        if depth > MAX_DEPTH:
            return depth
        if isinstance(node, Object):
            left += [(inner, depth + 1) for _, inner in node.pairs]
        elif isinstance(node, list):
            left += [(inner, depth + 1) for inner in node]
    return deepest


def _refuse_constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON")
