"""Figures: of now while there are few letters, else from a snapshot that shows its time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from dlq_app.domain.errors import QueryTooSlow, StoreUnavailable
from dlq_app.domain.group_states import HOURS, GroupFigures
from dlq_app.domain.letter import Death
from dlq_app.domain.states import Status
from dlq_app.services import dead_letters, figures
from dlq_app.store import repository
from dlq_app.store.figures import SNAPSHOTS, Figures, Snapshot
from dlq_app.store.figures import figures as figures_store
from dlq_app.store.mongo import LETTERS
from dlq_app.store.repository import Letters
from dlq_app.testing import MemoryIntake, a_death, a_document
from dlq_app.worker import DlqWorker
from dlqsite.tests.patience import eventually

pytestmark = pytest.mark.mongo

Store = Database[dict[str, Any]]


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue of two letters is as large as one of ten thousand."""
    monkeypatch.setattr(figures, "MAX_INLINE_LETTERS", 1)


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


def fail_counting(monkeypatch: pytest.MonkeyPatch, error: type[Exception], name: str = "count") -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(Figures, name, fail)


# --- what is counted ---


def test_an_empty_queue_has_figures(store: Store) -> None:
    stats = dead_letters.stats()

    assert (stats["total"], stats["open"], stats["groups"]) == (0, 0, 0)
    assert stats["byStatus"] == dict.fromkeys((status.value for status in Status), 0)
    assert stats["oldestOpenSeconds"] is None
    assert stats["replaySuccessRate"] is None
    assert stats["hours"]["inflow"] == stats["hours"]["outflow"] == [0] * HOURS


def test_a_new_letter_is_counted_at_once(store: Store) -> None:
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


def test_arrivals_and_departures_are_counted_by_the_hour(store: Store) -> None:
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


def test_a_fast_clock_does_not_break_figures(store: Store) -> None:
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


def test_totals_are_right_when_there_are_too_many_different_texts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlq_app.store.figures.MAX_ROWS", 3)
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


def test_figures_are_counted_from_index_keys_and_no_letter_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
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

    assert len(asked) == 7
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


def test_readers_of_a_large_queue_get_the_snapshot_and_its_time(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=2)
    figures.renew()
    letters_of(store, dlq_manual=3)
    age_snapshot(store, 300)

    stats = dead_letters.stats()

    assert stats["total"] == 2
    age = datetime.now(UTC) - datetime.fromisoformat(stats["asOf"])
    assert timedelta(seconds=300) <= age < timedelta(seconds=360), "without a worker they grow old, and say so"


def test_the_worker_renews_a_snapshot_that_is_due(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=2)
    assert 0 < figures.renew() <= figures.RENEW_EVERY_S
    letters_of(store, dlq_manual=3)

    assert 0 < figures.renew() <= figures.RENEW_EVERY_S
    assert dead_letters.stats()["total"] == 2, "not due yet"

    age_snapshot(store, figures.RENEW_EVERY_S)
    figures.renew()
    assert dead_letters.stats()["total"] == 5


def test_counting_takes_at_most_a_fifth_of_the_time(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=2)
    figures_store().keep(replace(figures_store().count(5), cost_ms=20_000.0))
    age_snapshot(store, 60)
    letters_of(store, dlq_manual=3)

    assert 30 < figures.renew() <= 40
    assert dead_letters.stats()["total"] == 2

    age_snapshot(store, 40)
    figures.renew()
    assert dead_letters.stats()["total"] == 5


def test_only_one_process_counts(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=2)
    figures.renew()
    letters_of(store, dlq_manual=3)
    age_snapshot(store, 60)
    assert repository.leases().take(figures.LEASE, "another", figures.LEASE_TIME)

    assert figures.renew() == figures.RENEW_EVERY_S
    assert dead_letters.stats()["total"] == 2

    repository.leases().give_back(figures.LEASE, "another")
    figures.renew()
    assert dead_letters.stats()["total"] == 5


def test_after_a_count_that_fails_no_other_process_repeats_it_and_the_snapshot_stays(
    store: Store, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters_of(store, dlq_failed=2)
    figures.renew()
    age_snapshot(store, 60)
    fail_counting(monkeypatch, QueryTooSlow)

    with pytest.raises(QueryTooSlow):
        figures.renew()

    assert not repository.leases().take(figures.LEASE, "another", figures.LEASE_TIME)
    assert dead_letters.stats()["total"] == 2


def test_a_dlq_worker_keeps_the_snapshot_fresh_until_it_stops(store: Store, large: None, intake: MemoryIntake) -> None:
    letters_of(store, dlq_failed=2)
    worker = DlqWorker()
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    eventually(lambda: figures_store().latest()[0])
    worker.stop()
    thread.join(20)

    assert not thread.is_alive()
    assert dead_letters.stats()["total"] == 2
    assert repository.leases().take(figures.LEASE, "another", figures.LEASE_TIME), "the lease was given back"


def test_the_first_reader_of_a_large_queue_counts(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=3)

    assert dead_letters.stats()["total"] == 3


def test_the_first_reader_of_a_huge_queue_is_told_when_to_retry(
    store: Store, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters_of(store, dlq_failed=2)
    count = Figures.count

    def too_slow_for_a_reader(self: Figures, limit_s: float) -> Snapshot:
        if limit_s < figures.RENEW_LIMIT_S:
            raise QueryTooSlow
        return count(self, limit_s)

    monkeypatch.setattr(Figures, "count", too_slow_for_a_reader)
    with pytest.raises(QueryTooSlow) as refused:
        dead_letters.stats()
    assert refused.value.retry_after
    figures.renew()

    assert dead_letters.stats()["total"] == 2


def test_once_most_letters_are_gone_figures_are_of_now_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "MAX_INLINE_LETTERS", 50)
    letters_of(store, dlq_failed=2, dlq_resolved=98)
    figures.renew()
    store[LETTERS].delete_many({"status": "dlq_resolved"})
    age_snapshot(store, 60)
    figures.renew()
    letters_of(store, dlq_manual=3)

    assert dead_letters.stats()["total"] == 5


def test_a_wrong_estimate_of_the_store_does_not_make_readers_count_a_large_queue(
    store: Store, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters_of(store, dlq_failed=2)
    figures.renew()
    monkeypatch.setattr(Figures, "estimated", lambda self: 0)
    fail_counting(monkeypatch, AssertionError)

    assert dead_letters.stats()["total"] == 2


@pytest.mark.parametrize("error", [QueryTooSlow, StoreUnavailable])
@pytest.mark.parametrize("name", ["count", "estimated"])
def test_the_snapshot_is_served_when_a_reader_cannot_count(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: type[Exception], name: str
) -> None:
    letters_of(store, dlq_failed=2)
    figures.renew()
    fail_counting(monkeypatch, error, name)

    assert dead_letters.stats()["total"] == 2


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


def test_a_snapshot_of_another_version_is_counted_again(store: Store, letters: Letters, large: None) -> None:
    store[SNAPSHOTS].insert_one({"_id": "all", "asOf": letters.server_now(), "cost_ms": 5000.0, "groups": [{"x": 1}]})
    letters_of(store, dlq_failed=2)

    assert dead_letters.stats()["total"] == 2


def test_a_snapshot_with_fields_of_another_version_is_read(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=2)
    figures.renew()
    store[SNAPSHOTS].update_one({}, {"$set": {"estimated": 5, "asOf": datetime.now(UTC)}})
    letters_of(store, dlq_manual=3)

    assert dead_letters.stats()["total"] == 2


def test_figures_of_a_group_have_defaults() -> None:
    now = datetime.now(UTC)
    group = GroupFigures(fingerprint="f", error_type="E", count=1, open=1, first_seen=now, last_seen=now)

    assert (group.replayed_at, sum(group.trend), len(group.trend)) == (None, 0, HOURS)


# --- figures that are not renewed ---


def test_figures_that_are_not_renewed_in_time_are_a_problem(store: Store, large: None) -> None:
    letters_of(store, dlq_failed=3)
    figures.renew()
    assert figures.problems() == []

    age_snapshot(store, 600)
    (problem,) = figures.problems()
    assert problem.what == "The figures of dead letters are 10 min old."

    figures.renew()
    assert figures.problems() == []


def test_old_figures_of_a_small_queue_are_not_used_and_no_problem(store: Store) -> None:
    letters_of(store, dlq_failed=3)
    figures.renew()
    age_snapshot(store, 600)

    assert figures.problems() == []
