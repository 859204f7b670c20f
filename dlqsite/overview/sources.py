"""Cached sources: each keeps its last answer, so an unavailable one affects no other.

Readers at the same time cost one query per source. A slow or unavailable source delays no reader: its last answer is
shown with its age, and the query continues in the background. Only the first reader after a pause waits a moment, so
that it does not see an answer of hours ago.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)
_T = TypeVar("_T")

#: An answer is good for this long, in seconds.
KEEP_S = 1.5
#: A slow source is queried less often: at most one part in this many of the time …
LEISURE = 20
#: … but at least this often.
MAX_KEEP_S = 30.0
#: Maximum wait for a first answer, and for a newer one while there is an older one to show.
FIRST_S = 1.0
AGAIN_S = 0.03
#: An answer that expired this long ago is not shown while a newer one can be had.
UNWATCHED_S = 10.0
#: A query that runs this long counts as not answered.
HANGS_S = 3.0


@dataclass(frozen=True, slots=True)
class Part(Generic[_T]):
    """The last answer of a source, and whether it still answers."""

    #: None when it has not answered since this process began.
    value: _T | None = None
    as_of: datetime | None = None
    #: Why there is no newer answer; empty while all is well.
    why_away: str = ""
    away_since: datetime | None = None

    @property
    def is_away(self) -> bool:
        return bool(self.why_away)


class Source(Generic[_T]):
    """One query and its last answer. Thread-safe: concurrent readers cause one query.

    ``expected``: errors that mean that the source is unavailable. Any other error is a fault of this program: it is
    logged with its stack, and the source is shown as unavailable, because the other parts are still needed.
    """

    def __init__(
        self, name: str, ask: Callable[[], _T], expected: tuple[type[Exception], ...],
        *, keep_s: float = KEEP_S, leisure: float | None = None,
    ) -> None:  # fmt: skip
        """``leisure``: an answer is valid for this multiple of the time that it took."""
        self.name = name
        self._ask = ask
        self._expected = expected
        self._keep_s = keep_s
        self._leisure = LEISURE if leisure is None else leisure
        self._lock = threading.Lock()
        self._part: Part[_T] = Part()
        self._good_until = 0.0
        self._under_way: Future[None] | None = None
        self._began_at = datetime.now(UTC)

    def begin(self, threads: Executor) -> Future[None] | None:
        """Query again if the answer has expired; returns the running query, if any."""
        with self._lock:
            if self._under_way is None and time.monotonic() >= self._good_until:
                self._began_at = datetime.now(UTC)
                self._under_way = threads.submit(self._run)
            return self._under_way

    @property
    def patience_s(self) -> float:
        if self._part.is_away or (self._under_way is not None and _seconds_since(self._began_at) > FIRST_S):
            return AGAIN_S
        is_old = time.monotonic() - self._good_until > UNWATCHED_S
        return FIRST_S if self._part.value is None or is_old else AGAIN_S

    def part(self) -> Part[_T]:
        """The last answer as it stands now."""
        with self._lock:
            part, hangs = self._part, self._under_way is not None and _seconds_since(self._began_at) > HANGS_S
            if (hangs or part.value is None) and not part.is_away:
                return Part(part.value, part.as_of, "No answer yet.", self._began_at)
            return part

    def _run(self) -> None:
        began = time.monotonic()
        before, why = self._part, ""
        value: _T | None = None
        try:
            value = self._ask()
        except self._expected as error:
            # The text of a driver's error may hold addresses and passwords; the kind of error is enough here.
            why = f"No answer ({type(error).__name__})."
        except Exception as error:
            # A mistake in one part must not take the page with it.
            log.exception("overview_part_broken", extra={"part": self.name})
            why = f"Broken ({type(error).__name__}); the log says more."
        took = time.monotonic() - began
        with self._lock:
            if why:
                self._part = Part(before.value, before.as_of, why, before.away_since or self._began_at)
            else:
                self._part = Part(value, datetime.now(UTC))
            self._good_until = time.monotonic() + min(max(self._keep_s, self._leisure * took), MAX_KEEP_S)
            self._under_way = None


def look(sources: Iterable[Source[Any]], threads: Executor) -> None:
    """Query every expired source, and wait for each at most its own patience."""
    until = time.monotonic()
    asked = [(source.patience_s, future) for source in sources if (future := source.begin(threads)) is not None]
    for patience_s, future in sorted(asked, key=lambda pair: pair[0]):
        wait([future], max(0.0, until + patience_s - time.monotonic()))


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
