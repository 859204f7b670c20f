"""The protocol's models hold within small bounds, and they would notice a guard that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from model.__main__ import main
from model.runs import SUITES, Bounds
from model.search import NEVER_ENDS, Model, Step, explore

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
NARROW = [(name, bounds) for name, suite in SUITES.items() for bounds in suite.narrow]


@pytest.mark.parametrize(("name", "bounds"), NARROW, ids=[f"{name}-{bounds}" for name, bounds in NARROW])
def test_it_holds_in_every_state_and_always_ends(name: str, bounds: Bounds) -> None:
    report = explore(SUITES[name].model(**bounds))

    assert report.violation == "", "\n".join(report.trace)
    assert report.states > 1000


@pytest.mark.parametrize(
    ("name", "guard", "bounds", "broken"),
    [
        ("message", "claim: only from queued", {"doubled_wakeups": 1}, "I4"),
        ("message", "claim: repeated with its token gives the same answer", {"lost_answers": 1}, "X1"),
        ("message", "wake again: a queued message whose wake-up is gone", {"lost_wakeups": 1}, "LIVE"),
        ("lanes", "wake again: when overtaken", {"busy": True, "lost": 1}, "LIVE"),
        ("lanes", "head: moved only by a message's newest wake-up", {"doubled": 1, "deferrals": 1}, "W1"),
        ("claims", "claim: a message lost twice goes to the lane of its own", {}, "X2"),
        ("replay", "claim: one conditional update on status and fence as read", {}, "I9"),
        ("replay", "release: only after void, also by the claimant", {"late_requests": 1}, "I6"),
        ("replay", "settle: by the outbox, never by the worker", {"kills": 1}, "LIVE"),
        ("batch", "batch: nothing beyond the canary before the verdict", {}, "B3"),
        ("batch", "batch: the breaker lifts only its own pause", {"pauses": 1, "trips": 1}, "B4"),
        ("batch", "batch: paused twice, it still knows the stage it came from", {"pauses": 1, "trips": 1}, "LIVE"),
        ("fallback", "claim: fence from the server's clock as well as from the count", {}, "I3"),
        ("fallback", "accounts: what an account lacks enters it", {}, "I10"),
    ],
)
def test_it_notices_a_guard_that_is_missing(name: str, guard: str, bounds: Bounds, broken: str) -> None:
    report = explore(SUITES[name].model(dropped=[guard], **bounds))

    assert report.violation.split()[:1] == [broken]
    assert report.trace


def test_the_page_names_every_guard_of_every_model() -> None:
    page = PAGE.read_text(encoding="utf-8")

    missing = [guard for suite in SUITES.values() for guard in suite.guards if f"`{guard}`" not in page]

    assert missing == []


class Corridor(Model[int]):
    """Rooms 0 to 5 in a row. A fault may carry one from the door to the far end, out of which there is no way."""

    name = "corridor"
    guards: ClassVar[tuple[str, ...]] = ("door",)

    def __init__(self, dropped: tuple[str, ...] = (), forbidden: int = -1, last: int = 5) -> None:
        super().__init__(dropped)
        self.forbidden = forbidden
        self.last = last

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[Step[int]]:
        if state < self.last:
            yield Step("walk", state + 1)
        if state == 1:
            yield Step("jump", 3)
        if not self.on("door") and state == 2:
            yield Step("fall", 99, fault=True)

    def violation(self, state: int) -> str:
        return "forbidden room" if state == self.forbidden else ""

    def settled(self, state: int) -> bool:
        return state == self.last


def test_the_search_finds_the_shortest_way_to_a_violation() -> None:
    report = explore(Corridor(forbidden=4))

    assert (report.violation, report.trace) == ("forbidden room", ("walk", "jump", "walk"))


def test_the_search_finds_a_state_out_of_which_there_is_no_way() -> None:
    report = explore(Corridor(dropped=("door",)))

    assert (report.violation, report.trace) == (NEVER_ENDS, ("walk", "walk", "fault: fall"))


def test_a_fault_is_no_way_out() -> None:
    class OnlyByFault(Corridor):
        def steps(self, state: int) -> Iterator[Step[int]]:
            for label, after, _ in super().steps(state):
                yield Step(label, after, fault=after == 5)

    assert explore(OnlyByFault()).violation == NEVER_ENDS


def test_the_search_refuses_to_prove_anything_when_it_stops_early() -> None:
    with pytest.raises(RuntimeError, match="smaller bounds"):
        explore(Corridor(last=500), limit=100)


def test_a_guard_that_does_not_exist_cannot_be_dropped() -> None:
    with pytest.raises(ValueError, match="no guard named"):
        Corridor(dropped=("window",))


def test_the_command_fails_when_a_guard_is_missed_by_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from model.runs import Suite

    unheard: dict[str, Any] = {"corridor": Suite(lambda dropped=(): Corridor(), ("door",), narrow=({},))}
    monkeypatch.setattr("model.__main__.SUITES", unheard)

    code = main(["--mutants"])

    assert code == 1
    assert "NOTHING" in capsys.readouterr().out


def test_the_command_shows_the_way_to_a_break(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--trace", "only 10 s after"])

    assert code == 0
    assert " 3. 1 is woken again" in capsys.readouterr().out
