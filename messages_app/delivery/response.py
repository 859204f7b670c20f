"""The head of an HTTP answer: interim answers (1xx) are skipped, and only the fields that a delivery uses are kept.

The standard library skips 100 alone, refuses a head of more than 100 fields and accepts one that breaks off. For a
delivery the first posts a message again that the receiver has taken, and the last takes half an answer for a whole one.
"""

from __future__ import annotations

import http.client
import io
import re
from typing import Any, Final

#: Interim answers that are skipped before the answer has to come.
MAX_INTERIM: Final = 64
#: Bytes of a head that are read. A longer one is taken as it is by then; its body is not read.
MAX_HEAD: Final = 262_144
#: ThreadConnections of the used fields that are kept; more than that is abuse, and http.client refuses more than 100.
_MAX_KEPT: Final = 60
_USED: Final = frozenset(
    {b"connection", b"content-length", b"keep-alive", b"location", b"retry-after", b"transfer-encoding"}
)
_FIELD = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):(.*)", re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,18}")


class _Head:
    """The fields of one head, reduced to the used ones."""

    def __init__(self) -> None:
        self.kept: list[tuple[bytes, bytes]] = []
        #: Why nobody can tell where the body ends; empty when that is clear.
        self.doubt = ""
        #: A line is no field: the connection is not used again.
        self.is_odd = False
        self._is_used = False

    def add(self, line: bytes) -> None:
        if line[:1] in b" \t":  # folded: the value of the field before goes on
            if self._is_used:
                name, value = self.kept[-1]
                self.kept[-1] = name, value.rstrip() + b" " + line.strip()
            return
        field = _FIELD.fullmatch(line.rstrip(b"\r\n"))
        self._is_used = False
        if field is None:
            self.is_odd = True
        elif field[1].lower() in _USED:
            if len(self.kept) < _MAX_KEPT:
                self.kept.append((field[1].lower(), field[2].strip()))
                self._is_used = True
            else:
                self.doubt = "its head repeats fields too often"

    def text(self) -> bytes:
        """The head as http.client reads it, with one length of the body that is not in doubt."""
        lengths = {one.strip() for one in b",".join(self._all(b"content-length")).split(b",")} - {b""}
        codings = b",".join(self._all(b"transfer-encoding")).lower()
        if codings not in (b"", b"chunked"):
            self.doubt = self.doubt or "its transfer coding is not known"
        elif len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            self.doubt = self.doubt or "its length is contradictory"
        fields = [field for field in self.kept if field[0] not in (b"content-length", b"transfer-encoding")]
        if self.doubt:
            fields += [(b"content-length", b"0")]
        elif codings:
            fields += [(b"transfer-encoding", codings)]
        else:
            fields += [(b"content-length", length) for length in lengths]
        if self.doubt or self.is_odd or (codings and lengths):
            fields = [field for field in fields if field[0] not in (b"connection", b"keep-alive")]
            fields += [(b"connection", b"close")]
        return b"".join(b"%s: %s\r\n" % field for field in fields) + b"\r\n"

    def announces_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in self.kept
        )

    def _all(self, name: bytes) -> list[bytes]:
        return [value for one, value in self.kept if one == name]


class Response(http.client.HTTPResponse):
    """An answer whose head has been received whole, or up to ``MAX_HEAD`` bytes.

    Raises ``HTTPException`` when the connection ends within the head: until then the receiver has not answered.
    """

    #: Why the body was not read although there may be one; empty otherwise.
    doubt = ""
    #: The connection, while http.client reads the head from memory.
    _line: Any = None

    def begin(self) -> None:
        try:
            super().begin()
        finally:
            if self._line is not None:
                self.fp, self._line = self._line, None

    def _read_status(self) -> tuple[str, int, str]:
        # begin() asks for this once for every answer it sees.
        for _ in range(MAX_INTERIM + 1):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # typeshed omits it
            head = _read_head(self.fp)
            if status >= 200 or status == http.client.SWITCHING_PROTOCOLS:
                # What a 204 or 304 announces as its body would be read as the start of the next answer.
                head.is_odd = head.is_odd or (status in (204, 304) and head.announces_body())
                fields = head.text()
                self.doubt = head.doubt
                self._line, self.fp = self.fp, io.BufferedReader(io.BytesIO(fields))
                return version, status, reason
        raise http.client.HTTPException(f"more than {MAX_INTERIM} interim answers and no final one")


def _read_head(line: Any) -> _Head:
    head, left = _Head(), MAX_HEAD
    while left > 0:
        read: bytes = line.readline(left)
        left -= len(read)
        if read in (b"\r\n", b"\n"):
            return head
        if not read.endswith(b"\n") and left > 0:
            raise http.client.HTTPException("the connection was closed within the head of the answer")
        head.add(read)
    head.doubt = f"its head is longer than {MAX_HEAD} bytes"
    return head
