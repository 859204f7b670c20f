"""Letters from a file of JSON lines, as ``exporting`` writes them. An import plants payloads that will be run.

So every line is judged by ``import_rules``, and its payload by intake. A message that has a letter keeps it as it is:
the same file twice changes nothing.

The numbers that order epochs come with the letter. They must lie in the past of intake's clock, and the message must
not be under way here: otherwise the death of a message that was accepted here would meet a letter that seems to have a
newer outcome, and be lost. A message that is accepted after the look gets a higher epoch than any imported number.
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

#: A longer line is refused unread: no letter is larger.
MAX_LINE = 16 * 1024 * 1024
#: Refused lines that are told one by one; the others are counted.
MAX_TOLD = 1000
#: Letters, and bytes of their lines, that are brought in together.
_CHUNK, _CHUNK_BYTES = 100, 4 * 1024 * 1024
_READ = 256 * 1024

#: Gives at most so many bytes, and none at the end.
Read = Callable[[int], bytes]


@dataclass(slots=True)
class Summary:
    """What became of the lines so far."""

    lines: int = 0
    imported: int = 0
    #: Their messages have letters already.
    unchanged: int = 0
    refused: int = 0
    #: The first refused lines: number, from 1, and why.
    told: list[tuple[int, str]] = field(default_factory=list)
    #: What the last line of an export says of the file, if all that it counts came; None without such a line.
    complete: bool | None = None

    def refuse(self, line: int, why: str) -> None:
        self.refused += 1
        if len(self.told) < MAX_TOLD:
            self.told.append((line, why))

    def wire(self) -> dict[str, Any]:
        """As JSON; ``rejected`` holds the first thousand."""
        return {
            "lines": self.lines,
            "imported": self.imported,
            "unchanged": self.unchanged,
            "rejectedCount": self.refused,
            "rejected": [{"line": line, "error": why} for line, why in self.told],
            "complete": self.complete,
        }

    def __str__(self) -> str:
        return f"{self.imported} imported, {self.unchanged} unchanged, {self.refused} rejected"


def bring_in(read: Read, *, actor: str, progress: Callable[[Summary], None] = lambda summary: None) -> Summary:
    """Import the lines that ``read`` gives, in flat memory; ``progress`` hears after every hundred letters.

    Raises ``StoreUnavailable`` saying how far it came: import the same again, what is there stays as it is.
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
        #: Letters since the last line that ended a file: files may be put together.
        self._since_end = 0
        self._ends: list[bool] = []

    def run(self, read: Read) -> Summary:
        summary = self._summary
        try:
            for number, line in split(read):
                summary.lines = number
                self._take(number, line)
                if len(self._waiting) >= _CHUNK or self._bytes >= _CHUNK_BYTES:
                    self._bring_in()
            self._bring_in()
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

    def _bring_in(self) -> None:
        """Bring in what waits. The clock is read before anybody looks whether its messages are under way."""
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
        answers = self._letters.bring_in([letter for _, letter in taken])
        for (number, _), answer in zip(taken, answers, strict=True):
            if answer == IMPORTED:
                self._summary.imported += 1
            elif answer == UNCHANGED:
                self._summary.unchanged += 1
            else:
                self._summary.refuse(number, answer)
        self._progress(self._summary)


def split(read: Read) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a stream with their numbers, without empty ones; None for one longer than ``MAX_LINE``, not kept."""
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
