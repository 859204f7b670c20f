"""The quantities with a target: what is run for them, and the table of what came out.

A ratio is the median of the ratios of the same round, so that a host whose speed drifts between rounds changes it
little. Its range over the rounds follows it.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .report import line, number

#: (series, round)
_Round = tuple[int, int]
_BULL, _FASTIFY = "express-bull", "fastify-bullmq"


def _memory(row: Mapping[str, Any]) -> float | None:
    return row["memory_mb"]["all"] if "memory_mb" in row else None


@dataclass(frozen=True)
class Target:
    """One row of the table. Without ``peer`` the quantity is ours itself, not a ratio."""

    quantity: str
    measure: str
    condition: str
    ours: str
    peer: str
    value: Callable[[Mapping[str, Any]], float | None]
    #: None: reported without a target.
    least: float | None = None
    aim: float | None = None
    more_is_better: bool = True
    unit: str = "/s"

    def verdict(self, figure: float) -> str:
        """What ``figure`` reaches: the aim, the least, or nothing."""
        if self.least is None or self.aim is None:
            return ""
        sign = 1 if self.more_is_better else -1
        if sign * figure >= sign * self.aim:
            return "yes, and the aim"
        return "yes" if sign * figure >= sign * self.least else "**missed**"


def _field(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda row: row.get(name)


_messages, _processed = _field("messages_per_s"), _field("processed_per_s")


def _intake(quantity: str, ours: str, peer: str, connections: int, *limits: float) -> Target:
    condition = f"{connections} connections"
    return Target(quantity, "intake", condition, ours, peer, _messages, *limits)


def _p99(connections: int) -> Target:
    quantity, condition = f"p99 at {connections} connections, share of Express + Bull's", f"{connections} connections"
    return Target(quantity, "intake", condition, "ours", _BULL, _field("p99_ms"), 0.5, 0.5, False, " ms")


TARGETS = (
    *(_intake(f"intake, {n} connections, to Express + Bull", "ours", _BULL, n, 1.5, 2.5) for n in (32, 64)),
    *(_p99(n) for n in (32, 64)),
    *(_intake(f"intake, {n} connections, to Fastify + BullMQ", "ours", _FASTIFY, n, 0.7, 1.0) for n in (32, 64)),
    *(_intake(f"one web process, {n} connections, to Express + Bull", "ours-w1", _BULL, n) for n in (32, 64)),
    _intake("batches of 100, to Express + Bull's single messages", "ours-batch100", _BULL, 32, 5, 8),
    Target("processed while accepting, to Express + Bull", "e2e", "", "ours", _BULL, _processed, 1.2, 1.7),
    Target("no-op drain, one process, to Bull at 10", "drain", "", "ours-c10", "bull-c10", _messages, 2, 3),
    Target("dead letters, to Bull + Mongoose", "fail", "", "ours-c10", "bull-c10", _messages, 4, 6),
    Target("replay batch beside 220 000 letters", "replay", "", "ours", "", _field("letters_per_s"), 2000, 3000),
    Target("worker, 10 in flight, after the drain", "drain", "", "ours-c10", "", _memory, 70, 60, False, " MiB"),
)
#: In this order: the measure that fills the database is the last one.
MEASURES = ("intake", "e2e", "drain", "fail", "replay")


def needed(measure: str, contestant: str, condition: str) -> bool:
    """Whether a target compares this measurement."""
    return any(
        (each.measure, each.condition) == (measure, condition) and contestant in (each.ours, each.peer)
        for each in TARGETS
    )


def costs(rows: Iterable[Mapping[str, Any]]) -> str:
    """CPU time per message of each side, ours and the peer's, as a Markdown table: where the time goes."""
    sides = ("contestant_us", "redis_us", "mongod_us")
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if "failed" not in row and all(side in row for side in sides):
            found[row["measure"], row["condition"], row["contestant"]].append(row)
    lines = [line(["µs per message", "its processes", "Redis", "mongod", "sum"]), line(["---"] * 5)]
    for (measure, condition, contestant), group in found.items():
        used = [statistics.median(row[side] for row in group) for side in sides]
        name = ", ".join(part for part in (measure, condition, contestant) if part)
        lines.append(line([name, *(number(each) for each in (*used, sum(used)))]))
    return "\n".join(lines) + "\n"


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """The targets as a Markdown table, with what is missed or not measured named below it."""
    by_round: dict[tuple[str, str, str], dict[_Round, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        if "failed" not in row and row["measure"] in MEASURES:
            where = row["measure"], row["condition"], row["contestant"]
            by_round[where][row.get("series", 0), row["round"]] = row
    lines = [line(["quantity", "ours", "peer", "median (range), rounds", "at least", "aim", "met"]), line(["---"] * 7)]
    misses = []
    for target in TARGETS:
        cells, verdict = _row(target, by_round)
        lines.append(line(cells))
        if verdict not in ("", "yes", "yes, and the aim"):
            misses.append(f"{target.quantity}: {cells[3] or 'not measured'}")
    if misses:
        lines += ["", "Missed or not measured:", "", *(f"- {miss}" for miss in misses)]
    return "\n".join(lines) + "\n"


def _row(
    target: Target, by_round: Mapping[tuple[str, str, str], Mapping[_Round, Mapping[str, Any]]]
) -> tuple[list[str], str]:
    ours = _values(target, by_round.get((target.measure, target.condition, target.ours), {}))
    peer = _values(target, by_round.get((target.measure, target.condition, target.peer), {}))
    figures = pairwise(ours, peer) if target.peer else sorted(ours.values())
    suffix = "x" if target.peer else ""
    limits = [
        f"{number(limit)}{suffix or target.unit}" if limit is not None else "" for limit in (target.least, target.aim)
    ]
    if target.least is not None and not target.more_is_better:
        limits = [f"at most {limit}" for limit in limits]
    if not figures:
        verdict = "**not measured**"
        return [target.quantity, _middle(ours, target.unit), _middle(peer, target.unit), "", *limits, verdict], verdict
    middle = statistics.median(figures)
    verdict = target.verdict(middle)
    spread = f"{number(middle)}{suffix or target.unit} ({number(figures[0])}-{number(figures[-1])}), {len(figures)}"
    return [target.quantity, _middle(ours, target.unit), _middle(peer, target.unit), spread, *limits, verdict], verdict


def _values(target: Target, rows: Mapping[_Round, Mapping[str, Any]]) -> dict[_Round, float]:
    values = {where: target.value(row) for where, row in rows.items()}
    return {where: value for where, value in values.items() if value is not None}


def pairwise(ours: Mapping[_Round, float], peer: Mapping[_Round, float]) -> list[float]:
    """Ratios of ours to the peer in the rounds that both have, sorted."""
    return sorted(ours[where] / peer[where] for where in ours.keys() & peer.keys() if peer[where] > 0)


def _middle(values: Mapping[_Round, float], unit: str) -> str:
    return f"{number(statistics.median(values.values()))}{unit}" if values else ""
