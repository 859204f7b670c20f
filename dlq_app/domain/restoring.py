"""What becomes of letters and batches of a backup: restored ones never run anything on their own. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dlq_app.domain.replay_batch import BY_OPERATOR, SENDING, Stage
from dlq_app.domain.states import Status

Document = dict[str, Any]


def restored_letter(letter: Mapping[str, Any], *, now: datetime, is_running: bool, hold: bool) -> Document:
    """A letter of a backup as it is restored.

    A letter in a replay keeps its claim only if its message exists (``is_running``): then it gets the outcome.
    Otherwise it is not known whether the replay had an effect, so it needs a decision. ``hold``: automatic replays wait
    for a decision, too.
    """
    restored = dict(letter)
    if letter.get("status") == Status.PROCESSING and not is_running:
        restored.pop("replay", None)
        restored["replayAttempts"] = [
            {**one, "outcome": "superseded", "endedAt": now} if _is_open(one) else one
            for one in _entries(letter.get("replayAttempts"))
        ]
        why = "restored from a backup during a replay, which may have had an effect"
    elif letter.get("status") == Status.PENDING and hold:
        why = "restored from a backup with --hold"
    else:
        return restored
    entry = {"at": now, "who": "system", "what": "set_aside", "why": why}
    restored |= {"status": Status.MANUAL.value, "nextRetryAt": None, "updatedAt": now}
    restored["history"] = [*_entries(letter.get("history")), entry]
    return restored


def restored_batch(batch: Mapping[str, Any], *, now: datetime) -> Document | None:
    """A batch of a backup as it is restored: one that would send letters is paused. None: it was not planned yet."""
    stage = batch.get("stage")
    if stage == Stage.PLANNING:
        return None
    restored = dict(batch)
    if stage not in (*SENDING, Stage.PLANNED, Stage.PAUSED):
        return restored
    if stage == Stage.PLANNED:
        stage, restored["startedAt"] = (Stage.CANARY if batch.get("canary") else Stage.RUNNING), now
    if stage != Stage.PAUSED:
        restored["resumeTo"] = str(stage)
    entry = {"at": now, "who": "system", "what": Stage.PAUSED.value, "why": "restored from a backup"}
    restored |= {"stage": Stage.PAUSED.value, "pausedBy": BY_OPERATOR, "chunk": None, "nextSendAt": None}
    restored |= {"updatedAt": now, "history": [*_entries(batch.get("history")), entry]}
    return restored


def _is_open(entry: object) -> bool:
    return isinstance(entry, Mapping) and entry.get("outcome") is None


def _entries(value: object) -> list[Any]:
    return list(value) if isinstance(value, list) else []
