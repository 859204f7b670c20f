"""Losses of stores: found after restarts and restores, kept until a person acknowledges them, each once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dlq_app.domain.errors import StoreUnavailable
from dlq_app.domain.loss import Loss
from dlq_app.services import dead_letters
from dlq_app.store import indexes, repository
from dlq_app.store.repository import Losses
from messages_app.domain.errors import InvalidRequest, LossNotFound
from messages_app.store.marks import EVERY_MS, Mark
from messages_app.tests.test_marks import Bench
from messages_app.work import store_losses
from messages_app.work.store_losses import LossDetector, MarkKeeper, Periodic

pytestmark = [pytest.mark.redis, pytest.mark.mongo]
PREFIX = "dlq:"


@pytest.fixture
def bench(redis_client: Any, mongo_db: Any) -> Bench:
    bench = Bench(redis_client)
    bench.accept(1)
    return bench


def mark_keeper(bench: Bench, store: Callable[[], Losses] = repository.losses) -> MarkKeeper:
    """A new one, as after a start of the process: it remembers nothing."""
    return MarkKeeper(bench.marks, store, PREFIX)


def turn(bench: Bench) -> None:
    bench.desk.wait(EVERY_MS)
    mark_keeper(bench).turn()


def found() -> list[Loss]:
    return repository.losses().open(PREFIX)


def test_a_backup_of_redis_put_back_while_nobody_lived_is_found_at_the_start(bench: Bench) -> None:
    turn(bench)
    copy = bench.copy()
    bench.accept(40)
    turn(bench)
    bench.put_back(copy)
    bench.desk.wait(60_000)
    bench.accept(100)
    bench.mark()

    turn(bench)

    (loss,) = found()
    assert (loss.store, loss.missing, loss.open, loss.acknowledged_at) == ("redis", 40, 41, None)
    assert loss.since is not None
    assert (loss.until - loss.since).total_seconds() == EVERY_MS / 1000
    assert bench.marks.losses() == []


def test_an_emptied_redis_is_found_at_the_start(bench: Bench) -> None:
    bench.accept(40)
    turn(bench)
    bench.put_back({})
    turn(bench)

    (loss,) = found()
    assert (loss.since, loss.missing) == (None, 40)


def test_restarts_upgrades_and_other_prefixes_are_no_loss(bench: Bench) -> None:
    for _ in range(3):
        bench.accept(5)
        turn(bench)
    MarkKeeper(bench.marks, repository.losses, "other:").turn()
    bench.client.delete("dlq:acct:20270115:demo")  # as when 400 days are over
    turn(bench)

    assert found() == []


def test_a_loss_is_noted_once_whoever_finds_it_and_is_not_found_again(bench: Bench) -> None:
    watcher = LossDetector(bench.marks)
    turn(bench)
    copy = bench.copy()
    bench.accept(5)
    turn(bench)
    bench.accept(5)
    bench.desk.wait(EVERY_MS)
    watcher.check()
    bench.put_back(copy)
    bench.desk.wait(3000)

    watcher.check()
    for _ in range(3):
        turn(bench)
        watcher.check()

    (loss,) = found()
    assert loss.missing == 10


def test_two_keepers_at_once_keep_the_younger_mark(bench: Bench) -> None:
    turn(bench)
    store = repository.losses()

    class Slow(Losses):
        """Reads the mark, and writes after another keeper has."""

        def advance(self, prefix: str, token: str | None, mark: Any) -> bool:
            bench.accept(1)
            turn(bench)
            return super().advance(prefix, token, mark)

    bench.accept(1)
    bench.desk.wait(EVERY_MS)
    mark_keeper(bench, lambda: Slow(store._marks, store._losses)).turn()

    stored = store.mark(PREFIX)
    assert stored is not None
    assert stored["number"] == 3
    assert bench.marks.kept() == (3, stored["token"], stored["at_ms"])
    turn(bench)
    assert found() == []


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", ["mark", "note", "advance"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_keeper_killed_at_any_step_neither_misses_a_loss_nor_makes_one(bench: Bench, at: str, after: bool) -> None:
    turn(bench)
    copy = bench.copy()
    bench.accept(7)
    turn(bench)
    bench.put_back(copy)
    bench.desk.wait(3000)
    store = repository.losses()
    whole = getattr(store, at)

    def kill(*args: Any) -> None:
        if after:
            whole(*args)
        raise Killed

    setattr(store, at, kill)
    with pytest.raises(Killed):
        mark_keeper(bench, lambda: store).turn()
    bench.accept(20)
    turn(bench)
    turn(bench)

    assert [loss.missing for loss in found()] == [7]


def test_a_mongodb_put_back_is_found(bench: Bench, mongo_db: Any) -> None:
    turn(bench)
    backup = mongo_db.ledger_marks.find_one({"_id": PREFIX})
    bench.accept(5)
    turn(bench)
    until = bench.desk.now
    mongo_db.ledger_marks.replace_one({"_id": PREFIX}, backup)

    for _ in range(3):
        turn(bench)

    (loss,) = found()
    assert loss.store == "mongodb"
    assert loss.since is not None
    assert (until - loss.until.timestamp() * 1000, (loss.until - loss.since).total_seconds()) == (0, EVERY_MS / 1000)


def test_an_emptied_mongodb_is_found(bench: Bench, mongo_db: Any) -> None:
    turn(bench)
    mongo_db.ledger_marks.delete_many({})
    turn(bench)

    assert [(loss.store, loss.since) for loss in found()] == [("mongodb", None)]


def test_both_stores_emptied_at_once_are_found_by_a_keeper_that_lives_on(bench: Bench, mongo_db: Any) -> None:
    bench.accept(5)
    alive = mark_keeper(bench)
    alive.turn()
    mongo_db.ledger_marks.delete_many({})
    bench.put_back({})
    bench.desk.wait(EVERY_MS)

    for _ in range(3):
        alive.turn()
        turn(bench)

    assert [(loss.store, loss.since) for loss in found()] == [("mongodb", None)]


def test_a_keeper_takes_a_fall_of_redis_that_another_found_for_no_loss_of_mongodb(bench: Bench) -> None:
    copy = bench.copy()
    bench.accept(5)
    alive = mark_keeper(bench)
    alive.turn()
    bench.put_back(copy)
    turn(bench)
    alive.turn()

    assert [loss.store for loss in found()] == ["redis"]


def test_an_emptied_mongodb_gets_its_unique_index_again(bench: Bench, mongo_db: Any) -> None:
    alive = MarkKeeper(bench.marks, repository.losses, PREFIX, dead_letters.build_indexes)
    alive.turn()
    mongo_db.client.drop_database(mongo_db.name)

    alive.turn()

    assert indexes.missing(mongo_db) == []


def test_letters_that_are_there_twice_keep_no_mark_from_being_kept(
    bench: Bench, mongo_db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    mongo_db.dead_letters.drop_index(indexes.UNIQUE)
    mongo_db.dead_letters.insert_many([{"messageId": "m"}, {"messageId": "m"}])
    try:
        MarkKeeper(bench.marks, repository.losses, PREFIX, dead_letters.build_indexes).turn()
    finally:
        mongo_db.dead_letters.delete_many({})
        dead_letters.build_indexes()

    assert repository.losses().mark(PREFIX)
    assert "indexes_not_built" in caplog.text


def test_without_mongodb_a_loss_is_noted_in_redis_and_known(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_losses, "marks", lambda: bench.marks)
    copy = bench.copy()
    bench.accept(5)
    watcher = LossDetector(bench.marks)
    watcher.check()
    bench.put_back(copy)
    bench.desk.wait(3000)

    def away() -> Losses:
        raise StoreUnavailable

    with monkeypatch.context() as patch:
        patch.setattr(repository, "losses", away)
        watcher.check()
        seen = store_losses.open_losses()
        assert [loss.missing for loss in seen.losses] == [5]
        assert seen.incomplete

    turn(bench)
    known = store_losses.open_losses()
    assert (len(known.losses), known.incomplete) == (1, "")


def test_a_loss_stays_until_a_person_acknowledges_it_and_marks_go_on_from_the_present(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_losses, "marks", lambda: bench.marks)
    copy = bench.copy()
    bench.accept(5)
    turn(bench)
    bench.put_back(copy)
    bench.desk.wait(3000)
    turn(bench)
    (loss,) = store_losses.open_losses().losses

    for ids, reason in (([loss.id, "unknown"], "why"), ([loss.id], " "), ([loss.id], "x" * 1001)):
        with pytest.raises((LossNotFound, InvalidRequest)):
            store_losses.acknowledge(ids, actor="user:ann", reason=reason)
    assert len(store_losses.open_losses().losses) == 1
    assert store_losses.acknowledge([loss.id], actor="user:ann", reason="fail-over") == [loss.id]
    assert store_losses.acknowledge([loss.id], actor="user:bob", reason="again") == []
    turn(bench)

    assert store_losses.open_losses().losses == []
    (kept,) = store_losses.all_losses()
    assert (kept.acknowledged_by, kept.reason) == ("user:ann", "fail-over")
    assert kept.acknowledged_at is not None
    assert (datetime.now(UTC) - kept.acknowledged_at).total_seconds() < 60
    # The next one is another.
    bench.accept(3)
    turn(bench)
    bench.put_back(copy)
    bench.desk.wait(3000)
    turn(bench)
    assert [again.id == loss.id for again in store_losses.open_losses().losses] == [False]


def test_what_people_say_is_stored_as_text(bench: Bench) -> None:
    store = repository.losses()
    moment = datetime.now(UTC)
    store.note(PREFIX, Loss(id="a", store="redis", since=None, until=moment, seen_at=moment))
    store.acknowledge(PREFIX, ["a"], by="$seenAt", why="{$ne: 1}", at=moment)

    (loss,) = store.all(PREFIX)
    assert (loss.acknowledged_by, loss.reason) == ("$seenAt", "{$ne: 1}")


def test_a_store_that_is_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Exception | None] = [StoreUnavailable("gone"), StoreUnavailable("gone"), None, None]

    def answer() -> None:
        if error := answers.pop(0):
            raise error

    quietly = Periodic(answer, 0)
    with caplog.at_level(logging.INFO, "messages_app.work.store_losses"):
        for _ in range(4):
            quietly()

    assert [record.message for record in caplog.records] == ["marks_not_kept", "marks_kept_again"]


def test_acknowledging_puts_accounts_of_an_earlier_version_right(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_losses, "marks", lambda: bench.marks)
    bench.client.hset("dlq:acct:20270101:demo", mapping={"accepted": 2, "done": 50, "dead": -50, "open": 2})
    bench.client.sadd("dlq:acct:index", "20270101:demo")

    store_losses.acknowledge([], actor="user:ann", reason="known")

    row = next(row for row in bench.desk.ledger.accounting() if row.day == "20270101")
    assert (row.accepted, row.done, row.dead, row.open, row.wrong) == (52, 50, 0, 2, 0)


def test_a_mark_says_how_far_the_ledger_had_come(bench: Bench) -> None:
    bench.accept(3)
    turn(bench)
    stored = repository.losses().mark(PREFIX)

    assert stored is not None
    assert store_losses._mark(stored) == Mark(1, stored["token"], bench.desk.now, 3, 0, bench.desk.now - EVERY_MS, 4)
