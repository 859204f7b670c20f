"""Runs the measurements so that they may be compared: contestants in turn, every one once per round."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine, measures, systems
from .contestants import Consumer, Field, Intake, Site, System, Work
from .measures import Row


@dataclass(frozen=True)
class Plan:
    """How much is run. A measurement during which neighbours used more than ``share`` of the machine is made
    again, up to ``tries`` times in all; the calmest counts.
    """

    rounds: int = 3
    seconds: int = 4
    connections: tuple[int, ...] = (32, 64)
    share: float = 0.15
    tries: int = 2
    idle_count: int = 100
    idle_per_second: float = 25.0
    soak_minutes: float = 20.0
    waiting: int = 100_000
    replay_letters: int = 20_000
    replay_beside: int = 220_000


@dataclass(frozen=True)
class _Turn:
    contestant: str
    condition: str
    run: Callable[[], Row]


def _turns(measure: str, site: Site, field: Field, plan: Plan) -> list[_Turn]:
    connections = plan.connections[0]
    if measure == "intake":
        return [
            _Turn(each.name, f"{number} connections", _intake(site, each, number, plan.seconds))
            for number in plan.connections
            for each in field.intakes
        ]
    if measure in _DRAINS:
        work, wanted = _DRAINS[measure]
        able = [each for each in field.consumers if wanted(each)]
        return [_Turn(each.name, "", _drain(site, each, work, plan.seconds)) for each in able]
    if measure == "e2e":
        return [_Turn(each.name, "", _both(site, each, plan)) for each in field.systems]
    if measure == "idle":
        return [_Turn(each.name, "", _idle(site, each, plan)) for each in field.systems]
    if measure == "payload":
        return [
            _Turn(each.name, f"{size} B", _intake(site, each, connections, plan.seconds, size=size))
            for size in SIZES
            for each in field.intakes
            if each.name not in _OTHER_SHAPES
        ]
    if measure == "waiting":
        return [
            _Turn(each.name, f"{count} waiting", _intake(site, each.intake, connections, plan.seconds, waiting=waiting))
            for each in field.systems
            for count in (0, plan.waiting)
            for waiting in (measures.Waiting(each.consumer, count),)
        ]
    ours = [each for each in field.systems if each.name == "ours"]
    if measure == "replay":
        return [_Turn(each.name, "", _replay(site, plan)) for each in ours]
    if measure == "soak":
        return [_Turn(each.name, "", _soak(site, each, plan)) for each in ours]
    raise ValueError(f"unknown measure {measure!r}: one of {', '.join(MEASURES)}")


def _overlapping(consumer: Consumer) -> bool:
    """One handler at a time says nothing about handlers that wait."""
    return consumer.in_flight in (10, 50)


#: measure: (what the handler does, who takes part)
_DRAINS: dict[str, tuple[Work, Callable[[Consumer], bool]]] = {
    "drain": (Work.NOOP, lambda consumer: consumer.in_flight <= 20),
    "io": (Work.SLEEP20, _overlapping),
    "fail": (Work.FAIL, lambda consumer: consumer.in_flight <= 20),
}
MEASURES = ("intake", *_DRAINS, "e2e", "idle", "payload", "waiting", "replay", "soak")
#: Payloads of ``payload``, in bytes.
SIZES = (300, 4096, 65536)
#: Not a matter of payload size.
_OTHER_SHAPES = {"ours-w1", "ours-batch100"}


def _intake(site: Site, each: Intake, connections: int, seconds: int, **more: Any) -> Callable[[], Row]:
    return lambda: measures.intake(site, each, connections=connections, seconds=seconds, **more)


def _drain(site: Site, each: Consumer, work: Work, seconds: int) -> Callable[[], Row]:
    return lambda: measures.drain(site, each, work=work, seconds=seconds)


def _both(site: Site, each: System, plan: Plan) -> Callable[[], Row]:
    return lambda: measures.both(site, each, connections=plan.connections[0], seconds=plan.seconds)


def _idle(site: Site, each: System, plan: Plan) -> Callable[[], Row]:
    return lambda: measures.idle(site, each, count=plan.idle_count, per_second=plan.idle_per_second)


def _replay(site: Site, plan: Plan) -> Callable[[], Row]:
    return lambda: systems.replay_batch(site, letters=plan.replay_letters, beside=plan.replay_beside)


def _soak(site: Site, each: System, plan: Plan) -> Callable[[], Row]:
    return lambda: systems.soak(site, each, minutes=plan.soak_minutes)


def run(
    wanted: Iterable[str],
    site: Site,
    field: Field,
    plan: Plan,
    out: Path,
    say: Callable[[str], None],
    chosen: Callable[[str, str, str], bool] = lambda measure, contestant, condition: True,
) -> int:
    """Append one JSON line per measurement to ``out``; return how many failed (recorded too, with their reason).

    ``chosen`` decides by measure, contestant and condition what is run.
    """
    failures = 0
    for measure in wanted:
        turns = _turns(measure, site, field, plan)
        turns = [turn for turn in turns if chosen(measure, turn.contestant, turn.condition)]
        for number in range(plan.rounds if measure != "soak" else 1):
            # Rotate the order, so that no contestant always follows the same neighbour.
            shift = number % len(turns) if turns else 0
            for turn in turns[shift:] + turns[:shift]:
                row = _calm(turn, plan)
                failures += "failed" in row
                about = {"measure": measure, "contestant": turn.contestant, "condition": turn.condition}
                with out.open("a") as lines:
                    lines.write(json.dumps(about | {"round": number} | row) + "\n")
                say(_line(measure, turn, row))
    return failures


def _calm(turn: _Turn, plan: Plan) -> Row:
    best: Row = {}
    for _ in range(plan.tries):
        speed = machine.speed_ms()
        try:
            row = turn.run()
        except Exception as error:
            # Recorded, and the rest of a long series goes on.
            return {"failed": f"{type(error).__name__}: {error}"}
        row |= {"speed_ms": [speed, machine.speed_ms()], "load": os.getloadavg()[0], "at": round(time.time())}
        if not best or row.get("neighbours", 0.0) < best.get("neighbours", 0.0):
            best = row
        if row.get("neighbours", 0.0) <= plan.share:
            break
    return best


_SHOWN = (
    "rps", "messages_per_s", "letters_per_s", "processed_per_s", "backlog", "p50_ms", "p99_ms", "contestant_us",
    "redis_us", "mongod_us", "neighbours", "memory_mb", "last_mb",
)  # fmt: skip


def _line(measure: str, turn: _Turn, row: Row) -> str:
    head = f"{measure:7} {turn.contestant:22} {turn.condition:15}"
    if "failed" in row:
        return f"{head} FAILED {row['failed']}"
    shown = ((name, row[name]) for name in _SHOWN if name in row)
    return head + " ".join(
        f"{name}={value:.1f}" if isinstance(value, float) else f"{name}={value}" for name, value in shown
    )
