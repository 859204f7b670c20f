"""A payload as people see and edit it: parsed without losing a digit or a key, laid out, masked, and put back. Pure.

Python's own round trip is not good enough to show what a client sent: ``1.10`` would become ``1.1``, a repeated key
would vanish. Here numbers keep their text and objects are lists of pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from dlq_app.masking import MASK, MaskingPolicy

#: Deeper than intake accepts; a letter written by hand may hold anything.
MAX_DEPTH = 64


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
    """A value that is not shown, because of the name of its key."""


Node: TypeAlias = "Object | list[Node] | Number | Hidden | str | bool | None"


class NotJson(ValueError):
    """The text is no JSON. ``line`` and ``column`` count from 1; 0 when nobody can say where."""

    def __init__(self, why: str, line: int = 0, column: int = 0) -> None:
        self.line, self.column = line, column
        where = f" (line {line}, column {column})" if line else ""
        super().__init__(f"{why}{where}")


class NotRestorable(ValueError):
    """A hidden value stands where the original has none."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"{path} reads {MASK}, but the original has no hidden value there")


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
    """The same with the values of secret keys hidden, as ``masking.mask`` hides them."""
    match node:
        case Object(pairs):
            return Object(
                tuple(
                    (key, Hidden() if policy.is_secret(key) and inner not in (None, "") else masked(inner, policy))
                    for key, inner in pairs
                )
            )
        case list():
            return [masked(inner, policy) for inner in node]
    return node


def restored(edited: Node, original: Node, policy: MaskingPolicy) -> Node:
    """``edited`` with every hidden value put back from the same place of ``original``: people edit around secrets.

    Raises ``NotRestorable`` naming the place when the original hides nothing there.
    """
    return _restored(edited, original, policy, "payload")


def written(node: Node, *, indent: int | None = None) -> str:
    """JSON text of a value: on one line, or laid out. Hidden values read ``MASK``."""
    return "".join(_written(node, indent, 0))


def _restored(edited: Node, original: Node, policy: MaskingPolicy, path: str) -> Node:
    match edited:
        case Object(pairs):
            before = list(original.pairs) if isinstance(original, Object) else []
            found: list[tuple[str, Node]] = []
            for key, inner in pairs:
                # The first of the same name that is not taken yet: repeated keys keep their order.
                place = next((n for n, (name, _) in enumerate(before) if name == key), None)
                counterpart = before.pop(place)[1] if place is not None else None
                where = f"{path}.{key}"
                if policy.is_secret(key) and inner == MASK:
                    if place is None or counterpart in (None, ""):
                        raise NotRestorable(where)
                    found.append((key, counterpart))
                else:
                    found.append((key, _restored(inner, counterpart, policy, where)))
            return Object(tuple(found))
        case list():
            others = original if isinstance(original, list) else []
            return [
                _restored(inner, others[n] if n < len(others) else None, policy, f"{path}[{n}]")
                for n, inner in enumerate(edited)
            ]
    return edited


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
