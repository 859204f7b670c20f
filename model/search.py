"""Explicit-state search: every reachable state, the shortest way to a broken invariant, and whether everything ends.

The search is breadth first, so the first violation found is one with the fewest steps. Afterwards it is checked that
from every reachable state some path without any fault leads to a settled state. As long as somebody keeps making the
moves (fair scheduling), that is the promise "once faults stop, everything ends".
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Generic, NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)

NEVER_ENDS = "LIVE never ends, although no further fault happens"


class Step(NamedTuple, Generic[S]):
    """One move: what happened and the state after it. A fault is a move that nobody may rely on."""

    label: str
    after: S
    fault: bool = False


class Model(ABC, Generic[S]):
    """States are immutable and hashable. ``dropped`` names the guards that this instance does without."""

    name: ClassVar[str]
    guards: ClassVar[tuple[str, ...]]

    def __init__(self, dropped: Collection[str] = ()) -> None:
        unknown = set(dropped) - set(self.guards)
        if unknown:
            raise ValueError(f"{self.name} has no guard named {sorted(unknown)}")
        self.dropped = frozenset(dropped)

    def on(self, guard: str) -> bool:
        return guard not in self.dropped

    @abstractmethod
    def initial(self) -> S: ...

    @abstractmethod
    def steps(self, state: S) -> Iterator[Step[S]]: ...

    @abstractmethod
    def violation(self, state: S) -> str:
        """The broken invariant, or an empty string."""

    @abstractmethod
    def settled(self, state: S) -> bool:
        """True when nothing is left to do."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a search found. An empty ``violation`` means that every reachable state was seen and all of them hold."""

    states: int
    moves: int
    #: CPU seconds.
    seconds: float
    violation: str = ""
    trace: tuple[str, ...] = ()


@contextmanager
def _uncollected() -> Iterator[None]:
    """Millions of tuples and no cycle among them: the collector would look through all of them over and over."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def explore(model: Model[S], limit: int = 3_000_000) -> Report:
    """Search the whole model. Raises RuntimeError above ``limit`` states: a search that stops early proves nothing."""
    with _uncollected():
        return _explore(model, limit)


def _explore(model: Model[S], limit: int) -> Report:
    began = time.process_time()
    order: list[S] = [model.initial()]
    number: dict[S, int] = {order[0]: 0}
    came_from: list[tuple[int, str]] = [(-1, "")]
    #: For each state, those that lead to it without a fault.
    before: list[list[int]] = [[]]
    moves = 0

    def report(violation: str = "", at: int = 0) -> Report:
        trace: list[str] = []
        while at > 0:
            at, label = came_from[at]
            trace.append(label)
        return Report(len(order), moves, time.process_time() - began, violation, tuple(reversed(trace)))

    here = 0
    while here < len(order):
        state = order[here]
        violation = model.violation(state)
        if violation:
            return report(violation, here)
        for label, after, fault in model.steps(state):
            moves += 1
            there = number.get(after)
            if there is None:
                there = number[after] = len(order)
                order.append(after)
                came_from.append((here, f"fault: {label}" if fault else label))
                before.append([])
            if not fault and there != here:
                before[there].append(here)
        here += 1
        if len(order) > limit:
            raise RuntimeError(f"{model.name}: more than {limit} states; choose smaller bounds")

    stuck = _first_that_never_settles(model, order, before)
    return report() if stuck is None else report(NEVER_ENDS, stuck)


def _first_that_never_settles(model: Model[S], order: list[S], before: list[list[int]]) -> int | None:
    """Walk backwards from the settled states; whatever is not met can never get there."""
    ends = bytearray(len(order))
    to_visit = [here for here, state in enumerate(order) if model.settled(state)]
    for here in to_visit:
        ends[here] = 1
    while to_visit:
        for earlier in before[to_visit.pop()]:
            if not ends[earlier]:
                ends[earlier] = 1
                to_visit.append(earlier)
    stuck = ends.find(0)
    return None if stuck < 0 else stuck
