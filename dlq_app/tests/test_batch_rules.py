"""Rules of replay batches: stages, budgets, windows, and the step of each letter. Without any store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlq_app.domain import batch_rules
from dlq_app.domain.batch_rules import BatchView, Claim, Copy, Move, OwnLetter, Skip, Wait, next_step
from dlq_app.domain.errors import RequestInvalid
from dlq_app.domain.replay_batch import BatchCounts, BatchOrder, BreakerSeen, Canary, ReplayBatch, Stage
from dlq_app.testing import a_letter

OPEN = BreakerSeen("payments", "OPEN")
NOW = datetime(2026, 11, 24, tzinfo=UTC)
RUNNING = ReplayBatch(
    id="b-1", name="", reason="", stage=Stage.RUNNING, resume_to=None, paused_by="", stop_reason="", total=1000,
    late_arrivals=0, counts=BatchCounts(sent=100, succeeded=100, remaining=900), rate_per_second=None, canary=None,
    max_failures=None, max_failure_rate=None, requested_by="key:olga", criteria=None, ids_given=False, limit=None,
    created_at=NOW, scheduled_at=None, started_at=NOW, finished_at=None, updated_at=NOW,
)  # fmt: skip


def view(**changes: Any) -> BatchView:
    """A running batch with 100 of 1000 letters taken; ``changes``: of the batch or of the view."""
    of_view: dict[str, Any] = {"next_seq": 100, "under_way": 0}
    of_view |= {
        name: changes.pop(name) for name in ("next_seq", "under_way", "is_due", "blocked_by") if name in changes
    }
    return BatchView(batch=replace(RUNNING, **changes), **of_view)


def counts(succeeded: int = 0, failed: int = 0, skipped: int = 0) -> BatchCounts:
    return BatchCounts(sent=succeeded + failed, succeeded=succeeded, failed=failed, skipped=skipped)


CANARY = {"stage": Stage.CANARY, "canary": Canary(5, 4)}
PAUSED = {"stage": Stage.PAUSED, "paused_by": "breaker"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"stage": Stage.PLANNED, "is_due": False}, None),
        ({"stage": Stage.PLANNED}, Move(Stage.RUNNING)),
        ({"stage": Stage.PLANNED, "canary": Canary(5, 4)}, Move(Stage.CANARY)),
        ({"stage": Stage.PLANNING}, None),
        # The canary is judged by outcomes, all of them, and by nothing else.
        ({**CANARY, "counts": counts(4), "under_way": 1}, None),
        ({**CANARY, "counts": counts(4)}, None),
        ({**CANARY, "counts": counts(4, 1)}, Move(Stage.RUNNING, canary_passed=True)),
        ({**CANARY, "counts": counts(3, 2)}, Move(Stage.STOPPED, stop_reason="canary_failed")),
        ({**CANARY, "counts": counts(4, 0, 9)}, None),
        # Fewer letters than the canary wants: it may still fail as often as it was allowed to.
        ({**CANARY, "counts": counts(2), "next_seq": 1000}, Move(Stage.RUNNING, canary_passed=True)),
        ({**CANARY, "counts": counts(0, 0, 1000), "next_seq": 1000}, Move(Stage.RUNNING, canary_passed=True)),
        ({**CANARY, "counts": counts(0, 2), "next_seq": 1000}, Move(Stage.STOPPED, stop_reason="canary_failed")),
        # Breakers pause what still has to send, and lift their own pause only.
        ({"blocked_by": OPEN}, Move(Stage.PAUSED, resume_to=Stage.RUNNING, paused_by="breaker")),
        ({**CANARY, "counts": counts(), "blocked_by": OPEN}, Move(Stage.PAUSED, Stage.CANARY, "breaker")),
        ({"blocked_by": OPEN, "next_seq": 1000, "under_way": 3}, None),
        ({**PAUSED, "resume_to": Stage.CANARY}, Move(Stage.CANARY)),
        ({**PAUSED, "resume_to": Stage.CANARY, "blocked_by": OPEN}, None),
        ({"stage": Stage.PAUSED, "paused_by": "operator", "resume_to": Stage.RUNNING}, None),
        # The budget comes before the end.
        ({"max_failures": 2, "counts": counts(9, 2)}, None),
        ({"max_failures": 2, "counts": counts(9, 3)}, Move(Stage.STOPPED, stop_reason="too_many_failures")),
        ({"max_failure_rate": 0.5, "counts": counts(0, 19)}, None),
        ({"max_failure_rate": 0.5, "counts": counts(0, 20)}, Move(Stage.STOPPED, stop_reason="too_many_failures")),
        ({"max_failure_rate": 0.5, "counts": counts(20, 20)}, None),
        ({"next_seq": 1000, "under_way": 1}, None),
        ({"next_seq": 1000}, Move(Stage.FINISHED)),
        ({"next_seq": 0, "total": 0, "counts": counts()}, Move(Stage.FINISHED)),
        ({"stage": Stage.FINISHED}, None),
        ({"stage": Stage.CANCELLED, "next_seq": 1000}, None),
        ({"stage": Stage.STOPPED, "next_seq": 1000}, None),
    ],
)
def test_the_next_stage_of_a_batch(changes: dict[str, Any], expected: Move | None) -> None:
    assert batch_rules.next_move(view(**changes)) == expected


def test_what_operators_can_do_in_each_stage() -> None:
    can: dict[str, set[Stage]] = {"pause": set(), "resume": set(), "cancel": set()}
    for stage in Stage:
        if batch_rules.pause_by_operator(stage, None):
            can["pause"].add(stage)
        if batch_rules.resume_by_operator(stage, None):
            can["resume"].add(stage)
        if batch_rules.cancel_by_operator(stage, ""):
            can["cancel"].add(stage)

    assert can == {
        "pause": {Stage.CANARY, Stage.RUNNING, Stage.PAUSED},
        "resume": {Stage.PAUSED},
        "cancel": {Stage.PLANNING, Stage.PLANNED, Stage.CANARY, Stage.RUNNING, Stage.PAUSED},
    }


def test_a_second_pause_still_returns_to_the_canary() -> None:
    first = batch_rules.pause_by_operator(Stage.PAUSED, Stage.CANARY)

    assert first == Move(Stage.PAUSED, resume_to=Stage.CANARY, paused_by="operator")
    assert batch_rules.resume_by_operator(Stage.PAUSED, Stage.CANARY) == Move(Stage.CANARY)


@pytest.mark.parametrize(
    ("changes", "rate", "expected"),
    [
        ({}, None, 50),
        ({"next_seq": 990}, None, 10),
        ({"under_way": 1990}, None, 10),
        ({"under_way": 2000}, None, 0),
        ({}, 0.5, 1),
        ({}, 50, 5),
        ({}, 5000, 50),
        ({"stage": Stage.PAUSED, "paused_by": "operator"}, None, 0),
        ({**PAUSED}, None, 50),
        ({**PAUSED, "under_way": 1}, None, 0),
        ({"stage": Stage.CANCELLED}, None, 0),
        ({**CANARY, "counts": counts()}, None, 5),
        ({**CANARY, "counts": counts(1, 1, 7), "under_way": 2}, None, 1),
        ({**CANARY, "counts": counts(1, 1), "under_way": 3}, None, 0),
        ({**PAUSED, "canary": Canary(5, 5), "resume_to": Stage.CANARY, "counts": counts(2)}, None, 3),
        ({"max_failures": 0, "counts": counts()}, None, 1),
        ({"max_failures": 3, "counts": counts(), "under_way": 1}, None, 3),
        ({"max_failures": 3, "counts": counts(500, 3)}, None, 1),
        ({"max_failure_rate": 0.1, "counts": counts()}, None, 20),
        ({"max_failure_rate": 0.1, "counts": counts(10, 5), "under_way": 2}, None, 3),
        ({"max_failure_rate": 0.1, "counts": counts(30)}, None, 4),
        ({"max_failure_rate": 0.1, "counts": counts(27, 3)}, None, 1),
        ({"max_failure_rate": 0, "counts": counts(30)}, None, 1),
        ({"max_failure_rate": 1, "counts": counts(0, 30)}, None, 50),
    ],
)
def test_how_many_letters_may_be_taken(changes: dict[str, Any], rate: float | None, expected: int) -> None:
    assert batch_rules.allowance(view(**changes, rate_per_second=rate)) == expected


def test_large_payloads_make_the_window_small() -> None:
    assert batch_rules.window(RUNNING, bytes_each=256 * 1024) == 128
    assert batch_rules.window(RUNNING, bytes_each=10**9) == 1


@given(
    succeeded=st.integers(0, 300),
    failed=st.integers(0, 300),
    under_way=st.integers(0, 3000),
    size=st.integers(1, 100),
    budget=st.one_of(st.none(), st.integers(0, 50)),
)
def test_a_canary_never_takes_more_than_its_size(
    succeeded: int, failed: int, under_way: int, size: int, budget: int | None
) -> None:
    canary = view(
        stage=Stage.CANARY,
        canary=Canary(size, size),
        counts=counts(succeeded, failed),
        under_way=under_way,
        max_failures=budget,
    )

    taken = batch_rules.allowance(canary)

    assert taken >= 0
    assert taken == 0 or succeeded + failed + under_way + taken <= size


@pytest.mark.parametrize(
    ("changes", "rate", "expected"),
    [
        ({}, None, 250),
        ({"under_way": 1900}, None, 100),
        ({"max_failures": 1000}, None, 50),
        ({"max_failure_rate": 0.5, "counts": counts(500)}, None, 50),
        ({}, 10_000.0, 50),
        ({"stage": Stage.CANARY, "canary": Canary(400, 400)}, None, 50),
    ],
)
def test_only_batches_without_limits_use_large_chunks(
    changes: dict[str, Any], rate: float | None, expected: int
) -> None:
    large = view(**{"total": 10_000, "next_seq": 1000, "counts": counts(), **changes}, rate_per_second=rate)
    assert batch_rules.allowance(large, bytes_each=300) == expected


def test_large_payloads_make_small_chunks() -> None:
    assert batch_rules.chunk_size(RUNNING, bytes_each=0) == 50
    assert batch_rules.chunk_size(RUNNING, bytes_each=512 * 1024) == 16
    assert batch_rules.chunk_size(RUNNING, bytes_each=10**9) == 1


def test_breakers_limit_how_many_letters_are_sent() -> None:
    trying = BreakerSeen("mail", "HALF_OPEN", trials=2)
    breakers = {"payments": OPEN, "mail": trying, "shop": BreakerSeen("shop", "CLOSED")}

    assert batch_rules.passing(["shop", None, "new", "shop"], breakers, trying=False) == 4
    assert batch_rules.passing(["shop", "payments", "shop"], breakers, trying=False) == 1
    assert batch_rules.passing(["mail", "mail"], breakers, trying=False) == 0
    assert batch_rules.passing(["mail", "shop", "mail", "mail"], breakers, trying=True) == 3
    assert batch_rules.passing(["payments"], breakers, trying=True) == 0


# --- one letter ---


def attempt(outcome: str | None, batch_id: str = "b-1") -> dict[str, Any]:
    return {"epoch": 1001, "batchId": batch_id, "outcome": outcome, "errorType": "TIMEOUT_ERROR"}


def claimed_for(batch_id: str) -> dict[str, Any]:
    return {
        "status": "dlq_processing",
        "replay": {"id": "r-1", "epoch": 1001, "batchId": batch_id, "from": "dlq_manual"},
    }


@pytest.mark.parametrize(
    ("changes", "skipped", "expected", "at_the_end"),
    [
        ({}, False, Claim(), Skip("cancelled")),
        ({"status": "dlq_failed"}, False, Claim(), Skip("cancelled")),
        ({"replayAttempts": [attempt("failed_same", "b-0")]}, False, Claim(), Skip("cancelled")),
        ({}, True, Skip("in_flight"), Skip("in_flight")),
        ({"status": "dlq_resolved"}, False, Skip("resolved"), Skip("resolved")),
        (claimed_for("b-1"), False, OwnLetter(), Wait()),
        (claimed_for("b-2"), False, Skip("in_flight"), Skip("in_flight")),
        ({"replayAttempts": [attempt("failed_same")]}, False, *[Copy("failed_same", "TIMEOUT_ERROR")] * 2),
        ({"status": "dlq_resolved", "replayAttempts": [attempt("succeeded")]}, False,
         *[Copy("succeeded", "TIMEOUT_ERROR")] * 2),
        ({"replayAttempts": [attempt("superseded")]}, False, *[Copy("skipped:superseded", "")] * 2),
        ({**claimed_for("b-2"), "replayAttempts": [attempt("failed_new"), attempt(None, "b-2")]}, False,
         *[Copy("failed_new", "TIMEOUT_ERROR")] * 2),
        ({"replayAttempts": [attempt(None)]}, False, Wait(), Wait()),
    ],
)  # fmt: skip
def test_the_next_step_of_a_letter(
    changes: dict[str, Any], skipped: bool, expected: object, at_the_end: object
) -> None:
    letter = a_letter(**changes)

    assert next_step(letter, "b-1", skipped=skipped, ending=False) == expected
    assert next_step(letter, "b-1", skipped=skipped, ending=True) == at_the_end


def test_a_letter_that_is_gone_is_skipped() -> None:
    assert next_step(None, "b-1", skipped=False, ending=False) == Skip("gone")


# --- orders ---


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["filter"]),
        ({"filter": {}}, ["filter"]),
        ({"filter": {}, "all": False}, ["filter"]),
        ({"all": "yes"}, ["all"]),
        ({"filter": {"status": "gone", "color": "red"}}, ["filter.status", "filter.color"]),
        ({"filter": {"$where": "1"}}, ["filter.$where"]),
        ({"filter": ["status"]}, ["filter"]),
        ({"ids": ["m-1"], "filter": {"type": "demo"}}, ["ids"]),
        ({"ids": []}, ["ids"]),
        ({"ids": [{"$ne": 1}]}, ["ids"]),
        ({"ids": ["m-1"] * 10_001}, ["ids"]),
        ({"all": True, "speed": 3}, ["speed"]),
        ({"all": True, "canary": 5}, ["canary"]),
        ({"all": True, "canary": {"size": 0}}, ["canary.size"]),
        ({"all": True, "canary": {"size": 5, "minSuccess": 6}}, ["canary.minSuccess"]),
        ({"all": True, "canary": {"size": 5, "min": 6}}, ["canary.min"]),
        ({"all": True, "ratePerSecond": 0}, ["ratePerSecond"]),
        ({"all": True, "ratePerSecond": float("nan")}, ["ratePerSecond"]),
        ({"all": True, "ratePerSecond": True}, ["ratePerSecond"]),
        ({"all": True, "maxFailures": -1, "maxFailureRate": 2, "limit": 0}, ["maxFailures", "maxFailureRate", "limit"]),
        ({"all": True, "scheduledAt": "tomorrow"}, ["scheduledAt"]),
        ({"all": True, "name": "x" * 201, "reason": "\0"}, ["name", "reason"]),
        ({"all": True, "reason": "\ud800"}, ["reason"]),
    ],
)
def test_an_invalid_order_is_rejected_with_every_problem(body: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(RequestInvalid) as caught:
        BatchOrder.parse(body)

    assert sorted(entry["field"] for entry in caught.value.errors) == sorted(fields)


def test_an_order_is_read_from_json() -> None:
    order = BatchOrder.parse(
        {
            "filter": {"errorType": ["TIMEOUT_ERROR"], "status": "dlq_failed"},
            "dryRun": True,
            "name": "bank is back",
            "ratePerSecond": 2.5,
            "canary": {"size": 5},
            "maxFailures": 0,
            "maxFailureRate": 0.25,
            "limit": 10,
            "scheduledAt": "2026-11-24T20:00:00+01:00",
        }
    )

    assert order.criteria is not None
    assert order.criteria.statuses == ("dlq_failed",)
    assert order.canary == Canary(5, 5)
    assert (order.max_failures, order.max_failure_rate, order.limit) == (0, 0.25, 10)
    assert order.scheduled_at is not None
    assert order.scheduled_at.isoformat() == "2026-11-24T19:00:00+00:00"
    assert BatchOrder.parse({"ids": ["m-1", "m-1", "m-2"]}).ids == ("m-1", "m-2")
    everything = BatchOrder.parse({"all": True})
    assert everything.criteria is not None
    assert everything.criteria.is_empty


@given(
    st.none() | st.integers(0, 30), st.none() | st.sampled_from([0, 0.01, 0.1, 0.3, 0.5, 0.9, 1]), st.integers(1, 300),
    st.randoms(use_true_random=False),
)  # fmt: skip
def test_no_more_letters_fail_than_the_dry_run_reported(
    most: int | None, rate: float | None, total: int, dice: Any
) -> None:
    """Letters end in any order, and as badly as they can: from some point on all of them fail."""
    good, ended, failed, taken = dice.randint(0, total), 0, 0, 0
    while ended < total:
        now = view(
            max_failures=most, max_failure_rate=rate, total=total, next_seq=taken, under_way=taken - ended,
            counts=counts(ended - failed, failed),
        )  # fmt: skip
        move = batch_rules.next_move(now)
        if move is not None and move.to is Stage.STOPPED:
            failed, ended = failed + taken - ended, total
            break
        taken += batch_rules.allowance(now)
        for _ in range(dice.randint(1, taken - ended)):
            failed += ended >= good
            ended += 1

    reported = batch_rules.failures_at_most(total, most, rate)
    assert failed <= (total if reported is None else reported)
