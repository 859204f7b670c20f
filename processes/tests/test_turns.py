"""A repeated task survives its errors, and an outage is logged once."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from processes.turns import OutageLog, Turns
from wire.errors import StoreUnavailable

log = logging.getLogger(__name__)


def turns(*results: float | Exception) -> Turns:
    left = iter(results)

    def task() -> float:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return result

    outage = OutageLog(log, "store_away", "store_back", part="test")
    return Turns(task, outage, broken="broken", min_pause_s=0.5, max_pause_s=1.5)


def pauses(turn: Callable[[], float], count: int) -> list[float]:
    return [turn() for _ in range(count)]


def test_the_pause_after_an_error_doubles_up_to_its_maximum_and_starts_again() -> None:
    away = StoreUnavailable("silent")

    assert pauses(turns(7, away, away, away, away, 3, away).turn, 7) == [7, 0.5, 1, 1.5, 1.5, 3, 0.5]


def test_an_outage_is_logged_once_when_it_begins_and_once_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, __name__):
        pauses(turns(0, StoreUnavailable("silent"), StoreUnavailable("other"), 0, 0).turn, 5)

    assert [(record.message, record.levelname) for record in caplog.records] == [
        ("store_away", "WARNING"),
        ("store_back", "INFO"),
    ]
    assert vars(caplog.records[0])["why"] == "silent"
    assert vars(caplog.records[1])["part"] == "test"


def test_any_other_error_is_logged_with_its_stack_and_the_task_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    assert pauses(turns(ValueError("a bug"), 0).turn, 2) == [1, 0]

    (record,) = caplog.records
    assert (record.message, vars(record)["part"]) == ("broken", "test")
    assert record.exc_info
