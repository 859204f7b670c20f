"""The file of a backup: a tar of gzipped JSON lines, closed by a manifest with the digest of each member.

Written as a stream under another name, and renamed when it is complete and on the disk. So a file with the right name
is complete, whatever was killed.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from management.errors import ArchiveDamaged

FORMAT = 1
MANIFEST = "manifest.json"
#: A document of MongoDB has 16 MiB at most; as JSON it can be several times as long.
MAX_LINE = 128 * 1024**2
_MAX_MANIFEST = 1024**2
_CHUNK = 1024**2
#: The end of the name of a file that is not complete.
_PART = ".dlq-part"
_END = b"\0" * 2 * tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an archive, as its manifest describes it."""

    lines: int
    #: Of the compressed bytes.
    size: int
    sha256: str


class _Hashed(io.RawIOBase):
    """Writes to a file and hashes what it writes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._file.write(data)
        self.sha256.update(data)
        self.size += len(data)
        return len(data)


@dataclass(slots=True)
class ArchiveWriter:
    """Writes members one after the other. Use ``new_archive``."""

    file: IO[bytes]
    mtime: int
    members: dict[str, Member] = field(default_factory=dict)

    def add(self, name: str, lines: Iterable[bytes]) -> int:
        """Write a member with these lines, each with its line end; return their number."""
        number = 0

        def counted(into: IO[bytes]) -> None:
            nonlocal number
            with gzip.GzipFile(fileobj=into, mode="wb", compresslevel=6, mtime=self.mtime) as packed:
                for line in lines:
                    packed.write(line)
                    number += 1

        written = self._add(f"{name}.jsonl.gz", counted)
        self.members[name] = Member(number, written.size, written.sha256.hexdigest())
        return number

    def finish(self, about: Mapping[str, Any]) -> None:
        """Write the manifest, with ``about`` in it."""
        members = {
            name: {"lines": one.lines, "bytes": one.size, "sha256": one.sha256} for name, one in self.members.items()
        }
        text = json.dumps({"format": FORMAT, **about, "members": members}, indent=1).encode()
        self._add(MANIFEST, lambda into: into.write(text))
        self.file.write(_END)

    def _add(self, name: str, write: Any) -> _Hashed:
        """The header comes first in a tar, and has the size: it is written again when that is known."""
        start = self.file.tell()
        self.file.write(b"\0" * tarfile.BLOCKSIZE)
        hashed = _Hashed(self.file)
        write(hashed)
        self.file.write(b"\0" * (-hashed.size % tarfile.BLOCKSIZE))
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = hashed.size, self.mtime, 0o600
        end = self.file.tell()
        self.file.seek(start)
        self.file.write(info.tobuf(format=tarfile.GNU_FORMAT))
        self.file.seek(end)
        return hashed


@contextmanager
def new_archive(path: Path, mtime: int) -> Iterator[ArchiveWriter]:
    """An archive at ``path``, readable by its owner only; it appears when the block ends without an error.

    Raises ``FileExistsError`` if there is a file. After an error nothing is left; what a killed
    process left, the next backup in the same folder deletes.
    """
    if path.exists():
        raise FileExistsError(17, "the file exists; a backup never replaces one", str(path))
    _remove_leftovers(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with suppress(OSError):  # not every file system has locks; then a leftover stays
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield ArchiveWriter(file, mtime)
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Delete what killed backups left in this folder: unlike those in progress, no process has a lock on it."""
    for part in folder.glob(f".*{_PART}"):
        with suppress(OSError), part.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Archive:
    """A finished archive. Members are read as streams."""

    def __init__(self, path: Path) -> None:
        """Read the manifest. Raises ``OSError``, and ``ArchiveDamaged`` when this is no complete archive."""
        self.path = path
        self._offsets: dict[str, tuple[int, int]] = {}
        text = b""
        try:
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for info in tar:
                    self._offsets[info.name] = (info.offset_data, info.size)
            if MANIFEST in self._offsets:
                offset, size = self._offsets[MANIFEST]
                with path.open("rb") as file:
                    file.seek(offset)
                    text = file.read(min(size, _MAX_MANIFEST))
        except tarfile.TarError as error:
            raise ArchiveDamaged(f"{path} is not a backup, or is damaged: {error}.") from error
        if not text:
            raise ArchiveDamaged(f"{path} has no {MANIFEST}: it is not a backup, or is incomplete.")
        self.about, self.members = _manifest(path, text)
        #: Names the content of this archive.
        self.digest = hashlib.sha256(text).hexdigest()

    def verify(self) -> None:
        """Compare every member with the manifest. Raises ``ArchiveDamaged`` naming the first that differs."""
        for name, member in self.members.items():
            sha256, number = hashlib.sha256(), 0
            with self._open(name) as file:
                while chunk := file.read(_CHUNK):
                    sha256.update(chunk)
            if sha256.hexdigest() != member.sha256:
                raise self._damaged(name, "its content has changed")
            for number, _ in enumerate(self.lines(name), 1):  # noqa: B007 - the last one counts
                pass
            if number != member.lines:
                raise self._damaged(name, f"it has {number:,} lines instead of {member.lines:,}")

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a member. Raises ``ArchiveDamaged``."""
        with self._open(name) as file:
            try:
                with gzip.GzipFile(fileobj=file, mode="rb") as packed:
                    while line := packed.readline(MAX_LINE):
                        if not line.endswith(b"\n"):
                            raise self._damaged(name, "a line is too long or incomplete")
                        yield line
            except (OSError, EOFError, zlib.error) as error:
                raise self._damaged(name, f"it cannot be unpacked ({error})") from error

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        member, place = self.members[name], self._offsets.get(f"{name}.jsonl.gz")
        if place is None:
            raise self._damaged(name, "it is missing")
        offset, size = place
        if size != member.size:
            raise self._damaged(name, f"it has {size:,} bytes instead of {member.size:,}")
        with self.path.open("rb") as file:
            yield io.BufferedReader(_Part(file, offset, size), _CHUNK)

    def _damaged(self, name: str, why: str) -> ArchiveDamaged:
        return ArchiveDamaged(f"{self.path}: the member {name} is damaged: {why}.")


class _Part(io.RawIOBase):
    """A part of a file, read-only."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file = file
        self._left = size
        file.seek(offset)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any, /) -> int:
        data = self._file.read(min(len(into), self._left))
        into[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _manifest(path: Path, text: bytes) -> tuple[Mapping[str, Any], Mapping[str, Member]]:
    try:
        about = json.loads(text)
        if about["format"] != FORMAT:
            raise ArchiveDamaged(f"{path} has the format {about['format']!r}; this version reads format {FORMAT}.")
        members = {
            str(name): Member(int(one["lines"]), int(one["bytes"]), str(one["sha256"]))
            for name, one in about["members"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ArchiveDamaged(f"{path}: the {MANIFEST} is damaged ({type(error).__name__}).") from error
    return about, members
