"""Import letters from a file of JSON lines, as ``exporting`` writes them.

Imported payloads will run, so ``import_rules`` checks every line and intake checks its payload. A message that already
has a letter keeps it unchanged: importing a file twice changes nothing.

A letter keeps its epochs. They must be in the past of intake's clock, and its message must not be in progress here:
otherwise the death of a message that was accepted here would meet a letter with an apparently newer outcome, and be
lost. A message that is accepted after the check gets a higher epoch than any imported number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from audit_app.lines import record
from dlq_app import conf
from dlq_app.conf import intake
from dlq_app.domain.errors import PayloadInvalid, StoreUnavailable
from dlq_app.domain.import_readers import MAX_PAYLOAD, LineRefused
from dlq_app.domain.import_rules import end_of, imported_letter, parse
from dlq_app.store import repository
from dlq_app.store.repository import IMPORTED, UNCHANGED

log = logging.getLogger(__name__)

#: A longer line is rejected unread: no letter is larger.
MAX_LINE = 16 * 1024 * 1024
#: Rejected lines that are reported one by one; the others are only counted.
MAX_ERRORS = 1000
#: Letters, and bytes of their lines, that are imported together.
_CHUNK, _CHUNK_BYTES = 100, 4 * 1024 * 1024
_READ = 256 * 1024

#: Returns at most the given number of bytes, and none at the end.
Read = Callable[[int], bytes]


@dataclass(slots=True)
class Summary:
    """Results of the lines read so far."""

    lines: int = 0
    imported: int = 0
    #: Their messages have letters already.
    unchanged: int = 0
    refused: int = 0
    #: The first rejected lines: number, from 1, and reason.
    errors: list[tuple[int, str]] = field(default_factory=list)
    #: Whether all letters came that the last line of an export counts; None without such a line.
    complete: bool | None = None

    def refuse(self, line: int, why: str) -> None:
        self.refused += 1
        if len(self.errors) < MAX_ERRORS:
            self.errors.append((line, why))

    def __str__(self) -> str:
        return f"{self.imported} imported, {self.unchanged} unchanged, {self.refused} rejected"


def import_lines(read: Read, *, actor: str, progress: Callable[[Summary], None] = lambda summary: None) -> Summary:
    """Import the lines of ``read`` in constant memory; calls ``progress`` after every hundred letters.

    Raises ``StoreUnavailable`` with the line reached: import the same file again, existing letters stay as they are.
    """
    return _Import(actor, progress).run(read)


class _Import:
    def __init__(self, actor: str, progress: Callable[[Summary], None]) -> None:
        self._actor = actor
        self._progress = progress
        self._letters = repository.letters()
        self._port = intake()
        self._now = repository.now()
        self._summary = Summary()
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._bytes = 0
        #: Letters since the last line that ended a file: files may be concatenated.
        self._since_end = 0
        self._ends: list[bool] = []

    def run(self, read: Read) -> Summary:
        summary = self._summary
        try:
            for number, line in split(read):
                summary.lines = number
                self._take(number, line)
                if len(self._waiting) >= _CHUNK or self._bytes >= _CHUNK_BYTES:
                    self._flush()
            self._flush()
        except StoreUnavailable as error:
            detail = f"Stopped at line {summary.lines}: {summary}. Import the same file again. {error}"
            raise StoreUnavailable(detail, retry_after=error.retry_after) from error
        finally:
            told = {"imported": summary.imported, "unchanged": summary.unchanged, "refused": summary.refused}
            log.warning("letters_imported", extra={"by": self._actor, **told})
            record(self._actor, "import", kind="deadletter", name="import", why=str(summary), count=summary.imported)
        if False in self._ends:
            summary.complete = False
        elif self._ends and self._since_end == 0:
            summary.complete = True
        return summary

    def _take(self, number: int, line: bytes | None) -> None:
        try:
            if line is None:
                raise LineRefused(f"is longer than the maximum of {MAX_LINE} bytes")
            found = parse(line)
            if "end" in found:
                count, is_complete = end_of(found)
                self._ends.append(is_complete and count == self._since_end)
                self._since_end = 0
                return
            letter = imported_letter(found, self._now, conf.masking_policy(), by=self._actor)
            self._check(letter["originalMessage"])
        except LineRefused as error:
            self._summary.refuse(number, str(error))
        else:
            self._waiting.append((number, letter))
            self._bytes += len(line)
        self._since_end += 1

    def _check(self, payload: str) -> None:
        body = payload.encode()
        if len(body) > MAX_PAYLOAD:
            raise LineRefused(f"originalMessage: has more than {MAX_PAYLOAD} bytes")
        try:
            self._port.check_payload(body)
        except PayloadInvalid as error:
            why = "; ".join(entry["message"] for entry in error.errors) or "intake would not accept it"
            raise LineRefused(f"originalMessage: {why}") from error

    def _flush(self) -> None:
        """Import the waiting letters. Reads the clock before it checks whether their messages are in progress."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        now_ms = self._port.now_ms()
        message_ids = [letter["messageId"] for _, letter in waiting]
        there = self._letters.known(message_ids)
        open_here = self._port.open_among([name for name in message_ids if name not in there])
        taken: list[tuple[int, dict[str, Any]]] = []
        for number, letter in waiting:
            if letter["messageId"] in there:
                self._summary.unchanged += 1
            elif letter["messageId"] in open_here:
                self._summary.refuse(number, "messageId: a message with this id is in progress here")
            elif (letter["fence"] or 0) > now_ms:
                self._summary.refuse(number, "fence: is in the future; compare the clocks of both systems")
            else:
                if letter["fence"] is None:
                    letter["fence"] = letter["closedEpoch"] = now_ms
                taken.append((number, letter))
        answers = self._letters.insert_imported([letter for _, letter in taken])
        for (number, _), answer in zip(taken, answers, strict=True):
            if answer == IMPORTED:
                self._summary.imported += 1
            elif answer == UNCHANGED:
                self._summary.unchanged += 1
            else:
                self._summary.refuse(number, answer)
        self._progress(self._summary)


def split(read: Read) -> Iterator[tuple[int, bytes | None]]:
    """The non-empty lines of a stream with their numbers; None instead of a line longer than ``MAX_LINE``."""
    number, rest = 1, b""
    is_skipping = False
    while block := read(_READ):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if is_skipping:
                is_skipping = False
                yield number, None
            elif line.strip():
                yield number, line
            number += 1
        if len(rest) > MAX_LINE:
            rest, is_skipping = b"", True
    if is_skipping:
        yield number, None
    elif rest.strip():
        yield number, rest
