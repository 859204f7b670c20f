"""Turns recorded rows into Markdown: medians with their range, and ratios of ours to the peers in the same round."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]

#: measure: (field, unit, is more better)
_MAIN = {
    "intake": ("messages_per_s", "messages/s", True),
    "drain": ("messages_per_s", "messages/s", True),
    "io": ("messages_per_s", "messages/s", True),
    "fail": ("messages_per_s", "dead letters/s", True),
    "e2e": ("processed_per_s", "processed/s", True),
    "idle": ("p50_ms", "ms", False),
    "payload": ("messages_per_s", "messages/s", True),
    "waiting": ("messages_per_s", "messages/s", True),
    "replay": ("letters_per_s", "letters/s", True),
    "soak": ("last_mb", "MiB of the worker", False),
}
_MORE = (
    "p50_ms", "p99_ms", "sent_p50_ms", "sent_p99_ms", "rps", "backlog", "contestant_us", "redis_us",
    "mongod_us", "startup_s", "beside", "first_mb", "redis_bytes_per_message", "redis_kept_bytes_per_message",
    "mongodb_bytes_per_letter", "neighbours",
)  # fmt: skip
_TITLES = {
    "p50_ms": "p50 ms", "p99_ms": "p99 ms", "sent_p50_ms": "from sending: p50", "sent_p99_ms": "p99",
    "rps": "requests/s",
    "contestant_us": "its CPU µs", "redis_us": "Redis µs", "mongod_us": "mongod µs", "startup_s": "start-up s",
    "beside": "beside letters", "first_mb": "at first, MiB", "redis_bytes_per_message": "Redis, bytes a message",
    "redis_kept_bytes_per_message": "after expiry", "mongodb_bytes_per_letter": "MongoDB, bytes a letter",
}  # fmt: skip


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The rows of these files; ``series`` numbers the series, since each counts its rounds from 0."""
    rows: list[dict[str, Any]] = []
    series = 0
    for path in paths:
        for text in path.read_text().splitlines():
            row = json.loads(text)
            series += row["measure"] == "about"
            rows.append({"series": series} | row)
        series += 1
    return rows


def markdown(rows: Iterable[Mapping[str, Any]]) -> str:
    """One table per measure, contestants in order of appearance, ours first."""
    by_measure: dict[str, dict[tuple[str, str], list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    failed = []
    about = []
    for row in rows:
        if row["measure"] == "about":
            about.append(
                ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("measure", "series"))
            )
        elif "failed" in row:
            failed.append(row)
        else:
            by_measure[row["measure"]][row["condition"], row["contestant"]].append(row)
    parts = about + [_table(measure, table) for measure, table in by_measure.items()]
    parts += [f"Failed: {row['measure']} {row['contestant']}: {row['failed'].splitlines()[0]}" for row in failed]
    return "\n\n".join(parts) + "\n"


def _table(measure: str, rows: Rows) -> str:
    main, unit, _ = _MAIN[measure]
    more = [name for name in _MORE if name != main and any(name in row for group in rows.values() for row in group)]
    memory = any("memory_mb" in row for group in rows.values() for row in group)
    titles = [_TITLES.get(name, name) for name in more] + ["memory MiB"] * memory
    head = ["contestant", unit, "min..max", "ours is", *titles]
    lines = [f"### {measure}", "", line(head), line(["---"] * len(head))]
    for (condition, contestant), group in sorted(rows.items(), key=lambda each: (each[0][0], not _is_ours(each[0][1]))):
        values = [row[main] for row in group]
        cells = [
            f"{contestant} {condition}".strip(),
            number(statistics.median(values)),
            f"{number(min(values))}..{number(max(values))}",
            "" if _is_ours(contestant) else _ratio(measure, rows, condition, contestant),
            *(number(_median(group, name)) for name in more),
        ]
        lines.append(line(cells + ([number(_memory(group))] if memory else [])))
    return "\n".join(lines)


def _ratio(measure: str, rows: Rows, condition: str, peer: str) -> str:
    """Ours to this peer: median and range of the ratios of the same round.

    Ours is the contestant with the same condition and concurrency.
    """
    main, _, more_is_better = _MAIN[measure]
    ours = rows.get((condition, _rival(peer, [name for where, name in rows if where == condition and _is_ours(name)])))
    if not ours:
        return ""
    if measure == "idle":
        return ""  # a median of 0 is possible
    theirs = {(row["series"], row["round"]): row[main] for row in rows[condition, peer]}
    rounds = [(row[main], theirs.get((row["series"], row["round"]))) for row in ours]
    ratios = sorted(mine / other if more_is_better else other / mine for mine, other in rounds if mine and other)
    return f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f}-{ratios[-1]:.2f})" if ratios else ""


def _rival(peer: str, ours: Sequence[str]) -> str:
    """The shape of ours that a peer is held against: fifty in flight against fifty, two processes against two."""
    for mark in ("50", "x2"):
        if mark in peer:
            return next((name for name in ours if mark in name), ours[0] if ours else "")
    return ours[0] if ours else ""


def _is_ours(name: str) -> bool:
    return name.startswith("ours")


def _median(group: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in group if row.get(name) is not None]
    return statistics.median(values) if values else None


def _memory(group: Sequence[Mapping[str, Any]]) -> float | None:
    return statistics.median(row["memory_mb"]["all"] for row in group if "memory_mb" in row)


def number(value: float | None) -> str:
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
