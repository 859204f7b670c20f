"""Makes a backup of the dead letters and of what an installation needs beside them, and restores it.

A restore only adds documents and rows. Killed at any line it can be repeated with the same file, and continues.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from django.conf import settings

from audit_app.lines import record
from dlq_app.domain.restoring import restored_batch, restored_letter
from dlq_app.domain.states import Status
from dlq_app.services import dead_letters
from dlq_app.store import repository
from dlq_app.store.backup import COLLECTIONS, backups, document_from
from dlq_app.store.backup import lines as document_lines
from dlq_app.store.facet_filling import filling
from dlq_app.store.mongo import BATCHES, ITEMS, LETTERS
from management.archive import Archive, new_archive
from management.database_rows import TABLES, restore, rows
from management.errors import ArchiveDamaged, RestoreRefused
from messages_app.store import presence
from messages_app.store.inspection import inspection

_PAGE = 200
Progress = Callable[[str, int], None]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A finished backup."""

    path: Path
    size: int
    #: Member → number of lines.
    members: Mapping[str, int]
    #: Whether MongoDB's part is the state of one instant.
    is_one_instant: bool


def path_of(text: str) -> Path:
    """The file of a backup: in a folder, one that is named by the time."""
    path = Path(text)
    return path / f"dlq-backup-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar" if path.is_dir() else path


def make(path: Path, *, by: str, progress: Progress = lambda what, number: None) -> Made:
    """Write a backup to ``path``, which must not exist.

    Raises ``OSError``, ``StoreUnavailable`` and Django's ``DatabaseError``; then there is no file.
    """
    store = backups()
    began = repository.letters().server_now()
    # The file contains secrets, so it is not made without this line.
    record(by, "backup", kind="deadletter", name=path.name, must=True)
    with new_archive(path, int(began.timestamp())) as archive, ExitStack() as files:
        # Without a name: nothing is left of them when the process is killed.
        copies = {name: files.enter_context(TemporaryFile(dir=path.parent)) for name in COLLECTIONS}
        with store.instant() as session:
            for name, copied in copies.items():
                store.copy(name, session, copied)
        for name, copied in copies.items():
            copied.seek(0)
            archive.add(name, _counted(document_lines(copied), name, progress))
        for name, table in TABLES.items():
            archive.add(name, _counted(rows(table), name, progress))
        about = {
            "madeAt": began.astimezone(UTC).isoformat(),
            "version": settings.VERSION,
            "host": socket.gethostname(),
            "oneInstant": session is not None,
            "keyPrefix": settings.REDIS_PREFIX,
        }
        archive.finish(about)
    numbers = {name: member.lines for name, member in archive.members.items()}
    size = path.stat().st_size
    store.succeeded(file=path.name, letters=numbers[LETTERS], size=size, by=by)
    return Made(path=path, size=size, members=numbers, is_one_instant=session is not None)


# --- restore ---


@dataclass(slots=True, kw_only=True)
class Restored:
    """What a restore has done. Numbers by member."""

    made_at: str
    added: dict[str, int] = field(default_factory=dict)
    #: Were there already: restored by an earlier run of the same restore, or made by ``prepare``.
    there: dict[str, int] = field(default_factory=dict)
    #: Letters that now need a decision: their replay was in progress.
    interrupted: int = 0
    #: Letters whose automatic replay starts with the next DLQ worker or cron, once due; with ``hold`` none.
    automatic: int = 0
    held: int = 0
    paused_batches: int = 0


def apply(archive: Archive, *, by: str, hold: bool, progress: Progress = lambda what, number: None) -> Restored:
    """Restore a verified archive into empty collections. Starts no replay.

    Raises ``RestoreRefused`` before anything is changed; ``ArchiveDamaged``; ``OSError``; and ``StoreUnavailable`` or
    ``DatabaseError``, after which the call can be repeated.
    """
    store = backups()
    _require_members(archive)
    _require_stopped()
    unfinished = store.unfinished_restore()
    if unfinished is None:
        _require_empty(store.sizes())
    elif unfinished.get("archive") != archive.digest or unfinished.get("hold") is not hold:
        with_hold = " with --hold" if unfinished.get("hold") else ""
        raise RestoreRefused(
            f"The restore of {unfinished.get('file')}{with_hold} has not ended. Run it again, or empty the database."
        )
    details = {"file": archive.path.name, "hold": hold, "by": by, "at": datetime.now(UTC)}
    if not store.begin_restore(archive.digest, details):
        raise RestoreRefused("Another restore has just begun.")
    dead_letters.build_indexes()
    # The restored letters have the facets of the policies and the key of that time.
    filling().forget()
    done = Restored(made_at=str(archive.about.get("madeAt", "")))
    highest = _restore_collections(archive, done, hold, progress)
    for name, table in TABLES.items():
        try:
            done.added[name], done.there[name] = restore(table, _counted(archive.lines(name), name, progress))
        except ValueError as error:
            raise ArchiveDamaged(f"{archive.path}: the member {name} is damaged: {error}.") from error
    # A new Redis must not give a message an epoch below that of its letter: the outcome would seem to be recorded.
    inspection().lowest_new_epoch(highest + 1)
    record(by, "restore", kind="deadletter", name=archive.path.name, count=done.added[LETTERS])
    store.end_restore(archive.digest)
    return done


def _restore_collections(archive: Archive, done: Restored, hold: bool, progress: Progress) -> int:
    """Returns the highest epoch of all letters."""
    store, now, highest = backups(), repository.letters().server_now(), 0
    planning: set[Any] = set()
    for document in _documents(archive, BATCHES):
        if restored_batch(document, now=now) is None:
            planning.add(document["_id"])
    for name in COLLECTIONS:
        done.added[name] = done.there[name] = 0
        iterator = iter(_counted(_documents(archive, name), name, progress))
        while page := list(islice(iterator, _PAGE)):
            if name == LETTERS:
                page = _letters(page, done, now, hold)
                highest = max([highest, *(_number(one.get(key)) for one in page for key in ("fence", "closedEpoch"))])
            elif name == BATCHES:
                page = _batches(page, done, now)
            elif name == ITEMS:
                page = [one for one in page if one.get("batchId") not in planning]
            added = store.write(name, page)
            done.added[name] += added
            done.there[name] += len(page) - added
    return highest


def _letters(page: list[Document], done: Restored, now: datetime, hold: bool) -> list[Document]:
    claimed = [str(one["messageId"]) for one in page if one.get("status") == Status.PROCESSING and "messageId" in one]
    records = inspection().states(claimed)
    restored = []
    for one in page:
        found = records.get(str(one.get("messageId")))
        is_running = found is not None and found.epoch == _number(one.get("fence"))
        letter = restored_letter(one, now=now, is_running=is_running, hold=hold)
        if letter.get("status") != one.get("status"):
            done.interrupted += one.get("status") == Status.PROCESSING
            done.held += one.get("status") == Status.PENDING
        done.automatic += letter.get("status") == Status.PENDING
        restored.append(letter)
    return restored


def _batches(page: list[Document], done: Restored, now: datetime) -> list[Document]:
    restored = []
    for one in page:
        batch = restored_batch(one, now=now)
        if batch is not None:
            done.paused_batches += batch.get("stage") == "paused"
            restored.append(batch)
    return restored


def _documents(archive: Archive, name: str) -> Iterator[Document]:
    for number, line in enumerate(archive.lines(name), 1):
        try:
            yield document_from(line)
        except ValueError as error:
            why = f"line {number:,} is no document ({error})"
            raise ArchiveDamaged(f"{archive.path}: the member {name} is damaged: {why}.") from error


def _require_members(archive: Archive) -> None:
    missing = sorted({*COLLECTIONS, *TABLES} - archive.members.keys())
    if missing:
        raise ArchiveDamaged(f"{archive.path} is incomplete: it has no member {', '.join(missing)}.")


def _require_stopped() -> None:
    """Roles would replay letters before all of them are restored."""
    alive = sorted({one.role for one in presence.present()})
    if alive:
        raise RestoreRefused(f"Roles are running: {', '.join(alive)}. Stop all roles on every host, wait 15 s, repeat.")


def _require_empty(sizes: Mapping[str, int]) -> None:
    found = [f"{number:,} documents in {name}" for name, number in sizes.items() if number]
    if found:
        raise RestoreRefused(
            f"The database {settings.MONGODB_DATABASE} is not empty: {', '.join(found)}. A restore would mix old and "
            "new states of the same letters. Use an empty database, or import single letters with manage.py import_dlq."
        )


def _counted(items: Iterable[Any], name: str, progress: Progress) -> Iterator[Any]:
    for number, item in enumerate(items, 1):
        yield item
        if number % _PAGE == 0:
            progress(name, number)


def _number(value: object) -> int:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else 0
