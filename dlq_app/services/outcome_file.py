"""Export the letters of a replay batch with their outcomes, as JSON lines or as a table for spreadsheets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dlq_app.domain.replay_batch import BatchItem
from dlq_app.services import batches
from dlq_app.services.exporting import TextFile, cell

_PAGE = 1000


@dataclass
class OutcomeFile(TextFile):
    """One export of a batch, in the order of its plan. The caller has checked that the batch exists."""

    batch_id: str = ""
    #: As of ``batches.items``.
    outcome: str | None = None

    _columns: ClassVar[Sequence[str]] = ("seq", "messageId", "deadLetterId", "sent", "outcome", "errorType")

    def _shown(self) -> Iterator[Mapping[str, Any]]:
        for item in self._items():
            yield {
                "seq": item.seq,
                "messageId": item.message_id,
                "deadLetterId": item.letter_id,
                "sent": item.sent,
                "outcome": item.outcome or None,
                "errorType": item.error_type or None,
            }

    def _rows(self) -> Iterator[Sequence[str]]:
        for found in self._shown():
            yield [cell(str(value).lower() if isinstance(value, bool) else value) for value in found.values()]

    def _items(self) -> Iterator[BatchItem]:
        cursor = None
        while True:
            page = batches.items(self.batch_id, outcome=self.outcome, limit=_PAGE, cursor=cursor)
            self.count += len(page.items)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return
