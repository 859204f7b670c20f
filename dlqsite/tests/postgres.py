"""A real PostgreSQL for tests. Run as a program, it tells whether there is one: exit code 0 or 1.

The server refuses to run as root, so under root it runs as the user ``postgres``, else as ``nobody``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from glob import glob
from pathlib import Path

import psutil

MISSING = "no PostgreSQL here: install it (Debian: apt install postgresql) or put its initdb on PATH"


def programs() -> Path | None:
    """The folder with initdb and postgres; the newest of Debian's, else the one on PATH. None: there is none."""
    found = sorted(glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which("initdb")
    return Path(path).resolve().parent if path else None


def _account() -> pwd.struct_passwd:
    if os.getuid() != 0:
        return pwd.getpwuid(os.getuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


class Postgres:
    """A server on a free port of loopback, with its data in a temporary folder. Its user may create databases."""

    def __init__(self) -> None:
        found = programs()
        if found is None:
            raise RuntimeError(MISSING)
        self._programs, self._account = found, _account()
        self._folder = Path(tempfile.mkdtemp(prefix="dlqpg-"))
        os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"postgres://dlq@127.0.0.1:{self.port}/dlq"
        self._server: subprocess.Popen[bytes] | None = None
        try:
            self._run("initdb", "-D", "data", "-A", "trust", "-U", "dlq", "-E", "UTF8", "--locale=C", "--no-sync")
            self.start()
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "dlq", "dlq")
        except BaseException:
            self.remove()
            raise

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "max_connections": "60",
        }
        command = [str(self._programs / "postgres"), "-D", "data"]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self._prefix("--pdeathsig", "KILL"), *command], cwd=self._folder, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while subprocess.run(self._ready(), capture_output=True, check=False).returncode != 0:
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "log").read_text(errors="replace")[-500:])
            time.sleep(0.05)

    def stop(self) -> None:
        """As a crash does: every connection breaks."""
        if self._server is not None:
            self.hold(signal.SIGCONT)
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(30)
            self._server = None

    def hold(self, number: int = signal.SIGSTOP) -> None:
        """Stop the server and its connections where they are, such that nothing answers; SIGCONT lets them go on."""
        assert self._server is not None
        main = psutil.Process(self._server.pid)
        for process in (main, *main.children(recursive=True)):
            process.send_signal(number)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ready(self) -> list[str]:
        return [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-d", "postgres"]

    def _prefix(self, *more: str) -> list[str]:
        if os.getuid() != 0:
            return ["setpriv", *more, "--"] if more else []
        uid, gid = self._account.pw_uid, self._account.pw_gid
        return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *more, "--"]

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [*self._prefix(), str(self._programs / program), *arguments],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr[-500:]}")


if __name__ == "__main__":
    if programs() is None:
        sys.exit(MISSING)
