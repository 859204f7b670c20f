"""What a handler is told about its time."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError, asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from messages_app.envelope import Message


def test_it_never_reports_negative_time_left() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    message = Message(
        id="m1", type="demo", payload=None, attempt=1, queued_at=now, deadline=now + timedelta(seconds=3),
        idempotency_key="m1",
    )  # fmt: skip

    assert message.seconds_left(now) == 3
    assert message.seconds_left(now + timedelta(minutes=1)) == 0


FIELDS: dict[str, Any] = {
    "id": "m1", "type": "demo", "payload": {"a": 1}, "attempt": 2, "prior_runs": 1, "source": "api",
    "priority": "high", "tags": ("eu",), "client": "key:shop", "replay_id": None, "idempotency_key": "m1",
    "metadata": {},
}  # fmt: skip


def test_a_worker_makes_the_same_message_as_the_constructor() -> None:
    queued_at, deadline = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)
    expected = Message(queued_at=queued_at, deadline=deadline, **FIELDS)

    def made() -> Message:
        ms, seconds = int(queued_at.timestamp() * 1000), deadline.timestamp()
        return Message.of_run(queued_at_ms=ms, deadline_s=seconds, **FIELDS)

    assert made() == expected
    assert repr(made()) == repr(expected)
    assert asdict(made()) == asdict(expected)
    assert copy.deepcopy(made()) == expected
    assert replace(made(), attempt=3) == replace(expected, attempt=3)
    assert made().deadline == deadline
    assert made().queued_at is not None
    assert made().seconds_left(queued_at) == 30


def test_a_handler_cannot_change_its_message_nor_ask_for_what_there_is_not() -> None:
    message = Message.of_run(queued_at_ms=0, deadline_s=0.0, **FIELDS)

    with pytest.raises(FrozenInstanceError):
        message.attempt = 5  # type: ignore[misc]
    with pytest.raises(AttributeError, match="no 'payloads'"):
        message.payloads  # type: ignore[attr-defined]  # noqa: B018
