"""The pages of docs/ in the console."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from dlqsite import doc_pages
from dlqsite.tests.people import member, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.redis, pytest.mark.mongo]

NAMES = sorted(path.stem for path in (Path(settings.BASE_DIR) / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def anchors() -> dict[str, set[str]]:
    return {name: set(re.findall(r' id="([^"]+)"', doc_pages.rendered(name)[1])) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_page_leads_to_a_heading_in_the_console(name: str, anchors: dict[str, set[str]]) -> None:
    broken = []
    for href in re.findall(r'href="([^"]+)"', doc_pages.rendered(name)[1]):
        if href.startswith("https://"):
            continue
        path, _, anchor = href.partition("#")
        target = path.removeprefix("/admin/docs/").rstrip("/") or name
        if target not in anchors or (anchor and anchor not in anchors[target]):
            broken.append(href)

    assert broken == []


def test_on_call_is_readable_for_a_viewer() -> None:
    answer = signed_in(member("viewer")).get("/admin/docs/on-call/")

    assert answer.status_code == 200
    html = answer.content.decode()
    assert "<h1>On call</h1>" in html
    assert '<h3 id="a-breaker-is-open">' in html
    assert "<td>" in html


@pytest.mark.parametrize("name", ["no-such-page", "on-call.md", "settings_py"])
def test_nothing_else_is_served(name: str) -> None:
    assert signed_in(member("administrator")).get(f"/admin/docs/{name}/").status_code == 404


def test_strangers_sign_in_first() -> None:
    assert Client().get("/admin/docs/on-call/").status_code == 302


def test_images_are_left_out() -> None:
    body = doc_pages.rendered("index")[1]

    assert "![" in (Path(settings.BASE_DIR) / "docs/index.md").read_text(encoding="utf-8")
    assert "<img" not in body
    assert "!" not in body


def test_html_in_a_page_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.md").write_text("# A <b>title</b>\n\n<script>alert(1)</script> [x](javascript:alert(1))\n")
    monkeypatch.setattr(doc_pages, "_folder", lambda: tmp_path)

    html = doc_pages.rendered.__wrapped__("page")[1]
    assert "<script>" not in html
    assert "href" not in html
