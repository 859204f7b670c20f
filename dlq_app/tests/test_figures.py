"""Figures: right at once while that is quick, else from a snapshot that says as of when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.letter import Death
from dlq_app.domain.states import Status
from dlq_app.services import dead_letters, figures
from dlq_app.store import repository
from dlq_app.store.figures import HOURS, SNAPSHOTS, GroupFigures, Snapshot
from dlq_app.store.figures import figures as figures_store
from dlq_app.store.mongo import LETTERS
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake, a_death, a_document

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not looked yet."""
    monkeypatch.setattr(figures, "_keeper", figures._Keeper())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting counts as costly, however few letters there are, and a second must pass between two counts."""
    monkeypatch.setattr(figures, "CHEAP_MS", -1.0)
    monkeypatch.setattr(figures, "_pause", lambda kept: 1.0)


def letters_of(store: Store, **of_each: int) -> None:
    """Letters of now by status, and so on: ``dlq_failed=3``."""
    now = datetime.now(UTC)
    documents = []
    for status, count in of_each.items():
        for n in range(count):
            letter = a_document(f"{status}-{n}", status=status, createdAt=now, lastFailedAt=now)
            documents.append(letter | ({"resolvedAt": now} if status == "dlq_resolved" else {}))
    store[LETTERS].insert_many(documents)


def age_snapshot(store: Store, seconds: float) -> None:
    store[SNAPSHOTS].update_one(
        {"_id": "all"},
        [{"$set": {"asOf": {"$subtract": ["$asOf", int(seconds * 1000)]}}}, {"$set": {"as_of": "$asOf"}}],
    )


def keep_as_costly(cost_ms: float) -> Snapshot:
    """Keep the figures of now as if counting had taken so long."""
    counted = replace(figures_store().count(5), cost_ms=cost_ms)
    figures_store().keep(counted)
    return counted


@pytest.fixture
def small_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of letters as small as in these tests mean what great ones do."""
    monkeypatch.setattr(figures, "FEW_LETTERS", 1)
    monkeypatch.setattr(figures, "DRIFT_LETTERS", 4)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The bounds that counting was given, in turn: whether for a reader or in the background."""
    asked: list[float] = []
    on_count(monkeypatch, asked.append)
    return asked


def on_count(monkeypatch: pytest.MonkeyPatch, before: Callable[[float], object]) -> None:
    count = type(figures_store()).count

    def spied(self: Any, bound_s: float) -> Snapshot:
        before(bound_s)
        return count(self, bound_s)

    monkeypatch.setattr(type(figures_store()), "count", spied)


def renewed() -> None:
    """Wait for the renewal under way."""
    thread = figures._keeper._renewal
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive()


# --- what is counted ---


def test_an_empty_queue_has_figures(store: Store) -> None:
    stats = dead_letters.stats()

    assert (stats["total"], stats["open"], stats["groups"]) == (0, 0, 0)
    assert stats["byStatus"] == dict.fromkeys((status.value for status in Status), 0)
    assert stats["oldestOpenSeconds"] is None
    assert stats["replaySuccessRate"] is None
    assert stats["hours"]["inflow"] == stats["hours"]["outflow"] == [0] * HOURS


def test_one_letter_more_is_seen_at_once(store: Store) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    assert dead_letters.stats()["total"] == 1

    dead_letters.record_outcomes([a_death("m-2")], [])
    assert dead_letters.stats()["total"] == 2


def test_letters_that_are_deleted_are_no_longer_counted(store: Store) -> None:
    letters_of(store, dlq_failed=3, dlq_resolved=2)
    assert dead_letters.stats()["total"] == 5

    store[LETTERS].delete_many({"status": "dlq_resolved"})

    assert dead_letters.stats()["total"] == dead_letters.stats()["open"] == 3


def test_figures_agree_with_counting_letter_by_letter(store: Store) -> None:
    deaths = [
        a_death(
            f"m-{n}",
            type=("order.created", "mail.send")[n % 2],
            source=("shop", "app", "pos")[n % 3],
            error_type=("TIMEOUT_ERROR", "NETWORK_ERROR")[n % 5 == 0],
            error_reason=f"{('payments', 'orders', 'tax')[n % 3]} did not answer",
        )
        for n in range(40)
    ]
    dead_letters.record_outcomes(deaths, [])
    for n in range(0, 40, 4):
        dead_letters.discard(f"m-{n}", actor="olga")

    stats = dead_letters.stats()

    def truth(field: str, where: dict[str, Any] | None = None) -> dict[str, int]:
        rows = store[LETTERS].aggregate([{"$match": where or {}}, {"$sortByCount": f"${field}"}])
        return {row["_id"]: row["count"] for row in rows}

    assert {name: n for name, n in stats["byStatus"].items() if n} == truth("status")
    assert stats["byType"] == truth("type")
    assert stats["bySource"] == truth("metadata.source")
    assert {row["errorType"]: row["count"] for row in stats["topErrorTypes"]} == truth("errorType")
    assert (stats["total"], stats["open"]) == (40, 30)
    found = {group.fingerprint: group for group in figures.snapshot().groups}
    assert {name: group.count for name, group in found.items()} == truth("fingerprint")
    still_open = truth("fingerprint", {"status": {"$ne": "dlq_resolved"}})
    assert {name: group.open for name, group in found.items()} == still_open


def test_in_and_out_are_told_by_the_hour(store: Store) -> None:
    now = repository.letters().server_now()
    hours_from = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
    ages = [timedelta(0), timedelta(hours=3), timedelta(hours=3), timedelta(hours=30)]
    documents = [a_document(f"m-{n}", createdAt=now - age, status="dlq_failed") for n, age in enumerate(ages)]
    documents.append(a_document("m-9", createdAt=now - timedelta(days=9), status="dlq_resolved", resolvedAt=hours_from))
    store[LETTERS].insert_many(documents)

    hours = dead_letters.stats()["hours"]

    assert hours["since"] == hours_from.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    assert {n: count for n, count in enumerate(hours["inflow"]) if count} == {HOURS - 1: 1, HOURS - 4: 2}
    assert {n: count for n, count in enumerate(hours["outflow"]) if count} == {0: 1}


def test_a_clock_that_runs_ahead_spoils_nothing(store: Store) -> None:
    store[LETTERS].insert_one(a_document(createdAt=datetime.now(UTC) + timedelta(hours=5)))

    assert sum(dead_letters.stats()["hours"]["inflow"]) == 0
    assert dead_letters.stats()["oldestOpenSeconds"] == 0


def test_how_many_replays_succeed(store: Store, intake: MemoryIntake) -> None:
    dead_letters.record_outcomes([a_death(f"m-{n}") for n in range(4)], [])
    now = datetime.now(UTC)
    for n, done in enumerate((True, True, True, False)):
        dead_letters.replay(f"m-{n}", actor="olga")
        outcome = intake.end(f"m-{n}", done=done)
        if isinstance(outcome, Death):
            dead_letters.record_outcomes([a_death(f"m-{n}", epoch=outcome.epoch, replay_id="r", died_at=now)], [])
        else:
            dead_letters.record_outcomes([], [outcome])
    store[LETTERS].update_many({"lastReplay.outcome": "succeeded"}, {"$set": {"lastReplay.at": now}})

    stats = dead_letters.stats()

    assert stats["replaySuccessRate"] == 0.75
    assert stats["replays"] == {"succeeded": 3, "failed": 1}
    (group,) = figures.snapshot().groups
    assert (group.replays_succeeded, group.replays_failed) == (3, 1)
    assert group.replayed_at is not None


def test_the_oldest_open_letter(store: Store) -> None:
    now = repository.letters().server_now()
    store[LETTERS].insert_many(
        [
            a_document("m-1", status="dlq_resolved", createdAt=now - timedelta(days=3)),
            a_document("m-2", status="dlq_manual", createdAt=now - timedelta(hours=2)),
            a_document("m-3", status="dlq_failed", createdAt=now - timedelta(hours=1)),
        ]
    )

    assert 7200 <= dead_letters.stats()["oldestOpenSeconds"] < 7300


def test_documents_written_by_hand_do_not_break_figures(store: Store) -> None:
    letters_of(store, dlq_failed=1)
    store[LETTERS].insert_many(
        [
            {"messageId": "h-1", "status": "odd", "type": 7, "fingerprint": 12, "createdAt": "never"},
            {"messageId": "h-2", "status": "dlq_failed", "metadata": "none", "fingerprint": "f" * 16},
            {"messageId": "h-3"},
        ]
    )

    stats = dead_letters.stats()

    assert stats["byStatus"]["dlq_failed"] == 2
    assert stats["byStatus"]["unknown"] == 1
    assert len(figures.snapshot().groups) == 1, "one without any failure is no group"


def test_so_many_different_texts_that_not_all_are_kept_leave_the_sums_right(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.figures._ROWS", 3)
    monkeypatch.setattr("dlq_app.store.figures.MAX_GROUPS", 2)
    dead_letters.record_outcomes([a_death(f"m-{n}", source=f"source-{n}") for n in range(10)], [])

    snapshot = figures.snapshot()

    assert (snapshot.total, snapshot.open, snapshot.is_capped) == (10, 10, True)
    assert len(snapshot.sources) == 3


def test_one_group_is_counted_as_in_the_whole(store: Store) -> None:
    dead_letters.record_outcomes(
        [a_death(f"m-{n}", error_reason=("no answer", "no stock")[n % 3 == 0]) for n in range(9)], []
    )
    dead_letters.discard("m-1", actor="olga")

    for group in figures.snapshot().groups:
        found = figures_store().group(group.fingerprint)
        assert found is not None
        assert found[0] == group
    assert figures_store().group("0" * 16) is None


# --- from keys only ---


def stages(plan: Any) -> Iterator[dict[str, Any]]:
    if isinstance(plan, dict):
        if "stage" in plan:
            yield plan
        for inner in plan.values():
            yield from stages(inner)
    elif isinstance(plan, list):
        for inner in plan:
            yield from stages(inner)


def test_figures_are_counted_from_keys_and_no_letter_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    letters_of(store, dlq_failed=50, dlq_resolved=50, dlq_pending=50)
    store[LETTERS].update_many({"status": "dlq_resolved"}, {"$set": {"lastReplay": {"at": datetime.now(UTC)}}})
    counting = figures_store()
    asked: list[tuple[list[dict[str, Any]], str | None]] = []
    rows = counting._rows

    def spy(pipeline: list[dict[str, Any]], index: str | None = None) -> list[dict[str, Any]]:
        asked.append((pipeline, index))
        return rows(pipeline, index)

    monkeypatch.setattr(type(counting), "_rows", lambda self, *args: spy(*args))
    counting.count(10)

    assert len(asked) == 6
    for pipeline, index in asked:
        command = {"aggregate": LETTERS, "pipeline": pipeline, "cursor": {}, **({"hint": index} if index else {})}
        plan = store.command("explain", command, verbosity="queryPlanner")
        names = {stage["stage"] for stage in stages(plan) if "rejectedPlans" not in stage}
        assert names & {"IXSCAN", "DISTINCT_SCAN"}, pipeline
        assert "COLLSCAN" not in names
        assert "FETCH" not in names, pipeline


def test_without_its_indexes_figures_are_slower_and_the_same(store: Store) -> None:
    letters_of(store, dlq_failed=3, dlq_resolved=2)
    before = dead_letters.stats()
    store[LETTERS].drop_index("figures")
    store[LETTERS].drop_index("created_fingerprint")
    try:
        after = dead_letters.stats()
    finally:
        from dlq_app.store import indexes

        indexes.ensure(store, keep_resolved_days=90)

    assert {**after, "asOf": "", "oldestOpenSeconds": 0} == {**before, "asOf": "", "oldestOpenSeconds": 0}


# --- the snapshot ---


def test_costly_figures_come_from_the_snapshot(store: Store, slow: None) -> None:
    letters_of(store, dlq_failed=2)
    first = dead_letters.stats()
    letters_of(store, dlq_manual=3)

    assert dead_letters.stats() == first, "not due yet"


def test_a_reader_renews_a_snapshot_that_is_due(store: Store, slow: None) -> None:
    letters_of(store, dlq_failed=2)
    dead_letters.stats()
    letters_of(store, dlq_manual=3)
    age_snapshot(store, 2)

    dead_letters.stats()
    renewed()

    assert dead_letters.stats()["total"] == 5


def test_a_reader_does_not_wait_for_a_renewal_that_takes_long(
    store: Store, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters_of(store, dlq_failed=2)
    dead_letters.stats()
    letters_of(store, dlq_manual=3)
    age_snapshot(store, 2)
    may_count = threading.Event()
    count = type(figures_store()).count

    def wait_first(self: Any, bound_s: float) -> Snapshot:
        assert may_count.wait(20)
        return count(self, bound_s)

    monkeypatch.setattr(type(figures_store()), "count", wait_first)

    assert dead_letters.stats()["total"] == dead_letters.stats()["total"] == 2
    assert sum(thread.name == "figures" for thread in threading.enumerate()) == 1
    may_count.set()
    renewed()
    assert dead_letters.stats()["total"] == 5


def test_a_worker_keeps_the_snapshot_fresh(store: Store, slow: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "LOOK_EVERY_S", 0.0)
    letters_of(store, dlq_failed=2)
    figures.keep_fresh()
    renewed()
    assert store[SNAPSHOTS].count_documents({}) == 1
    letters_of(store, dlq_manual=3)

    figures.keep_fresh()
    assert dead_letters.stats()["total"] == 2, "not due yet"
    age_snapshot(store, 31)
    figures.keep_fresh()
    renewed()

    assert dead_letters.stats()["total"] == 5


def test_only_one_process_renews(store: Store, slow: None) -> None:
    letters_of(store, dlq_failed=2)
    dead_letters.stats()
    letters_of(store, dlq_manual=3)
    age_snapshot(store, 2)
    assert repository.leases().take(figures.LEASE, "another", figures.LEASE_TIME)

    figures._renew()
    assert dead_letters.stats()["total"] == 2

    repository.leases().give_back(figures.LEASE, "another")
    figures._renew()
    assert dead_letters.stats()["total"] == 5


def test_a_renewal_that_fails_is_not_tried_again_at_once(
    store: Store, slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters_of(store, dlq_failed=2)
    dead_letters.stats()
    age_snapshot(store, 2)
    tried: list[float] = []

    def fail(self: Any, bound_s: float) -> Snapshot:
        tried.append(bound_s)
        raise QueryTooSlow

    monkeypatch.setattr(type(figures_store()), "count", fail)
    figures._renew()
    monkeypatch.setattr("os.getpid", lambda: 1)
    figures._renew()

    assert tried == [figures.BOUND_S]
    assert dead_letters.stats()["total"] == 2, "the snapshot is still there"


def test_the_first_reader_of_a_huge_queue_is_told_to_come_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    letters_of(store, dlq_failed=2)
    count = type(figures_store()).count

    def too_slow_for_a_reader(self: Any, bound_s: float) -> Snapshot:
        if bound_s < figures.BOUND_S:
            raise QueryTooSlow
        return count(self, bound_s)

    monkeypatch.setattr(type(figures_store()), "count", too_slow_for_a_reader)
    with pytest.raises(QueryTooSlow):
        dead_letters.stats()
    renewed()
    monkeypatch.setattr(figures, "CHEAP_MS", -1.0)

    assert dead_letters.stats()["total"] == 2


# --- many letters ---


def test_the_first_reader_of_many_letters_waits_for_the_count_in_the_background(
    store: Store, monkeypatch: pytest.MonkeyPatch, bounds: list[float]
) -> None:
    monkeypatch.setattr(figures, "CHEAP_LETTERS", 1)
    monkeypatch.setattr(figures, "FIRST_WAIT_S", 20.0)
    letters_of(store, dlq_failed=3)

    assert dead_letters.stats()["total"] == 3
    assert bounds == [figures.BOUND_S]


def test_the_first_reader_of_too_many_letters_is_told_when_to_come_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "CHEAP_LETTERS", 1)
    monkeypatch.setattr(figures, "FIRST_WAIT_S", 0.05)
    letters_of(store, dlq_failed=3)
    may_count = threading.Event()
    on_count(monkeypatch, lambda _: may_count.wait(20))

    with pytest.raises(QueryTooSlow) as refused:
        dead_letters.stats()
    assert refused.value.retry_after
    may_count.set()
    renewed()

    assert dead_letters.stats()["total"] == 3


def test_the_first_reader_takes_what_another_process_has_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "CHEAP_LETTERS", 1)
    monkeypatch.setattr(figures, "FIRST_WAIT_S", 20.0)
    letters_of(store, dlq_failed=3)
    counted = figures_store().count(5)
    leases = type(repository.leases())

    def taken_by_another(self: Any, name: str, owner: str, duration: timedelta) -> bool:
        figures_store().keep(counted)
        return False

    monkeypatch.setattr(leases, "take", taken_by_another)

    assert figures.snapshot() == counted


def test_after_a_big_load_the_first_reader_gets_right_figures_and_does_not_count(
    store: Store, monkeypatch: pytest.MonkeyPatch, small_drift: None
) -> None:
    monkeypatch.setattr(figures, "DRIFT_WAIT_S", 20.0)
    letters_of(store, dlq_failed=2)
    keep_as_costly(50.0)
    letters_of(store, dlq_manual=10)
    age_snapshot(store, 0.5)
    asked: list[float] = []
    on_count(monkeypatch, asked.append)

    assert dead_letters.stats()["total"] == 12
    assert asked == [figures.BOUND_S]


def test_a_reader_waits_once_for_a_renewal_that_takes_long(
    store: Store, monkeypatch: pytest.MonkeyPatch, small_drift: None
) -> None:
    monkeypatch.setattr(figures, "DRIFT_WAIT_S", 0.05)
    letters_of(store, dlq_failed=2)
    keep_as_costly(50.0)
    letters_of(store, dlq_manual=10)
    age_snapshot(store, 0.5)
    may_count = threading.Event()
    # A reader that waited longer than this would get the new figures.
    on_count(monkeypatch, lambda _: may_count.wait(5))

    assert dead_letters.stats()["total"] == 2
    monkeypatch.setattr(figures, "DRIFT_WAIT_S", 10.0)
    figures._keeper.waiting_since = time.monotonic() - 10
    assert dead_letters.stats()["total"] == 2
    may_count.set()
    renewed()

    assert dead_letters.stats()["total"] == 12


def test_a_few_letters_more_wait_for_the_pause(store: Store, small_drift: None, bounds: list[float]) -> None:
    letters_of(store, dlq_failed=2)
    keep_as_costly(5000.0)
    letters_of(store, dlq_manual=3)
    age_snapshot(store, 50)

    assert dead_letters.stats()["total"] == 2
    assert len(bounds) == 1, "the one of the test itself"


def test_a_costly_count_leaves_half_of_the_time_free_however_much_changes(
    store: Store, small_drift: None, bounds: list[float]
) -> None:
    letters_of(store, dlq_failed=2)
    keep_as_costly(30_000.0)
    letters_of(store, dlq_manual=10)
    age_snapshot(store, 50)

    assert dead_letters.stats()["total"] == 2
    assert len(bounds) == 1, "the one of the test itself"


def test_once_most_letters_are_gone_figures_are_of_the_moment_again(store: Store, small_drift: None) -> None:
    letters_of(store, dlq_failed=2, dlq_resolved=98)
    keep_as_costly(4000.0)
    store[LETTERS].delete_many({"status": "dlq_resolved"})

    assert dead_letters.stats()["total"] == 2


def test_a_number_of_the_store_that_is_wrong_for_good_leads_to_no_renewal(
    store: Store, small_drift: None, monkeypatch: pytest.MonkeyPatch, bounds: list[float]
) -> None:
    letters_of(store, dlq_failed=2)
    monkeypatch.setattr(type(figures_store()), "estimated", lambda self: 50_000)
    figures_store().keep(replace(figures_store().count(5), cost_ms=5000.0, estimated=50_000))
    age_snapshot(store, 50)

    dead_letters.stats()
    figures.keep_fresh()

    assert figures._keeper._renewal is None
    assert len(bounds) == 1, "the one of the test itself"


@pytest.mark.parametrize("trouble", [QueryTooSlow, StoreUnavailable])
def test_what_is_kept_is_served_when_a_reader_cannot_count(
    store: Store, monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
) -> None:
    letters_of(store, dlq_failed=2)
    keep_as_costly(50.0)

    def fail(self: Any, bound_s: float) -> Snapshot:
        raise trouble

    monkeypatch.setattr(type(figures_store()), "count", fail)

    assert dead_letters.stats()["total"] == 2
    renewed()


def test_what_is_kept_is_served_when_the_store_does_not_say_how_many_letters_it_has(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters_of(store, dlq_failed=2)
    keep_as_costly(50.0)

    def fail(self: Any) -> int:
        raise StoreUnavailable

    monkeypatch.setattr(type(figures_store()), "estimated", fail)

    assert dead_letters.stats()["total"] == 2
    renewed()


def test_a_worker_renews_early_after_a_big_load(store: Store, small_drift: None) -> None:
    letters_of(store, dlq_failed=2)
    keep_as_costly(1000.0)
    letters_of(store, dlq_manual=10)
    age_snapshot(store, 5)

    figures.keep_fresh()
    renewed()

    kept, _ = figures_store().latest()
    assert kept is not None
    assert kept.total == 12


@pytest.mark.parametrize(("cost_ms", "pause_s"), [(1000, 20), (28_000, 120), (60_000, 120), (100_000, 200)])
def test_the_pause_between_two_counts(store: Store, cost_ms: float, pause_s: float) -> None:
    assert figures._pause(replace(figures_store().count(5), cost_ms=cost_ms)) == pytest.approx(pause_s)


def test_the_last_replay_of_a_group_is_of_its_newest_letter(store: Store) -> None:
    now = repository.letters().server_now()
    replays = [(2, "failed_new"), (1, "succeeded"), (3, "failed_same"), (None, "")]
    documents = []
    for n, (hours, outcome) in enumerate(replays):
        last = {"lastReplay": {"at": now - timedelta(hours=hours), "outcome": outcome}} if hours else {}
        documents.append(a_document(f"m-{n}", status="dlq_failed") | last)
    store[LETTERS].insert_many(documents)

    (group,) = figures.snapshot().groups

    assert (group.replayed_at, group.replay_outcome) == (now - timedelta(hours=1), "succeeded")
    assert (group.replays_succeeded, group.replays_failed) == (1, 2)


def test_a_worker_whose_store_is_away_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(self: Any, known: Snapshot | None = None) -> tuple[Snapshot | None, float]:
        raise StoreUnavailable

    monkeypatch.setattr(type(figures_store()), "latest", away)

    figures.keep_fresh()


def test_a_snapshot_comes_back_as_it_was_kept(store: Store) -> None:
    dead_letters.record_outcomes([a_death("m-1")], [])
    counted = figures_store().count(5)
    figures_store().keep(counted)

    kept, age = figures_store().latest()

    assert kept == counted
    assert 0 <= age < 60
    assert figures_store().latest(counted)[0] is counted


def test_an_older_snapshot_never_replaces_a_newer_one(store: Store) -> None:
    older = figures_store().count(5)
    letters_of(store, dlq_failed=2)
    figures_store().keep(figures_store().count(5))

    figures_store().keep(older)

    kept, _ = figures_store().latest()
    assert kept is not None
    assert kept.total == 2


def test_a_snapshot_of_another_version_is_counted_anew(store: Store, letters: Letters) -> None:
    store[SNAPSHOTS].insert_one({"_id": "all", "asOf": letters.server_now(), "cost_ms": 5000.0, "groups": [{"x": 1}]})
    letters_of(store, dlq_failed=2)

    assert dead_letters.stats()["total"] == 2


def test_figures_of_a_group_know_what_is_not_there() -> None:
    now = datetime.now(UTC)
    group = GroupFigures(fingerprint="f", error_type="E", count=1, open=1, first_seen=now, last_seen=now)

    assert (group.replayed_at, sum(group.trend), len(group.trend)) == (None, 0, HOURS)
