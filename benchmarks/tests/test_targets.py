"""The table of targets: what is compared with what, and what counts as met."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import ours, peers, series, targets


def _row(measure: str, contestant: str, condition: str, round: int, **figures: Any) -> dict[str, Any]:
    return {"measure": measure, "contestant": contestant, "condition": condition, "round": round, **figures}


def _drain(round: int, our_rate: float, peer_rate: float) -> list[dict[str, Any]]:
    memory = {"memory_mb": {"all": 65.0}}
    return [
        _row("drain", "ours-c10", "", round, messages_per_s=our_rate, **memory),
        _row("drain", "bull-c10", "", round, messages_per_s=peer_rate, **memory),
    ]


def _line(table: str, quantity: str) -> str:
    return next(line for line in table.splitlines() if line.startswith(f"| {quantity}"))


def test_a_ratio_is_the_median_of_the_ratios_of_the_same_round() -> None:
    # By medians it would be 3000 / 1000; round by round it is 2.5, 2 and 30.
    rows = [*_drain(0, 2500, 1000), *_drain(1, 4000, 2000), *_drain(2, 3000, 100)]
    line = _line(targets.table(rows), "no-op drain")
    assert "2.5x (2.0-30.0), 3" in line
    assert line.endswith("| yes |")


@pytest.mark.parametrize(
    ("our_rate", "met"), [(1999, "**missed**"), (2000, "yes"), (2999, "yes"), (3000, "yes, and the aim")]
)
def test_what_counts_as_met(our_rate: float, met: str) -> None:
    assert _line(targets.table(_drain(0, our_rate, 1000)), "no-op drain").endswith(f"| {met} |")


def test_less_memory_is_better() -> None:
    line = _line(targets.table(_drain(0, 1, 1)), "worker, 10 in flight")
    assert "at most 70.0 MiB" in line
    assert line.endswith("| yes |")


def test_a_quantity_without_a_round_of_both_is_not_measured() -> None:
    failed = _row("drain", "bull-c10", "", 0, failed="did not start")
    table = targets.table([_drain(0, 2500, 1000)[0], failed])
    assert _line(table, "no-op drain").endswith("| **not measured** |")
    assert "- no-op drain, one process, to Bull at 10: not measured" in table


def test_rounds_of_two_series_are_not_mixed() -> None:
    first = [row | {"series": 0} for row in _drain(0, 2000, 1000)]
    second = [row | {"series": 1} for row in _drain(0, 4000, 1000)]
    assert "3.0x (2.0-4.0), 2" in _line(targets.table([*first, *second]), "no-op drain")


def test_each_target_names_contestants_that_take_part() -> None:
    known = {
        "intake": (*ours.INTAKES, *peers.INTAKES),
        "drain": (*ours.CONSUMERS, *peers.CONSUMERS),
        "fail": (*ours.CONSUMERS, *peers.CONSUMERS),
        "e2e": (*ours.SYSTEMS, *peers.SYSTEMS),
        "replay": ours.SYSTEMS,
    }
    assert set(targets.MEASURES) == {each.measure for each in targets.TARGETS} <= set(series.MEASURES)
    for target in targets.TARGETS:
        names = {each.name for each in known[target.measure]}
        assert {target.ours, target.peer} - {""} <= names, target.quantity
