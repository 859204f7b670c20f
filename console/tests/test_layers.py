"""An app's pages use templates, tag libraries, assets and permissions of itself and of apps below it, of no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.template.engine import Engine

ROOT = Path(settings.BASE_DIR)
#: App → what its pages may use, beside what Django and other packages bring.
BELOW = {
    "console": {"console", "static", "wire"},
    "dlq_app": {"dlq_app", "console", "static", "wire"},
    "breaker_app": {"breaker_app", "console", "static", "wire"},
    "messages_app": {"messages_app", "dlq_app", "console", "static", "wire"},
}
_TEMPLATE = re.compile(r"""\{% (?:extends|include) "([^"]+)\"""")
_STATIC = re.compile(r"""\{% static "([^"]+)\"""")
_LOAD = re.compile(r"\{% load ([^%]+?) %\}")
_RENDERED = re.compile(r"""["']([a-z_]+/[a-z_/]+\.html)["']""")
_PERMISSION = re.compile(r"""perms\.dlqsite\b|["']dlqsite\.[a-z]+["']""")


def owner(path: str) -> str:
    """The app that a file belongs to; empty for a file of an installed package."""
    file = Path(path)
    return file.relative_to(ROOT).parts[0] if file.is_relative_to(ROOT) and ".venv" not in file.parts else ""


def templates(app: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / app / "templates").rglob("*.html")):
        yield path, path.read_text(encoding="utf-8")


def modules(app: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / app).rglob("*.py")):
        if "tests" not in path.parts:
            yield path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("app", BELOW)
def test_pages_use_only_templates_and_assets_of_their_app_and_below(app: str) -> None:
    engine, used = Engine.get_default(), {}
    for path, text in [*templates(app), *modules(app)]:
        names = _TEMPLATE.findall(text) if path.suffix == ".html" else _RENDERED.findall(text)
        for name in names:
            template = engine.find_template(name)[0]
            used[f"{path.name}: {name}"] = owner(str(template.origin.name))
        for name in _STATIC.findall(text):
            used[f"{path.name}: {name}"] = owner(str(finders.find(name)))

    assert used
    assert {name: of for name, of in used.items() if of and of not in BELOW[app]} == {}


@pytest.mark.parametrize("app", BELOW)
def test_pages_load_only_tag_libraries_of_their_app_and_below(app: str) -> None:
    libraries = Engine.get_default().libraries
    loaded = {name for _, text in templates(app) for names in _LOAD.findall(text) for name in names.split()}

    assert "console" in loaded
    assert {name for name in loaded if libraries[name].partition(".")[0] not in {*BELOW[app], "django"}} == set()


@pytest.mark.parametrize("app", [app for app in BELOW if app != "console"])
def test_permissions_of_the_site_are_named_in_one_place(app: str) -> None:
    named = {str(path.relative_to(ROOT)) for path, text in [*templates(app), *modules(app)] if _PERMISSION.search(text)}

    assert named == set()
