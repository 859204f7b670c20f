"""How far a replay batch is: one line that a terminal shows over and over, or a line every few seconds for a log."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from dlq_app.domain.replay_batch import ReplayBatch, Stage
from management.terminal import printable

#: Seconds between two lines where there is no terminal.
LINE_EVERY_S = 5.0
#: The rate shown is that of the last so many seconds.
_WINDOW_S = 15.0
_BAR, _MIN_BAR = 24, 8
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
#: Seconds from which days and hours say enough.
_LONG = 2 * _DAY


class Progress:
    """Shows one batch on ``stream``: redrawn in place when ``live``, else as lines, one when the stage changes."""

    def __init__(
        self,
        stream: TextIO,
        *,
        live: bool,
        clock: Callable[[], float] = time.monotonic,
        columns: Callable[[], int] = lambda: shutil.get_terminal_size().columns,
    ) -> None:
        self._stream = stream
        self._live = live
        self._clock = clock
        self._columns = columns
        self._seen: deque[tuple[float, int]] = deque()
        self._told_at: float | None = None
        self._told_stage = ""
        self._is_open = False

    def show(self, batch: ReplayBatch) -> None:
        """Take note of how ``batch`` stands now, and show it if it is time to."""
        now = self._clock()
        self._seen.append((now, ended(batch)))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW_S:
            self._seen.popleft()
        line = describe(batch, self._per_second(), max(self._columns() - 1, 20) if self._live else None)
        if self._live:
            self._stream.write("\r\x1b[K" + line)
            self._is_open = True
        elif self._told_at is None or now - self._told_at >= LINE_EVERY_S or stage_of(batch) != self._told_stage:
            self._stream.write(line + "\n")
            self._told_at, self._told_stage = now, stage_of(batch)
        self._stream.flush()

    def end(self, batch: ReplayBatch) -> None:
        """Show how it ended, whenever the last line was."""
        self._told_at = None
        self.show(batch)
        self.close()

    def close(self) -> None:
        """Leave what is shown and go on below it."""
        if self._is_open:
            self._stream.write("\n")
            self._stream.flush()
            self._is_open = False

    def _per_second(self) -> float:
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0


def ended(batch: ReplayBatch) -> int:
    """Number of letters of the batch that have an outcome."""
    return batch.counts.succeeded + batch.counts.failed + batch.counts.skipped


def stage_of(batch: ReplayBatch) -> str:
    """The stage, and who paused it."""
    if batch.stage is Stage.PAUSED and batch.paused_by:
        return f"{batch.stage} by {batch.paused_by}"
    return str(batch.stage)


def outcomes(batch: ReplayBatch) -> str:
    """``421 succeeded, 5 failed, 4 skipped``."""
    counts = batch.counts
    return f"{counts.succeeded} succeeded, {counts.failed} failed, {counts.skipped} skipped"


def describe(batch: ReplayBatch, per_second: float, columns: int | None = None) -> str:
    """Everything on one line, the time left only while letters end.

    ``columns``: how much of it can be seen. The bar gives way first, then what comes last.
    """
    done, total = ended(batch), batch.total
    share = done / total if total else 1.0
    parts = [f"{int(share * 100)}%  {done}/{total}", f"{per_second:.1f}/s"]
    if per_second > 0 and done < total:
        parts.append(f"{in_words((total - done) / per_second)} left")
    parts.append(outcomes(batch))
    if batch.waiting:
        parts.append(f"({printable(batch.waiting)})")
    stage, rest = stage_of(batch), "  ".join(parts)
    width = _BAR if columns is None else min(_BAR, columns - len(stage) - len(rest) - 5)
    if width >= _MIN_BAR:
        filled = int(share * width)
        rest = f"[{'#' * filled}{'-' * (width - filled)}] {rest}"
    return f"{stage}  {rest}"[:columns]


def in_words(seconds: float) -> str:
    """``28 s``, ``3 min 20 s``, ``2 h 05 min``, ``30 d 0 h``."""
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02} s"
    if whole < _LONG:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
