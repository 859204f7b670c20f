"""A payload as a tree of ``<details>``: bounded, escaped, without invisible characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from dlq_app.domain.payload import Hidden, Node, Number, Object
from wire.visible_text import json_text, visible

#: Maximum number of nodes shown.
MAX_KEYS = 5_000
MAX_CHARS = 200_000
#: Maximum number of characters shown of one text.
MAX_TEXT = 4_000
#: Deeper or larger parts are collapsed at first.
_OPEN_DEPTH = 3
_OPEN_SIZE = 25


@dataclass
class Tree:
    """The HTML, and whether it is complete."""

    html: SafeString
    is_cut: bool


@dataclass
class _Budget:
    keys: int = MAX_KEYS
    chars: int = MAX_CHARS
    is_cut: bool = False

    def take(self, text: str) -> str:
        """The part of a text that fits the limits."""
        limit = min(MAX_TEXT, self.chars)
        shown = text if len(text) <= limit else text[:limit]
        self.chars -= len(shown)
        if len(shown) < len(text):
            self.is_cut = True
        return shown

    @property
    def is_spent(self) -> bool:
        return self.keys <= 0 or self.chars <= 0


def tree(node: Node) -> Tree:
    """The tree of a parsed payload."""
    budget = _Budget()
    if isinstance(node, Object | list):
        html = format_html("<ul>{}</ul>", _items(node, budget, 1))
    else:
        html = format_html("<ul><li>{}</li></ul>", _leaf(node, budget))
    return Tree(html, budget.is_cut)


def _items(node: Object | list[Node], budget: _Budget, depth: int) -> SafeString:
    return format_html_join("", "{}", ((item,) for item in _each(node, budget, depth)))


def _each(node: Object | list[Node], budget: _Budget, depth: int) -> Iterator[SafeString]:
    pairs = node.pairs if isinstance(node, Object) else [(str(n), inner) for n, inner in enumerate(node)]
    for n, (key, inner) in enumerate(pairs):
        if budget.is_spent:
            budget.is_cut = True
            yield format_html('<li class="muted">… {} more</li>', f"{len(pairs) - n:,}")
            return
        budget.keys -= 1
        label = format_html('<bdi class="k" dir="ltr">{}:</bdi>', visible(budget.take(key)))
        if isinstance(inner, Object | list) and _size(inner):
            is_open = depth < _OPEN_DEPTH and _size(inner) <= _OPEN_SIZE
            yield format_html(
                '<li><details{}><summary>{} <span class="muted">{}</span></summary><ul>{}</ul></details></li>',
                SafeString(" open") if is_open else "",
                label,
                _extent(inner),
                _items(inner, budget, depth + 1),
            )
        else:
            yield format_html("<li>{} {}</li>", label, _leaf(inner, budget))


def _leaf(node: Node, budget: _Budget) -> SafeString:
    match node:
        case Object() | list():
            return format_html('<span class="muted">{}</span>', "{}" if isinstance(node, Object) else "[]")
        case Hidden():
            return SafeString('<span class="masked">masked</span>')
        case Number(text):
            return format_html('<bdi class="n" dir="ltr">{}</bdi>', budget.take(text))
        case str():
            shown = budget.take(node)
            html = format_html('<bdi class="s" dir="ltr">{}</bdi>', json_text(shown))
            if len(shown) < len(node):
                rest = f"{len(node) - len(shown):,}"
                return format_html('{} <span class="muted">… {} more characters</span>', html, rest)
            return html
        case _:
            budget.chars -= 5
            return format_html('<span class="b">{}</span>', {True: "true", False: "false", None: "null"}[node])


def _size(node: Object | list[Node]) -> int:
    return len(node.pairs) if isinstance(node, Object) else len(node)


def _extent(node: Object | list[Node]) -> str:
    size = _size(node)
    return f"{{{size}}}" if isinstance(node, Object) else f"[{size} {'item' if size == 1 else 'items'}]"
