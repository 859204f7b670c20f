"""``make up RELOAD=true``: restarts the roles after a change of code or policies, for development."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from django.apps import apps
from django.conf import settings

#: Seconds between two looks at the files.
LOOK_S = 1.0
_WATCHED = (".py", ".toml", ".html", ".lua")
#: Folders without code that a role runs.
_SKIPPED = ("__pycache__", "tests", "node_modules")


def folders() -> list[Path]:
    """The folders of all apps that are not installed packages, and ``POLICY_DIR``. Needs loaded apps."""
    found = {Path(config.path) for config in apps.get_app_configs()}
    own = settings.POLICIES.directory
    return [*sorted(path for path in found if "site-packages" not in path.parts), *([own] if own else [])]


@dataclass(slots=True)
class Reloader:
    """Looks for changed files. ``look`` is called again and again, and never waits.

    After a change it runs ``check``, a command, on the new code. If that fails, the running processes stay as they are.
    """

    folders: Sequence[Path]
    check: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    say: Callable[[str], None]
    restart: Callable[[], None]
    look_s: float = LOOK_S
    _seen: dict[str, int] = field(default_factory=dict)
    _next_look: float = 0.0
    #: The first changed file that has not been checked.
    _changed: str = ""
    _checking: tuple[subprocess.Popen[bytes], IO[bytes]] | None = None

    def __post_init__(self) -> None:
        self._seen = self._files()

    def look(self) -> None:
        """Look at the files, or at the check that runs."""
        if self._checking is not None:
            process, output = self._checking
            if process.poll() is None:
                return
            self._checking = None
            with output:
                output.seek(0)
                lines = output.read().decode(errors="replace").strip().splitlines()
            if process.returncode == 0:
                self.say("the new code is valid: restarting the roles")
                self.restart()
            else:
                self.say(f"not reloaded, the old code runs on: {_reason(lines)}")
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self.look_s
        files = self._files()
        if files != self._seen:
            different = sorted(dict(files.items() ^ self._seen.items()))
            self._changed = self._changed or different[0]
            self._seen = files  # an editor or a checkout may write more: wait for a look without a change
        elif self._changed:
            self.say(f"{self._changed} has changed")
            self._changed = ""
            self._begin()

    def close(self) -> None:
        """End a check that runs."""
        if self._checking is not None:
            self._checking[0].kill()
            self._checking[0].wait()
            self._checking[1].close()
            self._checking = None

    def _begin(self) -> None:
        output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the check runs
        try:
            process = subprocess.Popen(
                self.check, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except OSError as error:
            output.close()
            self.say(f"not reloaded, the check could not be started: {error}")
            return
        self._checking = process, output

    def _files(self) -> dict[str, int]:
        """The time of the last change of each watched file."""
        found = {}
        for folder in self.folders:
            for where, inside, names in os.walk(folder):
                inside[:] = [name for name in inside if name not in _SKIPPED and not name.startswith(".")]
                for name in names:
                    if name.endswith(_WATCHED) and not name.startswith("."):
                        path = os.path.join(where, name)
                        try:
                            found[path] = os.stat(path).st_mtime_ns
                        except OSError:
                            continue  # it has just gone
        return found


def _reason(lines: Sequence[str]) -> str:
    """The line that names the fault: of the system checks, else the last one."""
    for line in lines:
        if re.search(r": \(\w+\.[EC]\d+\) ", line):
            return line
    return lines[-1] if lines else "it says nothing"
