"""Which models are run within which bounds.

Bounds say how often each fault may strike. Every pair of faults that can meet in one model meets in some run; all of
them at once would be too many states for a search that is meant to be repeated with every change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.batch import BatchModel
from model.claims import ClaimsModel
from model.fallback import FallbackModel
from model.lanes import LaneModel
from model.message import MessageModel
from model.replay import ReplayModel
from model.search import Model

Bounds = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Suite:
    """One model with its runs: ``narrow`` ones take a second or two each, ``wide`` ones go further."""

    model: Callable[..., Model[Any]]
    guards: tuple[str, ...]
    narrow: tuple[Bounds, ...]
    wide: tuple[Bounds, ...] = ()


SUITES: Mapping[str, Suite] = {
    "message": Suite(
        MessageModel,
        MessageModel.guards,
        narrow=(
            {"lost_wakeups": 1, "doubled_wakeups": 1, "pauses": 1, "lost_answers": 1, "deferrals": 1},
            {"doubled_wakeups": 1, "kills": 3, "pauses": 1},
            {"requests": 2, "kills": 1, "late_writes": 1, "expiries": 1},
        ),
        wide=(
            {"requests": 3, "kills": 1, "lost_answers": 1, "late_writes": 1, "expiries": 1},
            {"requests": 2, "lost_wakeups": 1, "kills": 2, "pauses": 1, "deferrals": 1},
        ),
    ),
    "lanes": Suite(
        LaneModel,
        LaneModel.guards,
        narrow=(
            {"messages": 3, "lost": 1, "deferrals": 1},
            {"messages": 2, "lost": 1, "doubled": 1, "paused": 1, "deferrals": 1},
            {"messages": 2, "busy": True, "lost": 1, "doubled": 1, "deferrals": 1},
        ),
        wide=(
            {"messages": 3, "lost": 1, "late": 1, "deferrals": 1},
            {"messages": 2, "lost": 1, "doubled": 1, "paused": 1, "deferrals": 2},
        ),
    ),
    "claims": Suite(
        ClaimsModel,
        ClaimsModel.guards,
        narrow=({},),
        wide=({"lost_answers": 1}, {"strays": 1}, {"pauses": 1}),
    ),
    "replay": Suite(
        ReplayModel,
        ReplayModel.guards,
        narrow=(
            {"kills": 1, "lost_answers": 1},
            {"kills": 1, "late_requests": 1},
            {"kills": 1, "days": 1, "accepted_again": 1, "purges": 1},
            {"forced": 1, "days": 2, "late_requests": 1},
            {"clicks": 2, "lost_answers": 1, "late_requests": 1},
        ),
        wide=(
            {"lost_answers": 1, "late_requests": 1, "early_sweeps": 1},
            {"kills": 1, "late_requests": 1, "refusals": 1},
            {"late_requests": 1, "days": 1, "accepted_again": 1, "purges": 1},
            {"clicks": 3, "forced": 1, "kills": 1, "days": 1},
        ),
    ),
    "fallback": Suite(
        FallbackModel,
        FallbackModel.guards,
        narrow=({}, {"kills": 1}, {"clicks": 2, "kills": 1}),
    ),
    "batch": Suite(
        BatchModel,
        BatchModel.guards,
        narrow=(
            {"kills": 1, "lost_answers": 1},
            {"pauses": 2, "trips": 1},
            {"kills": 1, "cancels": 1},
            {"canary": False, "max_failures": 0},
            {"plan": ((1, 0),), "canary": False, "by_hand": True, "late_claims": 1, "early_sweeps": 1},
            {"by_hand": True},
        ),
        wide=(
            {"kills": 1, "pauses": 1, "trips": 1},
            {"pauses": 1, "trips": 1, "cancels": 1},
            {"kills": 1, "canary": False, "max_failures": 0},
            {"plan": ((1, 0),), "canary": False, "by_hand": True, "kills": 1, "cancels": 1, "early_sweeps": 1},
            {"plan": ((1, 0),), "canary": False, "by_hand": True, "kills": 1, "lost_answers": 1, "late_claims": 1},
            {"plan": ((1, 0), (2, 0)), "canary": False, "kills": 1, "lost_answers": 1},
            {"plan": ((1, 0), (2, 0)), "canary": False, "kills": 1, "by_hand": True},
        ),
    ),
}
