"""Where letters and batches stand, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dlq_app.domain.replay_batch import ReplayBatch, Stage
from dlq_app.domain.standing import batch_standing, person, standing
from dlq_app.store.batches import batch_from
from dlq_app.testing import NOON, a_letter


def entry(what: str, who: str = "user:olga") -> dict[str, Any]:
    return {"at": NOON, "who": who, "what": what, "why": "secret reason"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "waits for an automatic replay"),
        ({"status": "dlq_failed"}, "has used all its automatic replays"),
        ({"status": "dlq_manual"}, "needs a decision"),
        ({"status": "dlq_manual", "history": [entry("set_aside")]}, "was set aside by olga at 24 Nov 12:00:00 UTC"),
        ({"status": "dlq_processing"}, "is being replayed for the system"),
        (
            {"status": "dlq_processing", "replay": {"by": "key:shop", "lockedAt": NOON}},
            "is being replayed for the API key shop since 24 Nov 12:00:00 UTC",
        ),
        (
            {"status": "dlq_resolved", "resolution": "resolved_by_hand", "history": [entry("resolve_by_hand")]},
            "was resolved by olga at 24 Nov 12:00:00 UTC",
        ),
        (
            {"status": "dlq_resolved", "resolution": "discarded", "history": [entry("discard", "cli:root")]},
            "was discarded by root on the command line at 24 Nov 12:00:00 UTC",
        ),
        (
            {"status": "dlq_resolved", "resolution": "replayed", "resolvedAt": NOON},
            "was resolved by a replay that succeeded at 24 Nov 12:00:00 UTC",
        ),
        ({"status": "dlq_resolved", "resolution": "discarded"}, "was discarded"),
    ],
)
def test_a_letter_says_who_was_first_and_when(changes: dict[str, Any], expected: str) -> None:
    assert standing(a_letter(**changes)) == expected


def a_batch(**changes: Any) -> ReplayBatch:
    document = {"_id": "b-1", "stage": "running", "createdAt": NOON, "updatedAt": NOON, "name": "hotfix"}
    return replace(batch_from(document).batch, **changes)


@pytest.mark.parametrize(
    ("stage", "history", "expected"),
    [
        (Stage.PAUSED, [entry("paused")], "was paused by olga at 24 Nov 12:00:00 UTC"),
        (Stage.CANCELLED, [entry("paused"), entry("cancelled")], "was cancelled by olga at 24 Nov 12:00:00 UTC"),
        (Stage.STOPPED, [entry("stopped", "system")], "stopped automatically at 24 Nov 12:00:00 UTC"),
        (Stage.FINISHED, [], "has finished"),
    ],
)
def test_a_batch_says_it_too(stage: Stage, history: list[dict[str, Any]], expected: str) -> None:
    assert batch_standing(a_batch(stage=stage, history=history)) == expected


def test_actors_are_named_in_words() -> None:
    assert [person(name) for name in ("user:olga", "key:shop", "cli:ann", "system", "", "odd")] == [
        "olga", "the API key shop", "ann on the command line", "the system", "the system", "odd",
    ]  # fmt: skip
