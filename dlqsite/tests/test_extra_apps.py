"""``EXTRA_APPS``: apps of others are loaded as the shipped ones, and one that cannot be loaded is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

HANDLER = """
from messages_app.registry import handler


@handler("shop.order", breaker="shop-db")
def order(message):
    return message.payload
"""


def shop(folder: Path, **files: str) -> None:
    """Write a package ``shop``; ``files``: text by name of the module."""
    (folder / "shop").mkdir()
    for name, text in {"__init__": "", **files}.items():
        (folder / "shop" / f"{name}.py").write_text(text)


def start(folder: Path, *program: str, apps: str = "shop") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program],
        cwd=settings.BASE_DIR,
        env={**os.environ, "EXTRA_APPS": apps, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


ADMIN = """
from django.contrib import admin

from shop.models import Note

admin.site.register(Note)
"""
MODELS = """
from django.db import models


class Note(models.Model):
    text = models.CharField(max_length=50)
"""
#: What a process with everything sees of the app.
LOOK = """
import dlqsite.urls
from django.apps import apps
from django.contrib import admin
from django.core.management import get_commands
from django.template.loader import get_template

found = get_commands()
print(apps.get_model("shop", "Note") in admin.site._registry, found["prepare"], found["restock"])
print(get_template("shop/hello.html").render(), get_template("404.html").origin.name)
"""


def test_pages_templates_and_commands_of_an_extra_app_work_and_replace_none(tmp_path: Path) -> None:
    shop(tmp_path, admin=ADMIN, models=MODELS)
    for name, text in {
        "templates/shop/hello.html": "hello",
        "templates/404.html": "theirs",
        "management/commands/prepare.py": "",
        "management/commands/restock.py": "",
    }.items():
        path = tmp_path / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    done = start(tmp_path, "manage.py", "shell", "--no-imports", "-c", LOOK)

    assert done.stdout.splitlines() == ["True management shop", f"hello {settings.BASE_DIR}/templates/404.html"], (
        done.stderr
    )


def test_handlers_of_an_extra_app_are_registered(tmp_path: Path) -> None:
    shop(tmp_path, handlers=HANDLER)

    done = start(
        tmp_path,
        "manage.py",
        "shell",
        "--no-imports",
        "-c",
        "from messages_app import registry; print(registry.types())",
    )

    assert "'shop.order'" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("files", "apps", "said"),
    [
        ({}, "shop, shpo", ["shpo", "No module named 'shpo'", "PYTHONPATH"]),
        ({"handlers": "import stripy\n"}, "shop", ["shop", "No module named 'stripy'", "shop/handlers.py, line 1"]),
        ({"models": "1 / 0\n"}, "shop", ["shop", "ZeroDivisionError", "shop/models.py, line 1"]),
        ({"__init__": "import stripy\n"}, "shop", ["shop", "No module named 'stripy'", "shop/__init__.py, line 1"]),
        ({"handlers": "def f(:\n"}, "shop", ["shop", "SyntaxError", "handlers.py"]),
        (
            {"handlers": HANDLER.replace("shop.order", "http.deliver")},
            "shop",
            ["shop", "http.deliver", "has the handler", "shop/handlers.py, line 5"],
        ),
        ({}, "shop,messages_app", ["EXTRA_APPS = shop,messages_app", "messages_app"]),
    ],
    ids=["missing", "handlers", "models", "package", "syntax", "type taken", "app taken"],
)
def test_an_app_that_cannot_be_loaded_is_named_with_the_reason(
    tmp_path: Path, files: dict[str, str], apps: str, said: list[str]
) -> None:
    shop(tmp_path, **files)

    done = start(tmp_path, "manage.py", "check", apps=apps)

    assert done.returncode == 1
    assert [word for word in said if word not in done.stderr] == []
    assert done.stderr.startswith("EXTRA_APPS")
    assert "Traceback" not in done.stderr


def test_the_web_server_says_the_same(tmp_path: Path) -> None:
    done = start(tmp_path, "-c", "import dlqsite.wsgi")

    assert (done.returncode, done.stderr.partition(":")[0]) == (1, "EXTRA_APPS")
    assert "Traceback" not in done.stderr


def test_an_error_of_the_project_itself_keeps_its_stack(tmp_path: Path) -> None:
    shop(tmp_path)

    done = start(
        tmp_path, "-c", "import sys; sys.modules['dlq_app.checks'] = None; import manage; manage.main()", "check"
    )

    assert "Traceback" in done.stderr
    assert not done.stderr.startswith("EXTRA_APPS")
