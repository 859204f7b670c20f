"""Why a command does not find the stores of the local stack: its ``DATA_DIR`` is not that of the stack."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path

from django.conf import settings


def stack_elsewhere() -> str:
    """A sentence with the fix if no stack runs on ``DATA_DIR`` and no variable names the stores; else empty."""
    here = Path(settings.DATA_DIR).absolute()
    if os.environ.get("REDIS_URL") or os.environ.get("MONGODB_URL") or (here / "connection.json").exists():
        return ""
    where = f"No stack runs on DATA_DIR {here}"
    running = [shlex.quote(str(path)) for path in running_directories()]
    if len(running) == 1:
        return f"{where}; one runs on {running[0]}: put DATA_DIR={running[0]} before the command."
    if running:
        return f"{where}; stacks run on {', '.join(running)}: put DATA_DIR=… with one of them before the command."
    return f"{where}: start it with `make up`, or set DATA_DIR to the directory of the stack that runs."


def running_directories() -> list[Path]:
    """Data directories of the stacks that this user runs on this machine, by name."""
    import psutil  # only for this error

    found = set()
    for process in psutil.process_iter():
        # Other users' environments cannot be read, and processes end.
        with suppress(psutil.Error, OSError):
            directory = process.environ().get("DATA_DIR", "") if "manage.py" in process.cmdline()[1:3] else ""
            if directory and (Path(directory) / "connection.json").exists():
                found.add(Path(directory).absolute())
    return sorted(found)
