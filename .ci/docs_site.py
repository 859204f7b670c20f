"""Hooks of MkDocs: pages and links that the site needs and the repository keeps elsewhere.

The pages of ``docs/`` also work on GitHub and in the console. There, links lead to files outside of ``docs/``. The site
has two of these files as pages; a link to any other becomes its text.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: File of the repository → page of the site.
COPIES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_PAGES = {**COPIES, "README.md": "index.md"}

_FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the two files to the pages."""
    for source, target in COPIES.items():
        text = (Path(config.config_file_path).parent / source).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page at pages of the site. Code blocks are unchanged."""
    is_copy = page.file.src_uri in COPIES.values()

    def changed(link: re.Match[str]) -> str:
        path, anchor = link["path"], link["anchor"] or ""
        if not path or "://" in path:
            return link[0]
        if is_copy:
            # Relative to the root of the repository.
            path = path.removeprefix("docs/") if path.startswith("docs/") else f"../{path}"
        if path.startswith("../"):
            path = _PAGES.get(path.removeprefix("../"), "")
        return f"[{link['text']}]({path}{anchor})" if path else link["text"]

    parts = _FENCE.split(markdown)
    return "".join(part if at % 2 else _LINK.sub(changed, part) for at, part in enumerate(parts))
