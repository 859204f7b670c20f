"""Lossless JSON: parse a payload and write it again, with every digit and every key. Pure.

Python's own round trip is not good enough to show what a client sent: ``1.10`` would become ``1.1``, a repeated key
would vanish. Here numbers keep their text and objects are lists of pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from dlq_app.domain.text_secrets import MASK

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
    """A value that is hidden as a whole, because of the name of its key."""


Node: TypeAlias = "Object | list[Node] | Number | Hidden | str | bool | None"


class NotJson(ValueError):
    """The text is not JSON. ``line`` and ``column`` count from 1; 0 if unknown."""

    def __init__(self, why: str, line: int = 0, column: int = 0) -> None:
        self.line, self.column = line, column
        where = f" (line {line}, column {column})" if line else ""
        super().__init__(f"{why}{where}")


def parse(text: str) -> Node:
    """The value in ``text``. Raises ``NotJson`` with the place of the error."""
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


def written(node: Node, *, indent: int | None = None) -> str:
    """JSON text of a value, on one line or indented. Hidden values read ``MASK``."""
    return "".join(_written(node, indent, 0))


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
    """The depth of a value, found without recursion."""
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
