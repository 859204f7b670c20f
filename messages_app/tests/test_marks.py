"""A ledger that fell back or was emptied is found, whatever happened since; one that only restarted is not."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from messages_app.store.marks import EVERY_MS, KEPT, Mark, Marks, MarkStatus
from messages_app.store.scripts import load_scripts
from messages_app.store.series import Series
from messages_app.tests.ledgers import START_MS, Desk, on_test_clock

pytestmark = pytest.mark.redis


class Bench:
    """A ledger with its marks, and a way to put it back."""

    def __init__(self, client: redis.Redis) -> None:
        self.client: Any = client
        self.desk = Desk.open(client)
        scripts = load_scripts(on_test_clock)
        self.marks = Marks(client, scripts=scripts)
        self._series = Series(client, scripts=scripts)
        self._names = iter(range(10**6))

    def accept(self, number: int) -> None:
        for _ in range(number):
            self.desk.accept(f"m{next(self._names)}")
        self._series.sample()

    def mark(self, known: Mark | None = None) -> Mark:
        self.desk.wait(EVERY_MS)
        return self.marks.look(known)[1]

    def copy(self) -> dict[bytes, bytes]:
        return {key: self.client.dump(key) for key in self.client.scan_iter() if key != b"test:clock"}

    def put_back(self, copy: dict[bytes, bytes]) -> None:
        now = self.desk.now
        self.client.flushall()
        for key, value in copy.items():
            self.client.restore(key, 0, value)
        self.desk.at(now)


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    bench = Bench(redis_client)
    bench.accept(1)
    return bench


def test_a_ledger_that_goes_on_keeps_every_mark(bench: Bench) -> None:
    known = bench.mark()
    for _ in range(5):
        bench.accept(2)
        said, known = bench.marks.look(known)
        assert said is MarkStatus.KEPT
        bench.desk.wait(EVERY_MS)

    assert known.number == 5
    assert bench.marks.losses() == []


def test_a_fall_back_is_found_although_more_was_accepted_since(bench: Bench) -> None:
    before = bench.mark()
    copy = bench.copy()
    bench.accept(10)
    known = bench.mark()
    bench.put_back(copy)
    bench.desk.wait(3000)
    bench.accept(50)
    bench.mark()

    said, newest = bench.marks.look(known)

    assert said is MarkStatus.LOST
    (loss,) = bench.marks.losses()
    assert (loss.from_ms, loss.to_ms, loss.missing, loss.open) == (before.at_ms, known.at_ms, 10, 11)
    assert bench.marks.look(newest)[0] is MarkStatus.KEPT


def test_an_emptied_redis_is_found_although_it_is_in_use_again(bench: Bench) -> None:
    bench.accept(10)
    known = bench.mark()
    bench.put_back({})
    for _ in range(known.number + 2):
        bench.accept(5)
        bench.mark()

    assert bench.marks.look(known)[0] is MarkStatus.LOST
    (loss,) = bench.marks.losses()
    assert (loss.from_ms, loss.to_ms, loss.missing) == (0, known.at_ms, known.accepted)


def test_many_who_find_one_loss_note_it_once_as_who_knows_most(bench: Bench) -> None:
    copy = bench.copy()
    bench.accept(5)
    earlier = bench.mark()
    bench.accept(5)
    later = bench.mark()
    bench.put_back(copy)
    bench.desk.wait(3000)

    for known in (earlier, later, earlier):
        assert bench.marks.look(known)[0] is MarkStatus.LOST

    (loss,) = bench.marks.losses()
    assert (loss.to_ms, loss.missing) == (later.at_ms, later.accepted)


def test_the_same_backup_put_back_twice_is_two_losses(bench: Bench) -> None:
    bench.mark()
    copy = bench.copy()
    for _ in range(2):
        bench.accept(5)
        known = bench.mark()
        bench.put_back(copy)
        bench.desk.wait(3000)
        bench.marks.look(known)
        noted = bench.marks.losses()
        copy[b"dlq:losses"] = bench.client.dump("dlq:losses")

    assert [loss.missing for loss in noted] == [5, 5]


def test_a_loss_of_outcomes_alone_is_found(bench: Bench) -> None:
    bench.mark()
    copy = bench.copy()
    claimed = bench.desk.claim_only()
    bench.desk.complete(claimed.message_id, claimed.fence)
    known = bench.mark()
    bench.put_back(copy)
    bench.desk.wait(3000)

    assert bench.marks.look(known)[0] is MarkStatus.LOST
    (loss,) = bench.marks.losses()
    assert (loss.missing, loss.moves) == (0, 2)


def test_a_lost_mark_of_a_ledger_in_which_nothing_moved_is_no_loss(bench: Bench) -> None:
    bench.mark()
    copy = bench.copy()
    bench.desk.wait(20 * EVERY_MS)
    known = bench.marks.look(None)[1]
    bench.put_back(copy)
    bench.desk.wait(100)

    assert known.number == 2
    assert bench.marks.look(known)[0] is MarkStatus.SAME
    assert bench.marks.losses() == []


def test_a_mark_older_than_those_kept_is_judged_by_its_numbers(bench: Bench) -> None:
    bench.accept(3)
    known = bench.mark()
    trimmed = known._replace(number=known.number + KEPT + 10, at_ms=known.at_ms + 1)
    bench.client.delete("dlq:marks")
    line = " ".join(map(str, trimmed._replace(token="later")))
    bench.client.rpush("dlq:marks", line)

    assert bench.marks.look(known)[0] is MarkStatus.KEPT
    assert bench.marks.look(known._replace(accepted=known.accepted + 1))[0] is MarkStatus.LOST


def test_a_ledger_without_marks_begins_to_have_them(redis_client: redis.Redis) -> None:
    """Data of an earlier version, a new installation, another prefix."""
    bench = Bench(redis_client)
    bench.accept(3)

    said, mark = bench.marks.look(None)

    assert (said, mark.number, mark.open, mark.epoch_high) == (MarkStatus.FIRST, 1, 3, START_MS)


def test_only_so_many_marks_are_kept_and_an_idle_ledger_gets_few(bench: Bench) -> None:
    bench.mark()
    for _ in range(10):
        bench.mark()

    assert bench.client.llen("dlq:marks") == 1


def test_a_clock_that_was_set_back_is_no_loss(bench: Bench) -> None:
    known = bench.mark()
    bench.desk.at(bench.desk.now - 3_600_000)
    bench.accept(1)

    said, newest = bench.marks.look(known)

    assert (said, newest.number) == (MarkStatus.KEPT, 2)
