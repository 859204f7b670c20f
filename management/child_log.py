"""The log file of a child: the child appends to it; this module follows, searches and rotates it."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

#: Bytes at which a log becomes ``NAME.log.1``, replacing the one before.
LIMIT = 8 * 1024 * 1024
#: Warnings shown per look; the rest is counted.
SHOWN = 5
#: Characters shown of one warning.
WIDTH = 300

#: Cheap look at a whole block before its lines are looked at.
_SUSPECT = re.compile(
    rb'"level": ?"(?:warning|error|critical)|\b(?:WARNING|ERROR|CRITICAL|FATAL|Traceback)\b|(?:Error|Exception)\b'
)
_PLAIN = re.compile(r"\b(WARNING|ERROR|CRITICAL|FATAL)\b|^Traceback|^\w+(\.\w+)*(Error|Exception)\b")
#: Members of a structured line that tell a reader of the console nothing.
_UNSHOWN = {"time", "exception", "logger"}
_LOUD = {"warning", "error", "critical", "exception", "fatal"}


class ChildLog:
    """One role's log file. Not for use from several threads."""

    def __init__(self, path: Path, *, limit: int = LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._descriptor: int | None = None
        self._read_to = path.stat().st_size if path.exists() else 0
        self._begun_at = self._read_to
        #: The last failure that was reported.
        self._trouble = ""

    def open(self) -> int:
        """The descriptor that a child's stdout and stderr get. Every write goes to the end, also after a cut."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._begun_at = self.path.stat().st_size
        return self._descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def follow(self) -> list[str]:
        """Warnings written since the last call, at most a few; keeps the file below its limit as well."""
        try:
            return self._follow()
        except FileNotFoundError:  # somebody tidied up
            return []
        except OSError as error:  # the disk; the next look may succeed
            return self._failed(error)

    def _failed(self, error: OSError) -> list[str]:
        """The reason why the log could not be read, once per reason."""
        words = f"{self.path} cannot be followed: {error.strerror or error}"
        if words == self._trouble:
            return []
        self._trouble = words
        return [words]

    def _follow(self) -> list[str]:
        size = self.path.stat().st_size
        if size < self._read_to:
            self._read_to = 0
        if size == self._read_to:
            return []
        start = max(self._read_to, size - 1024 * 1024)
        with self.path.open("rb") as file:
            file.seek(start)
            block = file.read(size - start)
        whole = block.rfind(b"\n") + 1
        if not whole and len(block) < 64 * 1024:
            return []  # half a line: next time
        self._read_to = start + (whole or len(block))
        if size > self._limit:
            self._cut()
        self._trouble = ""
        if not _SUSPECT.search(block):
            return []
        loud = [text for line in block[: whole or None].splitlines() if (text := _warning(line))]
        more = [f"... {len(loud) - SHOWN} more in {self.path}"] if len(loud) > SHOWN else []
        return loud[:SHOWN] + more

    def last_words(self) -> str:
        """The last line that the present child has written, empty if it said nothing."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(min(self._begun_at, size), size - 8192))
                lines = [line for line in file.read().splitlines() if line.strip()]
        except OSError:
            return ""
        return (_warning(lines[-1]) or _shown(lines[-1].decode("utf-8", "replace").strip())) if lines else ""

    def _cut(self) -> None:
        # Children hold the file open, so it cannot be renamed: copy it and empty it. Lines written in between are lost.
        try:
            shutil.copyfile(self.path, self.path.with_suffix(".log.1"))
            self.path.with_suffix(".log.1").chmod(0o600)
        finally:
            # Also when the disk is full and nothing could be copied: it must not grow without end.
            os.truncate(self.path, 0)
            self._read_to = self._begun_at = 0


def _warning(line: bytes) -> str:
    """The part of a log line that is worth showing, empty when it is no warning. Accepts any bytes."""
    if not _SUSPECT.search(line):
        return ""
    text = line.decode("utf-8", "replace").rstrip()
    if text.startswith("{"):
        try:
            found = _structured(text)
        except (ValueError, RecursionError, MemoryError):
            found = None  # cut in half, or nested without end
        if found is not None:
            return _shown(found)
    return _shown(text) if _PLAIN.search(text) else ""


def _structured(text: str) -> str | None:
    """A structured line in words, empty when its level is low; None when it is not one of ours. Raises ValueError."""
    entry = json.loads(text)
    if not isinstance(entry, dict) or "event" not in entry:
        return None
    level = str(entry.pop("level", "")).lower()
    if level not in _LOUD:
        return ""
    said = entry.pop("event")
    rest = " ".join(f"{key}={value}" for key, value in entry.items() if key not in _UNSHOWN)
    return f"{level}: {said} {rest}".strip()


def _shown(text: str) -> str:
    """``text`` on one line and not too long; an escape for each character that a terminal obeys or cannot encode."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text[:WIDTH]
    )[:WIDTH]
