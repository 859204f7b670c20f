"""What one check of health found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dlq_app.domain.store_problem import StoreProblem


class Status(StrEnum):
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. ``facts`` are shown to those who may read."""

    status: Status
    detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    latency_ms: float = 0.0
    #: What is wrong, each with its fix; ``detail`` says the same in one text.
    problems: tuple[StoreProblem, ...] = ()
    #: There was no answer in time.
    is_silent: bool = False

    def wire(self) -> dict[str, Any]:
        said = {"detail": self.detail} if self.detail else {}
        return {"status": self.status.value, **said, **self.facts, "latencyMs": self.latency_ms}


def finding_of(problems: Iterable[StoreProblem], facts: Mapping[str, Any] | None = None, note: str = "") -> Finding:
    """Healthy without problems, unhealthy when one of them stops the part. ``note``: what else is to be said."""
    found = tuple(problems)
    status = Status.HEALTHY
    if found:
        status = Status.UNHEALTHY if any(problem.stops for problem in found) else Status.DEGRADED
    said = [f"{problem.what} {problem.fix}" for problem in found] + ([note] if note else [])
    return Finding(status, " ".join(said), facts or {}, problems=found)
