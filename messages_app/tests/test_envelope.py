"""What a handler is told about its time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from messages_app.envelope import Message


def test_it_never_reports_negative_time_left() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    message = Message(
        id="m1", type="demo", payload=None, attempt=1, queued_at=now, deadline=now + timedelta(seconds=3),
        idempotency_key="m1",
    )  # fmt: skip

    assert message.seconds_left(now) == 3
    assert message.seconds_left(now + timedelta(minutes=1)) == 0
