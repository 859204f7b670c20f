"""One connection of the web server as bytes: where a request ends, how fast its peer is, what is still to be sent.

``webserver.py`` reads and writes in its event loop, without a thread, and lends a ``Wire`` to a thread in the place of
the socket while a request is answered. Gunicorn's own parser still decides what a request is. What is found out here
decides only when that parser gets to see the bytes, so the two cannot disagree about where a request ends.
"""

from __future__ import annotations

import errno
import re
import select
import socket
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO, Final

#: Request line and headers together. Gunicorn's own limits, 8190 bytes a line and 100 headers, hold as well.
MAX_HEAD: Final = 64 * 1024
#: A body up to this size is collected before a thread is given; a longer one is refused, unless it is an import.
MAX_BODY: Final = 9 * 1024 * 1024
#: A body, or an answer, has to move ``MIN_MOVED`` bytes in every ``WINDOW_S`` seconds until it is complete.
WINDOW_S: Final = 10.0
MIN_MOVED: Final = 16 * 1024
#: The same where a thread waits: the body of an import, the answer of an export.
MIN_MOVED_OF_A_THREAD: Final = 256 * 1024
#: An answer that is written in pieces waits for its reader at so many unsent bytes: more than the largest static file.
HIGH_WATER: Final = 4 * 1024 * 1024
#: Small pieces, such as headers and body, are sent together.
_COALESCE = 32 * 1024
_AT_ONCE = 64
_PIECE = 64 * 1024
_FILE_PIECE = 1024 * 1024

_LINE = 8192 + 2
_BARE = re.compile(rb"(?<!\r)\n")
_FIELD = re.compile(rb"\r\n(content-length|transfer-encoding|expect):[ \t]*([^\r\n]*)", re.IGNORECASE)
#: The only request whose body may be longer. The view reads it as it comes, after it has seen that the key may.
_STREAMED = re.compile(rb"POST /(?:[^ ?]*/)?api/dlq/import(?:\?[^ ]*)? HTTP/")


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a request says about what follows."""

    #: Bytes until a thread can answer without waiting for the client.
    needed: int
    #: The client waits for ``100 Continue`` before it sends the body.
    expects: bool = False
    #: The rest cannot be collected, so the connection ends with the answer.
    is_last: bool = False
    #: A status to refuse the request with, before any of its body is read.
    refused: int = 0


def find_head(data: bytearray, searched: int) -> Head | None:
    """What ``data`` begins with, None while its head is incomplete; up to ``searched`` bytes were looked at before.

    What is no HTTP counts as a complete request at once: the parser says what is wrong with it.
    """
    end = data.find(b"\r\n\r\n", max(0, searched - 3))
    if end < 0:
        if len(data) > MAX_HEAD:
            return Head(needed=0, refused=431)
        too_long = len(data) > _LINE and data.find(b"\r\n", 0, _LINE) < 0
        return Head(needed=0) if too_long or _BARE.search(data, searched) else None
    if end > MAX_HEAD:
        return Head(needed=0, refused=431)
    lengths: list[bytes] = []
    chunked = expects = False
    for name, value in _FIELD.findall(data, 0, end + 2):
        kind = name[0] | 0x20
        if kind == 0x63:  # c
            lengths.append(value.strip(b" \t"))
        elif kind == 0x74:  # t
            chunked = True
        else:
            expects = value.lower().startswith(b"100-continue")
    body = end + 4
    if chunked:
        # No address reads such a body: intake answers 411, the others take it for empty.
        return Head(needed=body, is_last=True)
    if not lengths:
        return Head(needed=body)
    if len(lengths) > 1 or not lengths[0].isdigit():
        return Head(needed=body, is_last=True)  # the parser refuses it
    length = int(lengths[0]) if len(lengths[0]) < 16 else MAX_BODY + 1
    if length <= MAX_BODY:
        return Head(needed=body + length, expects=expects and length > 0)
    if _STREAMED.match(data) and len(lengths[0]) < 16:
        return Head(needed=body, is_last=True)
    return Head(needed=body, refused=413)


class Pace:
    """Whether a peer moves enough bytes: ``least`` in every ``WINDOW_S`` seconds for which it is waited for."""

    __slots__ = ("least", "moved", "waited_s")

    def __init__(self, least: int = MIN_MOVED) -> None:
        self.least = least
        self.moved = 0
        self.waited_s = 0.0

    def is_too_slow(self, waited_s: float) -> bool:
        """Count ``waited_s`` more seconds; true when a window has ended with less than it needs."""
        self.waited_s += waited_s
        if self.waited_s < WINDOW_S:
            return False
        slow = self.moved < self.least
        self.moved, self.waited_s = 0, 0.0
        return slow


class Wire:
    """A client's socket, never blocking: what came and was not consumed yet, and what is to go and was not sent yet.

    The event loop calls ``receive``, ``flush`` and ``restart``; the thread that has the request, ``recv``, ``send``
    and ``sendall``. Only one of the two has the connection at any time.
    """

    def __init__(self, raw: socket.socket) -> None:
        raw.setblocking(False)
        self.raw = raw
        self.head: Head | None = None
        self.is_at_end = False
        #: Nothing can be sent any more, or nothing may be.
        self.is_broken = False
        self.unsent = 0
        self.pace = Pace()
        self._is_continued = False
        self._in = bytearray()
        self._searched = 0
        self._taken = 0
        self._out: deque[memoryview] = deque()

    # -- for the event loop

    @property
    def received(self) -> int:
        return len(self._in)

    def receive(self) -> None:
        """Take what has come. Raises OSError when the connection is broken."""
        try:
            data = self.raw.recv(_PIECE)
        except (BlockingIOError, InterruptedError):
            return
        if not data:
            self.is_at_end = True
        self._in += data
        self.pace.moved += len(data)

    def is_complete(self) -> bool:
        """Whether a thread can answer the request, or refuse it, without waiting for the client."""
        if self.head is None:
            self.head = find_head(self._in, self._searched)
            self._searched = len(self._in)
            if self.head is not None:
                self.pace = Pace()
        return self.head is not None and len(self._in) >= self.head.needed

    def collected(self, begin: bytes, at_most: int) -> bytes | None:
        """The complete request; None if it begins differently or is longer."""
        if self.head is None or self.head.needed > at_most or not self._in.startswith(begin):
            return None
        return bytes(memoryview(self._in)[: self.head.needed])

    def consume(self, size: int) -> None:
        """``size`` collected bytes were answered in the event loop; start the next request with the rest."""
        self._taken = size
        self.restart(b"")

    def invite(self) -> None:
        """Answer ``Expect: 100-continue`` if that is what the client waits for."""
        if self.head is not None and self.head.expects and not self._is_continued:
            self._is_continued = True
            self._out.append(memoryview(b"HTTP/1.1 100 Continue\r\n\r\n"))
            self.unsent += len(self._out[-1])
            self.flush()

    def restart(self, read_ahead: bytes) -> None:
        """Start the next request with ``read_ahead`` and the bytes that the last one did not consume."""
        del self._in[: self._taken]
        self._in[:0] = read_ahead
        self.head = None
        self._searched = self._taken = 0
        self._is_continued = False

    def flush(self) -> None:
        """Send what can be sent without waiting. Raises OSError when the connection is broken."""
        while self._out:
            try:
                sent = self.raw.sendmsg(list(islice(self._out, _AT_ONCE)))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.give_up()
                raise
            self.unsent -= sent
            self.pace.moved += sent
            while sent:
                first = self._out[0]
                if sent < len(first):
                    self._out[0] = first[sent:]
                    break
                sent -= len(first)
                self._out.popleft()

    def give_up(self) -> None:
        """Send nothing more, and forget what was to be sent."""
        self.is_broken = True
        self._out.clear()
        self.unsent = 0

    def fileno(self) -> int:
        return self.raw.fileno()

    # -- for the thread: as much of a socket as gunicorn uses

    def setblocking(self, _flag: bool) -> None:
        """Nothing: it never blocks, and waits where it has to."""

    def recv(self, size: int) -> bytes:
        """The next bytes: those collected, then, of a body that is read as it comes, those that the client sends."""
        if self._taken >= len(self._in) and not self.is_at_end:
            self._in.clear()
            self._taken = 0
            while not self._in and not self.is_at_end:
                self._wait(select.POLLIN)
                self.receive()
        data = bytes(memoryview(self._in)[self._taken : self._taken + size])
        self._taken += len(data)
        return data

    def send(self, data: bytes) -> int:
        """Send at once: gunicorn's ``100 Continue``, unless the event loop has said so already."""
        if not self._is_continued:
            self.sendall(data)
            self.flush()
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Send, now or later. Waits only while ``HIGH_WATER`` bytes of earlier pieces are unsent.

        Raises BrokenPipeError when the client is gone or does not read.
        """
        if self.is_broken:
            raise BrokenPipeError(errno.EPIPE, "the client is gone")
        if self.unsent > HIGH_WATER:
            while self.unsent > HIGH_WATER // 2:
                self._wait(select.POLLOUT)
                self.flush()
        if data:
            self._out.append(memoryview(data))
            self.unsent += len(data)
        if self.unsent > _COALESCE:
            self.flush()

    def sendfile(self, file: BinaryIO, offset: int, count: int) -> None:
        """Send a part of a static file. The largest is smaller than ``HIGH_WATER``."""
        file.seek(offset)
        while count > 0:
            piece = file.read(min(count, _FILE_PIECE))
            if not piece:
                raise BrokenPipeError(errno.EPIPE, "the file is shorter than announced")
            count -= len(piece)
            self.sendall(piece)

    def shutdown(self, _how: int) -> None:
        """Refuse: the event loop ends connections, and waits for the client without a thread."""
        raise OSError(errno.ENOTSUP, "left to the event loop")

    def close(self) -> None:
        """Send nothing more: an answer broke off. The event loop closes the socket."""
        self.give_up()

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.raw, event)
        since = time.monotonic()
        poll.poll((WINDOW_S - self.pace.waited_s) * 1000)
        if self.pace.is_too_slow(time.monotonic() - since):
            self.give_up()
            raise BrokenPipeError(errno.EPIPE, "the client is too slow")
