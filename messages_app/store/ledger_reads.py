"""Reads of the ledger: records, counts and accounts. None of them moves a message."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from messages_app.domain.records import AccountRow, LedgerFigures, Quarantined, Record, TypeCounts
from messages_app.store.ledger_codec import account_row, figures_of, pairs, record_of
from messages_app.store.ledger_server import LedgerServer

#: A due entry is overdue when it has not been moved for this long.
LATE_MS = 5_000


class LedgerReads(LedgerServer):
    """Records, counts and accounts."""

    def now_ms(self) -> int:
        """The server's time in ms, which decides every move."""
        return int(self._scripts.run("clock"))

    def get(self, message_id: str) -> Record | None:
        """The record at one instant, payload included. None for an unknown or forgotten message."""
        return self.get_many([message_id])[0]

    def get_many(self, message_ids: Sequence[str]) -> list[Record | None]:
        """``get`` for each id, in order, all at one instant."""
        if not message_ids:
            return []
        rows = self._scripts.run("read", *message_ids)
        return [record_of(message_id, row) for message_id, row in zip(message_ids, rows, strict=True)]

    def figures(self) -> LedgerFigures:
        """Counts at one instant. The cost does not depend on the number of waiting messages."""
        return figures_of(self._scripts.run("figures", LATE_MS))

    def accounting(self, days: int = 400) -> list[AccountRow]:
        """Counts by UTC day and type of acceptance, for the last ``days`` days, oldest first."""
        today = datetime.fromtimestamp(self.now_ms() / 1000, UTC)
        first = (today - timedelta(days=days - 1)).strftime("%Y%m%d")
        index = self._prefix + "acct:index"
        names = sorted(name.decode() for name in self._connections.call("SMEMBERS", index))
        wanted = [name for name in names if name[:8] >= first]
        if not wanted:
            return []
        accounts = self._connections.call_many([("HGETALL", self._prefix + "acct:" + name) for name in wanted])
        return [account_row(name, pairs(fields)) for name, fields in zip(wanted, accounts, strict=True) if fields]

    def counted(self) -> list[TypeCounts]:
        """Counters of each type, at one instant; the same for every reader.

        A change to a message that was accepted before yesterday counts once ``carry_accounts`` has seen it.
        """
        flat = self._scripts.run("counted")
        width = len(TypeCounts._fields)
        rows = [flat[first : first + width] for first in range(0, len(flat), width)]
        return sorted(TypeCounts(name.decode(), *map(int, counts)) for name, *counts in rows)

    def tallies(self) -> dict[str, int]:
        """The number of each event since the beginning, under the names of ``series.Sample``, such as ``failed``."""
        counts = pairs(self._connections.call("HGETALL", self._prefix + "tally"))
        return {name: int(count) for name, count in counts.items()}

    def quarantined(self) -> list[Quarantined]:
        """Quarantined outcomes, oldest first."""
        entries = pairs(self._connections.call("HGETALL", self._prefix + "quarantine"))
        found = [
            Quarantined(message_id, int(entry["epoch"]), entry["why"], int(entry["at"]))
            for message_id, entry in ((key, json.loads(value)) for key, value in entries.items())
        ]
        return sorted(found, key=lambda quarantined: quarantined.at_ms)
