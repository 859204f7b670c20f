"""The data directory of the local stack: what stays between two runs, who may read it, and which stack has it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from management.errors import StackError

#: Seconds that the children of a killed supervisor get to end before a new stack gives up on them.
LEFTOVERS = 30.0
#: What `up` keeps in its data directory.
_KEPT = ("connection.json", "credentials.json", "db.sqlite3", "logs", "mongod", "redis", "run", "secret_key", "up.lock")


class DataDirectory:
    """Everything that stays between two runs. Raises StackError when it cannot be written or is in use."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.logs = path / "logs"
        self.redis = path / "redis"
        self.mongod = path / "mongod"
        self.connection = path / "connection.json"
        self.credentials = path / "credentials.json"
        self._lock: int | None = None
        #: What was done about a directory that others could read; empty when nothing was.
        self.tightened = ""
        try:
            self._make_private()
            for folder in (path, self.logs, self.redis, self.mongod):
                folder.mkdir(mode=0o700, parents=folder is path, exist_ok=True)
            probe = path / f".write-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StackError(
                f"DATA_DIR {path} cannot be written ({error.strerror}): name another, make up DATA_DIR=/some/folder"
            ) from error

    def _make_private(self) -> None:
        """Take a directory that is there already away from others: password hashes and session ids are kept in it.

        Changes only what is `up`'s own. Raises StackError when that is not enough, OSError when it may not.
        """
        if not self.path.exists():
            return
        ours = [entry for entry in self.path.iterdir() if _is_kept(entry.name)]
        if self.path.stat().st_mode & 0o077:
            if others := sorted({entry.name for entry in self.path.iterdir()} - {entry.name for entry in ours}):
                raise StackError(
                    f"DATA_DIR {self.path} is open to other users and contains other files, such as {others[0]}: "
                    f"name an empty folder, or chmod 700 {shlex.quote(str(self.path))}"
                )
            _close_to_others(self.path)
            self.tightened = f"DATA_DIR {self.path} was open to other users. Now only this user can read it (0700)"
        for entry in ours:
            _close_to_others(entry)
            if entry.is_dir() and not entry.is_symlink():
                for folder, names, files in os.walk(entry):
                    for name in names + files:
                        _close_to_others(Path(folder, name))

    def lock(self, say: Callable[[str], None]) -> int:
        """Take the directory for this stack and return the lock's descriptor, which every child must inherit.

        The lock is free only when the supervisor and all its children are gone. Those of a killed supervisor are waited
        for, since the kernel has told them to end; a living supervisor is respected.
        """
        descriptor = os.open(self.path / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + LEFTOVERS
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                alive = owner.isdigit() and _lives(int(owner))
                if alive or time.monotonic() > deadline:
                    os.close(descriptor)
                    if alive:
                        who = (
                            f"another `up` (pid {owner}) runs on DATA_DIR {self.path}: stop it or name another DATA_DIR"
                        )
                    else:
                        left = ", ".join(f"pid {pid} ({name})" for pid, name in holders(self.path / "up.lock").items())
                        who = (
                            f"processes of a killed `up` still use DATA_DIR {self.path}: "
                            f"end them first: {left or 'they belong to another user'}"
                        )
                    raise StackError(who) from None
            if not told:
                say("Waiting for the processes of a killed run to end")
                told = True
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._lock = descriptor
        self.connection.unlink(missing_ok=True)  # of a killed run
        return descriptor

    def release(self) -> None:
        self.connection.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def secret_key(self) -> str:
        """The key that sessions are signed with, made on the first run."""
        path = self.path / "secret_key"
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            key = secrets.token_urlsafe(50)
            write_private(path, key + "\n")
            return key

    def read_credentials(self) -> dict[str, str]:
        """Generated key and password, as far as they still hold; empty before the first run."""
        try:
            found = json.loads(self.credentials.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StackError(f"{self.credentials} is damaged ({error}): remove it and run `up` again") from error
        return {str(key): str(value) for key, value in found.items()}


def _is_kept(name: str) -> bool:
    """Whether an entry of the data directory is ours: also SQLite's journals, and drafts of a killed run."""
    return name.startswith((*(f"{kept}-" for kept in _KEPT), *(f"{kept}." for kept in _KEPT), ".write-")) or (
        name in _KEPT
    )


def _close_to_others(path: Path) -> None:
    with suppress(FileNotFoundError):  # a store of a killed run may still be at work
        mode = path.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & 0o700)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def holders(path: Path) -> dict[int, str]:
    """The other processes that have the file ``path`` open, by id with their command, as far as this user may look."""
    wanted, found = str(path.resolve()), {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(file.path == wanted for file in process.open_files()):
                found[process.pid] = " ".join(process.cmdline()[-3:])[:60]
    return found


def write_private(path: Path, text: str) -> None:
    """Replace ``path`` in one step by a file that only its owner can read."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)
