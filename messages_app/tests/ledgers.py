"""A ledger on a clock of its own, and short ways to say what tests say all the time."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import redis

from dlq_app.domain.ports import ForwardOrder
from messages_app.domain.records import Acceptance, Claimed, Completed, Deferred, Failed, Verdict
from messages_app.store.ledger import Ledger
from messages_app.store.ledger_server import Terms
from messages_app.store.scripts import CLOCK, load_scripts
from messages_app.tests import mutants

START_MS = 1_800_000_000_000
_CLOCK_KEY = "test:clock"
_tokens = itertools.count()


def on_test_clock(name: str, source: str) -> str:
    """The script with its clock in a key that the test moves, and with the guard left out that a mutation run names."""
    source = mutants.changed(source, os.environ.get(mutants.VARIABLE, ""))
    return CLOCK.sub(f"local now = tonumber(redis.call('GET', '{_CLOCK_KEY}'))", source)


def token() -> str:
    return f"token-{next(_tokens)}"


@dataclass
class Desk:
    """A ledger, the clock it goes by, and the server below it."""

    client: Any
    ledger: Ledger
    now: int = START_MS

    @classmethod
    def open(cls, client: redis.Redis, **terms: Any) -> Desk:
        scripts = load_scripts(on_test_clock)
        desk = cls(client, Ledger(client, terms=Terms(**terms), scripts=scripts))
        desk.at(START_MS)
        return desk

    def at(self, ms: int) -> None:
        """Set the clock, forwards or back."""
        self.now = ms
        self.client.set(_CLOCK_KEY, ms)

    def wait(self, ms: int) -> None:
        self.at(self.now + ms)

    # -- moves, with what does not matter filled in

    def accept(self, message_id: str = "a", **changes: Any) -> Any:
        return self.ledger.accept(acceptance(message_id, **changes))

    def claim(self, limit: int = 100, **changes: Any) -> list[Claimed]:
        arguments: dict[str, Any] = {"token": token(), "limit": limit, "owner": "w1", "holding": 0}
        return list(self.ledger.claim(**{**arguments, **changes}).records)

    def claim_only(self) -> Claimed:
        (claimed,) = self.claim()
        return claimed

    def complete(self, message_id: str, fence: int, result: str = "null") -> Verdict:
        return self.flush(Completed(message_id=message_id, fence=fence, result=result, attempt_json='{"number":1}'))

    def fail(self, message_id: str, fence: int, delay_ms: int | None = 1000) -> Verdict:
        return self.flush(
            Failed(message_id=message_id, fence=fence, delay_ms=delay_ms, error='{"e":1}', attempt_json='{"number":1}')
        )

    def defer(self, message_id: str, fence: int, delay_ms: int = 0, why: str = "shutdown") -> Verdict:
        return self.flush(Deferred(message_id=message_id, fence=fence, delay_ms=delay_ms, why=why))

    def flush(self, outcome: Completed | Failed | Deferred) -> Verdict:
        (verdict,) = self.ledger.flush([outcome])
        return verdict

    def lose(self, message_id: str) -> None:
        """Let the lease of a running message end, as when its process was killed, and have it reaped."""
        record = self.record(message_id)
        assert record.lease_until_ms is not None
        self.at(record.lease_until_ms)
        self.ledger.due()

    def kill(self, message_id: str = "a") -> None:
        """Bring a message that waits in its lane to ``dead_pending``."""
        (claimed,) = [claimed for claimed in self.claim() if claimed.message_id == message_id]
        assert self.fail(message_id, claimed.fence, None) is Verdict.TO_OUTBOX

    def bury(self, message_id: str = "a") -> int:
        """Accept a message and bring it to ``dead``; its epoch."""
        self.accept(message_id)
        self.kill(message_id)
        epoch: int = self.record(message_id).epoch
        assert self.ledger.drained([(message_id, epoch, "death")]) == [True]
        return epoch

    # -- looking

    def record(self, message_id: str = "a") -> Any:
        record = self.ledger.get(message_id)
        assert record is not None
        return record

    def lane(self, name: str = "normal") -> list[bytes]:
        return list(self.client.lrange(f"rq:queue:{name}", 0, -1))

    def account(self) -> tuple[int, int, int, int]:
        """accepted, done, dead and open over all days and types."""
        rows = self.ledger.accounting(400)
        assert all(row.difference == 0 for row in rows)
        return (
            sum(row.accepted for row in rows),
            sum(row.done for row in rows),
            sum(row.dead for row in rows),
            sum(row.open for row in rows),
        )


def acceptance(message_id: str = "a", **changes: Any) -> Acceptance:
    values: dict[str, Any] = {
        "message_id": message_id,
        "type": "demo",
        "body": b'{"n":1}',
        "sha256": "0" * 64,
        "priority": "normal",
        "source": "api",
        "client": "key:test",
        "accept_token": token(),
    }
    return Acceptance(**{**values, **changes})


def order(message_id: str, epoch: int, **changes: Any) -> ForwardOrder:
    values: dict[str, Any] = {
        "message_id": message_id,
        "epoch": epoch,
        "type": "demo",
        "body": b'{"n":1}',
        "run_body": None,
        "version": 0,
        "priority": "normal",
        "source": "api",
        "client": "key:test",
        "tags": "[]",
        "queued_at_ms": START_MS,
        "acct_day": "20270115",
        "replay_id": f"r{epoch}",
        "batch_id": "",
        "death_seen": epoch - 1,
        "deadline_ms": START_MS + 10**9,
    }
    return ForwardOrder(**{**values, **changes})
