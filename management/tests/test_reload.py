"""Reloading: a change restarts the roles once it is valid, and a broken one changes nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from dlqsite.tests.patience import eventually
from management.reload import Reloader, folders

#: Compiles the file, as loading it would.
CHECK = "import pathlib, sys; compile(pathlib.Path(sys.argv[1]).read_text(), 'handlers.py', 'exec')"


class Watched:
    """A reloader over one folder with one file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "handlers.py"
        self.file.write_text("one = 1\n")
        self.said: list[str] = []
        self.restarts = 0
        self.reloader = Reloader(
            folders=[folder], check=[sys.executable, "-c", CHECK, str(self.file)], env=os.environ, cwd=folder,
            say=self.said.append, restart=self._restart, look_s=0.0,
        )  # fmt: skip

    def _restart(self) -> None:
        self.restarts += 1

    def until(self, condition: Callable[[], bool]) -> None:
        def look() -> bool:
            self.reloader.look()
            return condition()

        eventually(look, seconds=20)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    yield found
    found.reloader.close()


def test_a_valid_change_restarts_once(watched: Watched) -> None:
    for _ in range(3):
        watched.reloader.look()
    assert watched.said == []

    watched.file.write_text("two = 2\n")
    watched.until(lambda: watched.restarts == 1)
    for _ in range(3):
        watched.reloader.look()

    assert watched.restarts == 1
    assert watched.said[0] == f"{watched.file} has changed"


def test_broken_code_restarts_nothing_until_it_is_corrected(watched: Watched) -> None:
    watched.file.write_text("def f(:\n")
    watched.until(lambda: len(watched.said) == 2)

    assert watched.restarts == 0
    assert watched.said[1].startswith("not reloaded, the old code runs on: SyntaxError")

    watched.file.write_text("three = 3\n")
    watched.until(lambda: watched.restarts == 1)


def test_new_and_deleted_files_count_and_hidden_ones_do_not(watched: Watched, tmp_path: Path) -> None:
    for name in (".draft.py", "notes.txt", "__pycache__/handlers.py", "tests/test_handlers.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for _ in range(3):
        watched.reloader.look()
    assert watched.said == []

    (tmp_path / "retry.toml").touch()
    watched.until(lambda: watched.restarts == 1)
    (tmp_path / "retry.toml").unlink()
    watched.until(lambda: watched.restarts == 2)


def test_a_change_during_the_check_is_checked_too(watched: Watched) -> None:
    watched.file.write_text("def f(:\n")
    watched.until(lambda: len(watched.said) == 1)
    watched.file.write_text("four = 4\n")
    os.utime(watched.file, (time.time() + 5,) * 2)

    watched.until(lambda: watched.restarts >= 1)


def test_the_code_of_the_project_is_watched_and_installed_packages_are_not() -> None:
    found = folders()

    assert Path(settings.BASE_DIR) / "messages_app" in found
    assert [path for path in found if "site-packages" in path.parts] == []
