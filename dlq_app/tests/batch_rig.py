"""Batches with real letters, an intake in plain Python, and messages whose outcome the test decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.letter import DeadLetter, Death, Settled
from dlq_app.domain.replay_batch import BatchItem, BatchOrder, ReplayBatch
from dlq_app.services import batches, dead_letters
from dlq_app.services.batch_executor import Executor
from dlq_app.store import repository
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake, a_death

Store = Database[dict[str, Any]]

#: Longer than any pause of an executor between two turns.
ALL_DUE_S = 20.0


class Killed(BaseException):
    """The process ends here. Not an ``Exception``, so that no handler catches it."""


class Rig:
    """One set of stores, any number of executors on one clock. ``run`` moves it, so that whatever is timed is due."""

    def __init__(self, letters: Letters, intake: MemoryIntake) -> None:
        self.letters = letters
        self.intake = intake
        self.clock_s = 0.0

    def die(self, *message_ids: str, **changes: Any) -> None:
        """Record failed messages, which makes their letters."""
        deaths = [a_death(message_id, **changes) for message_id in message_ids]
        answers = dead_letters.record_outcomes(deaths, [])
        assert all(answer.ok for answer in answers)

    def letter(self, message_id: str) -> DeadLetter:
        found = self.letters.find(message_id)
        assert found is not None
        return found

    def executor(self) -> Executor:
        stores = self.letters, repository.items(), repository.batches()
        return Executor(*stores, self.intake, monotonic=lambda: self.clock_s)

    def start(self, **body: Any) -> ReplayBatch:
        if "ids" not in body and "filter" not in body:
            body["all"] = True
        return batches.start(BatchOrder.parse(body), actor="key:olga")

    def end_messages(self, done: Callable[[str], bool | None] = lambda message_id: True) -> int:
        """End forwarded messages and record their outcomes; ``done`` returns None for one that still runs."""
        outcomes: list[Death | Settled] = []
        for message_id, record in list(self.intake.records.items()):
            if record.order is not None and record.state == "queued":
                verdict = done(message_id)
                if verdict is not None:
                    outcomes.append(self.intake.end(message_id, done=verdict))
        self.record(outcomes)
        return len(outcomes)

    def record(self, outcomes: Iterable[Death | Settled]) -> None:
        deaths = [one for one in outcomes if isinstance(one, Death)]
        settles = [one for one in outcomes if isinstance(one, Settled)]
        assert all(answer.ok for answer in dead_letters.record_outcomes(deaths, settles))
        ended = {one.message_id: "dead" for one in deaths} | {one.message_id: "done" for one in settles}
        for message_id, state in ended.items():
            record = self.intake.records[message_id]
            record.state, record.outbox = state, ""

    def run(
        self,
        batch: ReplayBatch,
        *executors: Executor,
        done: Callable[[str], bool | None] = lambda message_id: True,
        until: Callable[[ReplayBatch], bool] = lambda batch: batch.finished_at is not None,
        turns: int = 400,
    ) -> ReplayBatch:
        """Run turns until the batch has finished; raises after ``turns``."""
        workers = executors or (self.executor(),)
        for _ in range(turns):
            for worker in workers:
                self.clock_s += ALL_DUE_S
                worker.tick()
            self.end_messages(done)
            found = batches.get(batch.id)
            if until(found):
                return found
        raise AssertionError(f"not in time: {batches.get(batch.id)}")

    def items(self, batch: ReplayBatch) -> list[BatchItem]:
        return batches.items(batch.id, limit=100_000).items

    def outcomes(self, batch: ReplayBatch) -> dict[str, str]:
        return {item.message_id: item.outcome for item in self.items(batch)}

    def sent(self) -> list[str]:
        return [order.message_id for order in self.intake.forwarded]


def ids(count: int, prefix: str = "m") -> list[str]:
    return [f"{prefix}-{n:04}" for n in range(count)]


def expire_chunk(store: Store, batch: ReplayBatch) -> None:
    """Let the chunk expire, as after a minute."""
    over = datetime.now(UTC) - timedelta(seconds=1)
    store["replay_batches"].update_one({"_id": batch.id, "chunk": {"$ne": None}}, {"$set": {"chunk.until": over}})


def kill_at(monkeypatch: pytest.MonkeyPatch, place: object, name: str, *, after: bool = False) -> None:
    """Kill the process at the next call of a method, or right ``after`` it."""
    method = getattr(place, name)

    def dies(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(place, name, method)
        if after:
            method(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(place, name, dies)


def tick_killed(executor: Executor, turns: int = 20) -> None:
    for _ in range(turns):
        try:
            executor.tick()
        except Killed:
            return
    raise AssertionError("it was not killed")
