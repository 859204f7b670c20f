"""What an executor remembers of one batch between two turns. All of it can be seen again in the stores."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from dlq_app.domain.replay_batch import BatchItem
from dlq_app.store.repository import BatchLetter, Tally

#: An item of a plan, and its letter as it was read; None: it is gone.
Row = tuple[BatchItem, BatchLetter | None]


@dataclass(slots=True)
class Memory:
    """Times are of the monotonic clock, in seconds."""

    # -- counting
    tally: Tally | None = None
    settled_to: int = 0
    settled: Tally = field(default_factory=Tally)
    count_due: float = 0.0
    #: Outcomes may have come since it was counted.
    stale: bool = True
    noted: tuple[Tally, str] | None = None
    note_due: float = 0.0
    waiting: str = ""

    # -- what became of the letters
    #: Letters that were sent and whose items do not say so yet, with the time at which they were.
    unmarked: dict[str, float] = field(default_factory=dict)
    collect_due: float = 0.0
    collect_after: int = -1
    left_due: float = 0.0
    lost_due: float = 0.0
    lost_after: int = -1
    untaken_ended: bool = False

    # -- what is next
    #: Token of a chunk of ours that is done and still stands in the batch.
    done: str = ""
    bytes_each: float = 0.0
    peeked_from: int = -1
    peeked: list[Row] = field(default_factory=list)
    peeked_until: float = 0.0
    #: The letters behind those just taken, being read: the first place, and when that began.
    ahead: tuple[int, float, Future[list[Row]]] | None = None
