"""The figures over time: one sample per interval, rates from differences, gaps where nobody looked."""

from __future__ import annotations

import pytest
import redis

from messages_app.domain.records import Verdict
from messages_app.store.ledger import ledger
from messages_app.store.scripts import load_scripts
from messages_app.store.series import COARSE_MS, EVERY_MS, FINE_KEPT, History, Sample, Series
from messages_app.store.series import series as series_here
from messages_app.tests.ledgers import Desk, on_test_clock, order
from messages_app.work.upkeep import Upkeep

pytestmark = pytest.mark.redis


@pytest.fixture
def series(desk: Desk) -> Series:
    return Series(desk.client, scripts=load_scripts(on_test_clock))


def test_an_interval_has_one_sample_whoever_asks(desk: Desk, series: Series) -> None:
    other = Series(desk.client, scripts=load_scripts(on_test_clock))

    assert [series.sample(), other.sample(), series.sample()] == [True, False, False]
    desk.wait(EVERY_MS)
    assert [other.sample(), series.sample()] == [True, False]
    assert [sample.at_ms for sample in series.history().samples] == [desk.now - EVERY_MS, desk.now]


def test_it_counts_what_happened(desk: Desk, series: Series) -> None:
    series.sample()
    for name in "abcdef":
        desk.accept(name, type="demo" if name < "d" else "other")
    fences = {claimed.message_id: claimed.fence for claimed in desk.claim(5)}
    desk.complete("a", fences["a"])
    desk.complete("a", fences["a"])  # said twice, happened once
    desk.fail("b", fences["b"])
    desk.fail("b", fences["b"])
    assert desk.fail("c", fences["c"], None) is Verdict.TO_OUTBOX
    desk.defer("d", fences["d"], 60_000, "breaker")
    desk.defer("e", fences["e"])
    desk.wait(EVERY_MS)
    series.sample()
    first, last = series.history().samples

    assert (first.accepted, first.done, first.failed, first.died) == (0, 0, 0, 0)
    assert (last.accepted, last.done, last.failed, last.died, last.held) == (6, 1, 2, 1, 1)
    assert (last.normal, last.retry_wait, last.scheduled, last.running, last.outbox) == (2, 1, 1, 0, 1)


def test_a_death_is_new_once_and_a_replay_counts_when_it_ends_well(desk: Desk, series: Series) -> None:
    epoch = desk.bury()
    desk.ledger.forward(order("a", epoch + 1))
    desk.kill()
    desk.ledger.drained([("a", epoch + 1, "death")])
    desk.ledger.forward(order("a", epoch + 2))
    desk.complete("a", desk.claim_only().fence)
    series.sample()
    (sample,) = series.history().samples

    assert (sample.died, sample.failed, sample.replayed, sample.done) == (1, 2, 1, 1)


def test_what_is_accepted_around_midnight_is_counted_once(desk: Desk, series: Series) -> None:
    midnight = (desk.now // 86_400_000 + 1) * 86_400_000
    desk.at(midnight - 15_000)
    desk.accept("before")
    series.sample()
    desk.at(midnight - 1)
    desk.accept("last")
    desk.at(midnight + 5_000)
    desk.accept("first")
    series.sample()
    desk.wait(EVERY_MS)
    desk.accept("second")
    series.sample()

    counts = [sample.accepted for sample in series.history().samples]
    assert [later - counts[0] for later in counts] == [0, 2, 3]


def test_it_keeps_an_hour_and_thins_out_the_day(desk: Desk, series: Series) -> None:
    for _ in range(FINE_KEPT + 60):
        series.sample()
        desk.wait(EVERY_MS)
    history = series.history()

    assert len(history.samples) == FINE_KEPT
    assert history.samples[-1].at_ms - history.samples[0].at_ms == (FINE_KEPT - 1) * EVERY_MS
    steps = {later.at_ms - earlier.at_ms for earlier, later in zip(history.coarse, history.coarse[1:], strict=False)}
    assert steps == {COARSE_MS}


def test_a_clock_set_back_starts_the_series_anew(desk: Desk, series: Series) -> None:
    series.sample()
    desk.wait(-EVERY_MS)
    assert not series.sample(), "a little back: its time comes again"
    desk.wait(-3600_000)
    assert series.sample()
    assert [sample.at_ms for sample in series.history().samples] == [desk.now]


def test_a_line_of_another_release_is_passed_over(desk: Desk, series: Series) -> None:
    desk.client.rpush("dlq:series:fine", "1,2,3")
    series.sample()

    assert [sample.at_ms for sample in series.history().samples] == [desk.now]


def samples(*counts: tuple[int, int]) -> History:
    """Samples of (second, done)."""
    rest = [0] * (len(Sample._fields) - 3)
    return History(tuple(Sample(second * 1000, 0, done, *rest) for second, done in counts))


def test_a_rate_is_a_difference_over_time() -> None:
    history = samples((0, 0), (10, 50), (20, 100), (30, 400))

    assert history.rate("done", 30_000, over_ms=30_000) == pytest.approx(400 / 30)
    assert history.rate("done", 35_000, over_ms=10_000) == pytest.approx(30)
    assert history.rate("done", 30_000, over_ms=10_000, ago_ms=10_000) == pytest.approx(5)


def test_nobody_knows_a_rate_without_samples() -> None:
    assert History().rate("done", 1_000) is None
    assert samples((0, 7)).rate("done", 5_000) is None
    assert samples((0, 0), (10, 50)).rate("done", 600_000) is None, "the last look was long ago"
    assert samples((0, 50), (30, 2)).rate("done", 30_000) is None, "the store was emptied in between"


def test_gaps_stay_gaps() -> None:
    history = samples((5, 0), (15, 10), (25, 20), (55, 900), (65, 910))

    assert history.buckets("done", 10_000, 10_000, 6) == [1.0, 1.0, None, None, None, 1.0]


def test_every_worker_keeps_the_series_going(redis_client: redis.Redis) -> None:
    upkeep = Upkeep(ledger(), name="w-1", role="worker", details=dict)
    upkeep._announce()
    upkeep._announce()

    assert len(series_here().history().samples) == 1
