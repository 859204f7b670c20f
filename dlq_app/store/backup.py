"""Reads and writes whole collections for backups: every document as one line of Extended JSON, with its types."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, cast

import bson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.store.groups import GROUPS
from dlq_app.store.mongo import (
    BATCHES,
    ITEMS,
    LETTERS,
    LOSSES,
    MARKS,
    Document,
    database,
    patiently,
    translated,
)

#: The collections of a backup. Leases, figures and hourly limits are not in it: they are made again.
COLLECTIONS = (LETTERS, GROUPS, ITEMS, BATCHES, LOSSES, MARKS)
#: A restore needs these to be empty. The others have at most what a running installation has just made.
MUST_BE_EMPTY = (LETTERS, BATCHES, ITEMS)
#: The state of backups and restores.
STATE = "dlq_backups"
_LAST, _RESTORE = "last", "restore"
#: Seconds for reading or writing one collection.
_LIMIT_S = 6 * 3600.0
_DUPLICATE_KEY = 11000
#: The server no longer has the state of that instant, or never had it.
_SNAPSHOT_LOST = frozenset({239, 246})
_OPTIONS = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
_CODEC: CodecOptions[Document] = CodecOptions(tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO)
_LENIENT = _CODEC.with_options(unicode_decode_error_handler="replace")
_AS_BYTES: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
#: Key of a document that Extended JSON cannot show, because a key of its own looks like a type: its BSON in base64.
_RAW = "$bson"


@dataclass(frozen=True, slots=True, kw_only=True)
class LastBackup:
    """The last successful backup."""

    at: datetime
    file: str
    letters: int


class Backups:
    """Whole collections of one database, and what is known of its backups."""

    def __init__(self, store: Database[Document]) -> None:
        self._store = store
        self._state: Collection[Document] = store[STATE]

    # -- reading

    @contextmanager
    def instant(self) -> Iterator[ClientSession | None]:
        """A session in which all reads see one instant; None where the server has no snapshots (no replica set)."""
        with translated():
            is_set = "setName" in self._store.client.admin.command("hello")
        if not is_set:
            yield None
            return
        with self._store.client.start_session(snapshot=True) as session:
            yield session

    def copy(self, name: str, session: ClientSession | None, into: IO[bytes]) -> None:
        """Write every document of a collection to a file, as MongoDB sends them, by ``_id``. Flat memory.

        The server keeps an instant for some minutes only, so nothing is converted meanwhile. Raises
        ``StoreUnavailable``, also when the server no longer has the instant of the session.
        """
        with patiently(_LIMIT_S):
            try:
                # In the order of _id, so that documents that move on disk come once without a snapshot, too.
                for batch in self._store[name].find_raw_batches({}, session=session).sort("_id", 1):
                    into.write(cast("bytes", batch))
            except OperationFailure as error:
                if error.code not in _SNAPSHOT_LOST:
                    raise
                raise StoreUnavailable(
                    "MongoDB no longer has the state of the beginning of the backup: reading took too long. Raise its "
                    "parameter minSnapshotHistoryWindowInSeconds (default 300)."
                ) from error

    # -- writing

    def sizes(self) -> Mapping[str, int]:
        """Number of documents in the collections that a restore needs to be empty."""
        with patiently(_LIMIT_S):
            return {name: self._store[name].count_documents({}) for name in MUST_BE_EMPTY}

    def write(self, name: str, documents: Sequence[Document]) -> int:
        """Insert documents that are not there yet; return how many were inserted. Never changes one that is there."""
        if not documents:
            return 0
        with patiently(_LIMIT_S):
            try:
                return len(self._store[name].insert_many(documents, ordered=False).inserted_ids)
            except BulkWriteError as error:
                failures = error.details["writeErrors"]
                if error.details.get("writeConcernErrors") or any(one["code"] != _DUPLICATE_KEY for one in failures):
                    raise
                return int(error.details["nInserted"])

    # -- state

    def succeeded(self, *, file: str, letters: int, size: int, by: str) -> None:
        """Store that a backup succeeded now, by the server's clock."""
        change = {"file": file[:200], "letters": letters, "bytes": size, "by": by[:200]}
        with translated():
            self._state.update_one({"_id": _LAST}, {"$set": change, "$currentDate": {"at": True}}, upsert=True)

    def last(self) -> tuple[LastBackup | None, datetime]:
        """The last successful backup, and the server's time."""
        with translated():
            local: datetime = self._store.client.admin.command("hello")["localTime"]
            now = local.replace(tzinfo=UTC)
            found = self._state.find_one({"_id": _LAST})
        if found is None or not isinstance(found.get("at"), datetime):
            return None, now
        return LastBackup(at=found["at"], file=str(found.get("file", "")), letters=int(found.get("letters", 0))), now

    def begin_restore(self, archive: str, details: Mapping[str, Any]) -> bool:
        """Note that this archive is being restored; False while another one is. True again for the same archive."""
        try:
            with translated():
                self._state.insert_one({"_id": _RESTORE, "archive": archive, **details})
                return True
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, DuplicateKeyError):
                raise
        with translated():
            return self._state.find_one({"_id": _RESTORE, "archive": archive}) is not None

    def unfinished_restore(self) -> Mapping[str, Any] | None:
        """What is known of a restore that did not end."""
        with translated():
            return self._state.find_one({"_id": _RESTORE})

    def end_restore(self, archive: str) -> None:
        with translated():
            self._state.delete_one({"_id": _RESTORE, "archive": archive})


def lines(copied: IO[bytes]) -> Iterator[bytes]:
    """The documents that ``Backups.copy`` wrote, each as a line of JSON with all types.

    Raises ``StoreUnavailable`` naming a document with text that is not UTF-8, which MongoDB accepts.
    """
    for raw in bson.decode_file_iter(copied, _AS_BYTES):
        try:
            document = bson.decode(raw.raw, _CODEC)
        except BSONError as error:
            name = bson.decode(raw.raw, _LENIENT).get("_id")
            message = f"MongoDB's document {name} cannot be read ({error}). Correct or delete it."
            raise StoreUnavailable(message) from error
        yield line_of(document)


def line_of(document: Document) -> bytes:
    """A document as a line of JSON, from which ``document_from`` makes the same document."""
    shown = {_RAW: b64encode(bson.encode(document)).decode()} if _looks_typed(document) else document
    return json_util.dumps(shown, json_options=_OPTIONS, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _looks_typed(value: object) -> bool:
    if isinstance(value, dict):
        return any(key.startswith("$") or _looks_typed(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_looks_typed, value))


def document_from(line: bytes) -> Document:
    """The document of a line. Raises ``ValueError`` for anything else."""
    try:
        found = json_util.loads(line, json_options=_OPTIONS)
    except (TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, BSONError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if isinstance(found, dict) and found.keys() == {_RAW}:
        try:
            found = bson.decode(b64decode(found[_RAW], validate=True), _CODEC)
        except (BSONError, TypeError) as error:
            raise ValueError(str(error)) from error
    if not isinstance(found, dict) or "_id" not in found:
        raise ValueError("not a document with an _id")
    return found


def backups() -> Backups:
    """The backups of the configured database."""
    return Backups(database())
