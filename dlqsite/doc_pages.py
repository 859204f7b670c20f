"""The pages of ``docs/`` in the console, so that on-call staff read them where they see the problem."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

from django.conf import settings
from django.contrib import admin
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.token import Token

from dlqsite.access import must_look

#: Where the overview's headline leads.
ON_CALL: Final = "on-call"

_LINK = re.compile(r"(?:\.\./docs/)?(?P<page>[a-z-]+)\.md(?P<anchor>#.*)?\Z")
_NOT_IN_ANCHORS = re.compile(r"[^\w\- ]")


def page(request: HttpRequest, name: str) -> HttpResponse:
    """The page ``docs/{name}.md``, for every signed-in user with a role."""
    must_look(request)
    if name not in _names():
        raise Http404
    title, body = rendered(name)
    context = {**admin.site.each_context(request), "title": title, "body": body}
    return TemplateResponse(request, "dlqsite/doc_page.html", context)


@cache
def rendered(name: str) -> tuple[str, SafeString]:
    """Title and HTML of a page of ``docs/``. Raw HTML in it is escaped, and images are left out."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse((_folder() / f"{name}.md").read_text(encoding="utf-8"))
    title = name
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            text = tokens[at + 1].content
            token.attrSet("id", anchor(text))
            if token.tag == "h1":
                title, token.hidden = text, True
                tokens[at + 1].children, tokens[at + 2].hidden = [], True
        _keep_links_in_the_console(token.children or [])
    return title, mark_safe(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S308  # from our own files


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return _NOT_IN_ANCHORS.sub("", heading.replace("`", "").lower()).replace(" ", "-")


def _keep_links_in_the_console(tokens: list[Token]) -> None:
    """Point links between pages at the console's copies; links to other files of the repository become plain text."""
    hide = False
    for token in tokens:
        if token.type == "link_open":
            href = str(token.attrGet("href") or "")
            found = _LINK.fullmatch(href)
            if found and found["page"] in _names():
                token.attrSet("href", reverse("admin:docs", args=[found["page"]]) + (found["anchor"] or ""))
            hide = token.hidden = not (found or href.startswith(("#", "https://")))
        elif token.type == "link_close":
            token.hidden = hide
        elif token.type == "image":
            token.type, token.content = "text", ""


@cache
def _names() -> frozenset[str]:
    return frozenset(path.stem for path in _folder().glob("*.md"))


def _folder() -> Path:
    return Path(settings.BASE_DIR) / "docs"
