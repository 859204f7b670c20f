"""Progress of a replay batch: stages, bar, speed and failure budget. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dlq_app.domain.replay_batch import (
    CANARY_FAILED,
    FAILED_NEW,
    FAILED_SAME,
    FINAL,
    MIN_JUDGED,
    SENDING,
    SUCCEEDED,
    ReplayBatch,
    Stage,
)

#: Width of a bar's drawing.
_WIDE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of the progress: ``done``, ``now``, ``todo`` or ``bad``."""

    name: str
    state: str
    icon: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of the progress bar."""

    tone: str
    x: float
    width: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    tone: str
    icon: str
    label: str
    count: int


def share(part: int, whole_number: int) -> float:
    """Percentage; 100 only if all are done or the total is 0."""
    if not whole_number:
        return 100.0
    percent = 100 * part / whole_number
    return min(percent, 99.9) if part < whole_number else 100.0


def parts(total: int, outcomes: Mapping[str, int], in_flight: int) -> list[Part]:
    """Segments of the progress bar, 1000 units wide."""
    amounts = [
        ("ok", outcomes.get(SUCCEEDED, 0)),
        ("bad", outcomes.get(FAILED_SAME, 0) + outcomes.get(FAILED_NEW, 0)),
        ("busy", in_flight),
        ("mute", outcomes.get("skipped", 0)),
    ]
    found, at = [], 0.0
    for tone, amount in amounts:
        if amount and total:
            # A small share stays visible.
            width = min(max(_WIDE * amount / total, 4.0), _WIDE - at)
            found.append(Part(tone=tone, x=round(at, 1), width=round(width, 1)))
            at += width
    return found


def tallies(outcomes: Mapping[str, int], skipped: int, in_flight: int, waiting: int) -> list[Tally]:
    """Number of letters by outcome, in flight and waiting."""
    return [
        Tally(tone="ok", icon="check", label="Succeeded", count=outcomes.get(SUCCEEDED, 0)),
        Tally(tone="bad", icon="x", label="Failed the same", count=outcomes.get(FAILED_SAME, 0)),
        Tally(tone="bad", icon="octx", label="Failed, new error", count=outcomes.get(FAILED_NEW, 0)),
        Tally(tone="", icon="skip", label="Skipped", count=skipped),
        Tally(tone="busy", icon="spin", label="In flight", count=in_flight),
        Tally(tone="", icon="clock", label="Remaining", count=waiting),
    ]


def speed(batch: ReplayBatch, now: datetime) -> float | None:
    """Letters sent per second since the start, including pauses."""
    if batch.started_at is None or not batch.counts.sent:
        return None
    seconds = ((batch.finished_at or now) - batch.started_at).total_seconds()
    return batch.counts.sent / seconds if seconds >= 1 else None


def time_left(batch: ReplayBatch, waiting: int, speed: float | None) -> timedelta | None:
    """Remaining time at this speed; None if unknown."""
    pace = batch.rate_per_second or speed
    if batch.stage not in SENDING or not pace or not waiting:
        return None
    return timedelta(seconds=waiting / pace)


def steps(batch: ReplayBatch, now: datetime, left: timedelta | None) -> list[Step]:
    """The steps in order."""
    reached = _reached(batch)
    found = [
        Step(
            name="Planned",
            state="now" if reached == "planned" else "done",
            icon="clock" if reached == "planned" else "check",
            text=f"{batch.total:,} letters frozen",
        )
    ]
    if batch.canary:
        found.append(_canary_step(batch, reached))
    running = {"planned": "todo", "canary": "todo", "running": "now"}.get(reached, "done")
    if batch.stop_reason == CANARY_FAILED:
        running = "todo"
    words = f"{batch.rate_per_second:g} a second maximum" if batch.rate_per_second else "as fast as possible"
    is_paused = batch.stage is Stage.PAUSED and reached == "running"
    found.append(
        Step(
            name="Paused" if is_paused else "Running",
            state=running,
            icon="pause" if is_paused else {"done": "check", "now": "spin"}.get(running, ""),
            text="waiting to continue" if is_paused else words,
        )
    )
    found.append(_last_step(batch, now, left))
    return found


def _reached(batch: ReplayBatch) -> str:
    stage = batch.resume_to if batch.stage is Stage.PAUSED and batch.resume_to else batch.stage
    return "final" if stage in FINAL else stage.value


def _canary_step(batch: ReplayBatch, reached: str) -> Step:
    canary = batch.canary
    size, least = (canary.size, canary.min_success) if canary else (0, 0)
    if batch.stop_reason == CANARY_FAILED:
        return Step(name="Canary", state="bad", icon="octx", text=f"fewer than {least} of {size} succeeded")
    state = {"planned": "todo", "canary": "now"}.get(reached, "done")
    if batch.stage is Stage.CANCELLED and not batch.counts.sent:
        state = "todo"
    text = f"{size} first, {least} must succeed" if state != "done" else f"at least {least} of {size} succeeded"
    return Step(name="Canary", state=state, icon={"done": "check", "now": "spin"}.get(state, ""), text=text)


def _last_step(batch: ReplayBatch, now: datetime, left: timedelta | None) -> Step:
    match batch.stage:
        case Stage.FINISHED:
            return Step(name="Finished", state="done", icon="check", text="every letter has its outcome")
        case Stage.STOPPED:
            return Step(name="Stopped", state="bad", icon="octx", text="automatically")
        case Stage.CANCELLED:
            return Step(name="Cancelled", state="bad", icon="x", text="by a user")
    text = f"about {now + left:%H:%M:%S} UTC" if left else "when every letter has its outcome"
    return Step(name="Finished", state="todo", icon="", text=text)


def budget(batch: ReplayBatch) -> dict[str, Any] | None:
    """Used share of the failure budget."""
    counts = batch.counts
    if batch.max_failures is not None:
        used = _WIDE * counts.failed / max(batch.max_failures, 1)
        text = f"{counts.failed:,} failed, {batch.max_failures:,} allowed"
        most = f"more than {batch.max_failures:,}"
    elif batch.max_failure_rate is not None:
        share = counts.failed / counts.ended if counts.ended else 0.0
        used = _WIDE * share / batch.max_failure_rate if batch.max_failure_rate else _WIDE * bool(counts.failed)
        text = f"{share * 100:.3g} % failed, {batch.max_failure_rate * 100:g} % allowed"
        most = f"more than {batch.max_failure_rate * 100:g} % (once {MIN_JUDGED} have ended)"
    else:
        return None
    used = min(max(used, 0.0), float(_WIDE))
    return {
        "text": text,
        "most": most,
        "width": round(used, 1),
        "tone": "bad" if used >= _WIDE else "warn" if used > _WIDE / 2 else "ok",
        "failed": counts.failed,
        "ended": counts.ended,
    }
