"""What a long-running command prints. A reader that is slow, gone or knows only ASCII never ends or blocks it."""

from __future__ import annotations

import os
import select
from typing import TextIO

#: Seconds for which a reader may accept nothing before a text is left out.
PATIENCE_S = 1.0
#: A pipe that ``select`` reports as writable takes this much without blocking (PIPE_BUF).
_CHUNK = 4096


class Output:
    """Prints to ``stream``, whose encoding it respects. For one thread."""

    def __init__(self, stream: TextIO, *, patience_s: float = PATIENCE_S) -> None:
        self._fd = stream.fileno()
        self._encoding = stream.encoding or "utf-8"
        self._patience_s = patience_s
        #: Texts left out since the last one that was printed.
        self.unsaid = 0

    def say(self, text: str) -> None:
        """Print ``text`` and a line end; never raises. A character that cannot be encoded is escaped."""
        if self.unsaid:
            text = f"({self.unsaid} texts before this one could not be printed)\n{text}"
        try:
            self._write(f"{text}\n".encode(self._encoding, "backslashreplace"))
        except OSError:  # nobody reads, the terminal was closed, the disk is full
            self.unsaid += 1
        else:
            self.unsaid = 0

    def _write(self, data: bytes) -> None:
        """Write without a buffer: nothing is left that would fail again at exit."""
        while data:
            if not select.select([], [self._fd], [], self._patience_s)[1]:
                raise BlockingIOError("nobody reads")
            data = data[os.write(self._fd, data[:_CHUNK]) :]
