"""Export letters as JSON lines, which can be imported again byte for byte, or as a table for spreadsheets.

The last of the JSON lines has the number of letters and whether the export is complete. A table has no such line: an
incomplete one ends in a broken transfer.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from dlq_app import conf
from dlq_app.domain.criteria import LetterCriteria
from dlq_app.domain.errors import DeadLetterError, TooManyExports
from dlq_app.domain.explanation import explain
from dlq_app.domain.facets import shown_facets
from dlq_app.domain.letter import DeadLetter
from dlq_app.domain.letter_fields import FIELDS
from dlq_app.domain.masking import MaskingPolicy, mask, mask_json, mask_text
from dlq_app.domain.replay_policy import ReplayPolicy
from dlq_app.domain.versions import masked_diff
from dlq_app.store import repository
from dlq_app.store.documents import Unreadable
from wire.visible_text import without_unseen

log = logging.getLogger(__name__)

#: Form → its media type.
FORMS: Mapping[str, str] = {"jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8"}
#: Maximum concurrent exports of one process: each needs a thread for minutes, and submissions need threads, too.
MAX_EXPORTS = 2
_EXPORTED = [field for field in FIELDS if field.exported]
#: Columns of the first version, in the order that programs rely on; later fields follow.
_FIRST = (
    *("messageId", "_id", "type", "status", "resolution", "errorType", "errorKind", "errorReason", "explanation"),
    *("fingerprint", "retryCount", "dlqRetryCount", "strategy", "source", "priority", "tags", "client", "queuedAt"),
    *("firstFailedAt", "lastFailedAt", "nextRetryAt", "createdAt", "updatedAt", "resolvedAt", "originalMessage"),
    *("importedAt", "importedBy"),
)
#: Columns of the table.
COLUMNS = (*_FIRST, *(field.name for field in FIELDS if field.column and field.name not in _FIRST))
#: First characters of a formula in spreadsheets, also in the wide forms of East Asian keyboards.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
#: Excel recognizes UTF-8 by this mark.
_BOM = "\ufeff"
#: Characters of a cell that are searched for a formula behind blanks.
_SCANNED = 1000
_CHUNK_CHARS = 64 * 1024

_slots = threading.BoundedSemaphore(MAX_EXPORTS)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


@dataclass
class TextFile:
    """A file in pieces. ``chunks`` may be read once; ``count`` grows while it is."""

    form: str = field(default="jsonl", kw_only=True)
    count: int = field(default=0, kw_only=True)

    def chunks(self) -> Iterator[bytes]:
        """The file in pieces of about 64 KiB, with a few rows in memory at a time.

        Raises ``StoreUnavailable`` or ``QueryTooSlow`` when MongoDB fails: instead of the first piece, or after all
        rows read so far and, in JSON lines, a last line with the error.
        """
        lines = self._table() if self.form == "csv" else self._records()
        pieces: list[str] = []
        size = 0
        has_begun = False
        trouble: DeadLetterError | None = None
        try:
            for line in lines:
                pieces.append(line)
                size += len(line)
                if size >= _CHUNK_CHARS:
                    yield _bytes(pieces)
                    pieces, size, has_begun = [], 0, True
        except DeadLetterError as error:
            if not has_begun:
                raise
            trouble = error
        if self.form != "csv":
            pieces.append(_encode({"end": self._end(trouble)}) + "\n")
        yield _bytes(pieces)
        if trouble:
            log.error("export_broken_off", extra={"letters": self.count, "why": str(trouble)})
            raise trouble

    def _records(self) -> Iterator[str]:
        for found in self._shown():
            yield _encode(found) + "\n"

    def _table(self) -> Iterator[str]:
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL)
        text.write(_BOM)
        writer.writerow(self._head())
        for cells in self._rows():
            writer.writerow(cells)
            yield text.getvalue()
            text.seek(0)
            text.truncate()
        yield text.getvalue()

    _columns: ClassVar[Sequence[str]]

    def _head(self) -> Sequence[str]:
        """The names of the columns."""
        return self._columns

    def _shown(self) -> Iterator[Mapping[str, Any]]:
        """The rows as JSON objects."""
        raise NotImplementedError

    def _rows(self) -> Iterator[Sequence[str]]:
        """The rows as cells of these columns."""
        raise NotImplementedError

    def _end(self, trouble: DeadLetterError | None) -> dict[str, Any]:
        """The last of the JSON lines."""
        end: dict[str, Any] = {"count": self.count, "complete": trouble is None}
        return end | {"error": {"code": trouble.code, "detail": str(trouble)}} if trouble else end


@dataclass
class Export(TextFile):
    """One export of letters; ``unreadable`` grows while it is read."""

    criteria: LetterCriteria = field(default_factory=LetterCriteria)
    #: Show secrets. The caller has checked the permission.
    reveal: bool = False
    #: ``_id`` or message id of each letter, in their order, instead of ``criteria``.
    ids: Sequence[str] = ()
    #: Documents that are not letters: reported in the log and in the last of the JSON lines.
    unreadable: int = 0
    #: Number of ``ids`` without a letter: reported in the last of the JSON lines.
    missing: int = 0
    _unreadable_ids: list[str] = field(default_factory=list)
    _policy: ReplayPolicy = field(default_factory=conf.replay_policy)

    _columns: ClassVar[Sequence[str]] = COLUMNS
    _facets: Sequence[str] = field(default_factory=lambda: tuple(conf.facet_policy().facets))

    def _head(self) -> Sequence[str]:
        # Facets behind all others, so that the places of those stay the same.
        return [*self._columns, *(f"facet.{name}" for name in self._facets)]

    def _shown(self) -> Iterator[Mapping[str, Any]]:
        masking = None if self.reveal else conf.masking_policy()
        for letter in self._letters():
            yield record(letter, masking)

    def _rows(self) -> Iterator[Sequence[str]]:
        masking, now = None if self.reveal else conf.masking_policy(), datetime.now(UTC)
        for letter in self._letters():
            yield row(letter, self._policy, masking, now, self._facets)

    def _letters(self) -> Iterator[DeadLetter]:
        for one in self.ids:
            letter = repository.letters().find(one)
            self.count += letter is not None
            self.missing += letter is None
            if letter is not None:
                yield letter
        if self.ids:
            return
        for found in repository.letters().walk(self.criteria):
            if isinstance(found, Unreadable):
                self.unreadable += 1
                self._unreadable_ids.append(found.id)
                log.warning("export_left_out", extra={"id": found.id, "why": str(found)})
                continue
            self.count += 1
            yield found

    def _end(self, trouble: DeadLetterError | None) -> dict[str, Any]:
        end = super()._end(trouble)
        if self.unreadable:
            end |= {"unreadable": self.unreadable, "unreadableIds": self._unreadable_ids[: repository.MAX_NAMED]}
        if self.missing:
            end["missing"] = self.missing
        return end


class Stream:
    """The chunks of an export, two read ahead: a small export has succeeded or failed before any chunk is sent.

    Holds one of the process's ``MAX_EXPORTS`` slots until it ends, fails or is closed.
    """

    def __init__(self, export: TextFile) -> None:
        if not _slots.acquire(blocking=False):
            raise TooManyExports(retry_after=30)
        self._is_open = True
        self._chunks = export.chunks()
        self._ahead: deque[bytes] = deque()
        self._trouble: DeadLetterError | None = None
        self._read()
        self._read()
        if self._trouble:
            raise self._trouble

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if not self._ahead:
            raise self._trouble or StopIteration
        chunk = self._ahead.popleft()
        self._read()
        return chunk

    def _read(self) -> None:
        if not self._is_open:
            return
        try:
            self._ahead.append(next(self._chunks))
        except StopIteration:
            self.close()
        except DeadLetterError as error:
            self._trouble = error  # raised after the chunks that were read before it
            self.close()
        except BaseException:
            # A slot that is not released would be lost until this process ends.
            self.close()
            raise

    def close(self) -> None:
        """Release the slot. Can be called again."""
        if self._is_open:
            self._is_open = False
            _slots.release()


def record(letter: DeadLetter, masking: MaskingPolicy | None) -> dict[str, Any]:
    """A letter as ``importing`` reads it. Without a masking policy nothing is hidden.

    ``masked``: something is hidden, so the line cannot be imported. Fields of this installation alone are left out: the
    account that its message was counted in, and batches that skipped it.
    """
    shown = {field.name: field.value(letter) for field in _EXPORTED} | _body(letter.body)
    if masking is None:
        return {**shown, "masked": False}
    own = {
        "facets": shown_facets(letter.facets, masking),
        "originalMessage": mask_json(shown["originalMessage"], masking),
        "versions": [
            {**mask(entry, masking), "diff": masked_diff(letter, version, masking)}
            for entry, version in zip(shown["versions"], letter.versions, strict=True)
        ],
    }
    if "originalMessageBase64" in shown:
        own["originalMessageBase64"] = ""  # it is no text, so no rule can find the secrets in it
    secret = [field.name for field in _EXPORTED if field.secret and field.name not in own]
    hidden = {**shown, **{name: mask(shown[name], masking) for name in secret}, **own}
    return {**hidden, "masked": hidden != shown}


def _body(body: bytes) -> dict[str, str]:
    try:
        return {"originalMessage": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"originalMessage": "", "originalMessageBase64": b64encode(body).decode()}


def row(
    letter: DeadLetter,
    policy: ReplayPolicy,
    masking: MaskingPolicy | None,
    now: datetime,
    facets: Sequence[str] = (),
) -> list[str]:
    """A letter as cells of the table: ``COLUMNS``, then these facets. A spreadsheet treats none as a formula."""
    found = record(letter, masking)
    metadata = found["metadata"]
    found = {field.name: metadata.get(field.name) for field in FIELDS if not field.attribute} | found
    tags = metadata.get("tags")
    found["tags"] = " ".join(map(str, tags)) if isinstance(tags, list) else ""
    mark = found["imported"] or {}
    found |= {"importedAt": mark.get("at"), "importedBy": mark.get("by"), "traceId": letter.trace_id}
    why = explain(letter, policy, now)
    found["explanation"] = why if masking is None else mask_text(why, masking)
    values = found["facets"]
    return [cell(found[name]) for name in COLUMNS] + [cell(" ".join(values.get(name, ()))) for name in facets]


def cell(value: object) -> str:
    """A value as a cell. An apostrophe in front keeps spreadsheets from treating it as a formula.

    >>> cell('=HYPERLINK("http://evil/")')
    '\\'=HYPERLINK("http://evil/")'
    """
    text = "" if value is None else str(value)
    # Spreadsheets skip blanks and invisible characters in front of a formula.
    begin = without_unseen(text[:_SCANNED]).lstrip()
    return f"'{text}" if text.startswith(_FORMULA) or begin.startswith(_FORMULA) else text


def _bytes(pieces: Sequence[str]) -> bytes:
    # Half of a surrogate pair, which masking may bring out of an escape, becomes that escape again.
    return "".join(pieces).encode("utf-8", "backslashreplace")
