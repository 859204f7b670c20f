"""Child processes: each in a session of its own, logged to a file, stopped with everything it started."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil


class DidNotStart(Exception):
    """A program of a measurement ended or never listened; the message ends with the tail of its log."""


class Child:
    """One started program and what it forked."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        self.command = list(command)
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._sink: IO[bytes] = log.open("ab")
        self._process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._sink,
            stderr=self._sink,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tree(self) -> list[psutil.Process]:
        """The process and its living descendants; empty once it has ended."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def alive(self) -> bool:
        return self._process.poll() is None

    def listening(self, port: int, timeout_s: float = 30.0) -> None:
        """Return once ``port`` accepts connections; raise ``DidNotStart`` when the program ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while self.alive() and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                return
            time.sleep(0.05)
        raise self.failed(f"does not listen on port {port}")

    def answering(self, port: int, timeout_s: float = 30.0) -> None:
        """Return once the HTTP server on ``port`` answers, whatever it says; raise ``DidNotStart`` otherwise.

        A server that forks listens long before its children can answer.
        """
        deadline = time.monotonic() + timeout_s
        self.listening(port, timeout_s)
        while self.alive() and time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/benchmark")
                connection.getresponse()
                return
            connection.close()
            time.sleep(0.05)
        raise self.failed(f"does not answer on port {port}")

    def answered(self, port: int) -> Child:
        """Return itself once it is ``answering``. Stop if that never happens, or if waiting is interrupted."""
        try:
            self.answering(port)
        except BaseException:
            # Also on Ctrl-C: no other code has a reference to it yet.
            self.stop()
            raise
        return self

    def failed(self, what: str) -> DidNotStart:
        lines = self.log.read_text(errors="replace").splitlines()[-15:] if self.log.exists() else []
        return DidNotStart("\n".join([f"{' '.join(self.command[:6])} …: {what}", *lines]))

    def stop(self, grace_s: float = 8.0) -> None:
        """SIGTERM to the program, then SIGKILL to whatever of its tree is left."""
        members = self.tree()
        if self.alive():
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        for member in members:
            with contextlib.suppress(psutil.Error):
                member.kill()
        self._process.wait()
        self._sink.close()


def run(command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, timeout_s: float = 300.0) -> str:
    """The standard output of a program that must succeed; ``DidNotStart`` with its errors otherwise."""
    ended = subprocess.run(
        list(command), cwd=cwd, env=dict(env), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if ended.returncode:
        raise DidNotStart(f"{' '.join(command[:6])} … ended with {ended.returncode}\n{ended.stderr[-2000:]}")
    return ended.stdout


def plain_environment() -> dict[str, str]:
    """What a child inherits: nothing that would change how a contestant behaves."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}
